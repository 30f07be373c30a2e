"""The word embedding at both ends of the model: look-up, output, gradients.

It is looked up for the kept tokens, and the targets are multiplied with it, or
with one of their own (`model.tied_output`). Of what is one parameter, jax.grad
would make two gradients of its size, reduce each over the devices, and add
them. Here both are added up in one buffer on each device, which is reduced
once. That saved 0.08 of 1.24 GiB of temporaries (base.py with roberta_prenorm,
bfloat16, 32 rows a chip of v5e:2x2; bench/README.md).
"""

import jax
import jax.numpy as jnp

from latemask.runtime import mesh

# Names of the parameters. The second is there only if the output is not tied.
INPUT, OUTPUT = "embedding", "output_embedding"


def look_up(embedding_VxD, ids_BxS):
  """Returns the word vectors of ids, [B, S, D]."""
  # Whole rows on every device of an fsdp group: a lookup in a table whose
  # rows are split would move the result about instead.
  table_VxD = mesh.constrain(embedding_VxD, "tensor", None)
  return mesh.split_batch(table_VxD[ids_BxS])


def output_name(params):
  """Returns the name of the parameter that the targets are multiplied with."""
  return OUTPUT if OUTPUT in params else INPUT


def output(params):
  """Returns what the targets are multiplied with, [V, D]."""
  return params[output_name(params)]


def per_shard(embedding_VxD):
  """Returns the embedding with an axis of batch shards, [S, V, D].

  Each device holds its own copy, as before; but the gradient has the axis
  too, so it can be added up on each device, the head's and the lookup's, and
  be reduced once.
  """
  shards = mesh.num_batch_shards()
  return mesh.constrain(
      jnp.broadcast_to(embedding_VxD, (shards, *embedding_VxD.shape)),
      mesh.BATCH_AXES, "tensor", None)


def gradient(loss_sums, params, ids_BxK):
  """Returns (gradient of the loss with respect to params, its `Sums`).

  Args:
    loss_sums: function (params, looked_up_BxKxD, output_SxVxD) ->
      `loss.Sums`, which reads either embedding through the latter two alone.
    ids_BxK: the tokens that are looked up.
  """
  name = output_name(params)

  def loss(*args):
    sums = loss_sums(*args)
    return sums.loss, sums

  (grads, grad_BxKxD, grad_SxVxD), sums = jax.grad(
      loss, argnums=(0, 1, 2), has_aux=True)(
          params, look_up(params[INPUT], ids_BxK), per_shard(params[name]))
  if name == OUTPUT:
    grads |= {OUTPUT: jnp.sum(grad_SxVxD, axis=0)}
    grad_SxVxD = jnp.zeros_like(grad_SxVxD)
  return grads | {INPUT: _add_up(grad_SxVxD, ids_BxK, grad_BxKxD)}, sums


def _add_up(grad_SxVxD, ids_BxK, grad_BxKxD):
  """Returns a gradient and what came through the look-up, [V, D]."""
  shards, _, width = grad_SxVxD.shape
  return jnp.sum(jax.vmap(lambda grad, ids, g: grad.at[ids].add(g))(
      grad_SxVxD, ids_BxK.reshape(shards, -1),
      grad_BxKxD.reshape(shards, -1, width)), axis=0)
