"""The word embedding at both ends of the model: look-up, and one gradient.

It is looked up for the kept tokens and multiplied with for the targets.
jax.grad would make two gradients of its size, reduce each over the devices,
and add them. Here both are added up in one buffer on each device, which is
reduced once. That saved 0.08 of 1.24 GiB of temporaries (base.py with
roberta_prenorm, bfloat16, 32 rows a chip of v5e:2x2; bench/README.md).
"""

import jax
import jax.numpy as jnp

from latemask.runtime import mesh


def look_up(embedding_VxD, ids_BxS):
  """Returns the word vectors of ids, [B, S, D]."""
  # Whole rows on every device of an fsdp group: a lookup in a table whose
  # rows are split would move the result about instead.
  table_VxD = mesh.constrain(embedding_VxD, "tensor", None)
  return mesh.split_batch(table_VxD[ids_BxS])


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
    loss_sums: function (params, looked_up_BxKxD, embedding_SxVxD) ->
      `loss.Sums`, which reads the embedding through the latter two alone.
    ids_BxK: the tokens that are looked up.
  """
  embedding_VxD = params["embedding"]

  def loss(*args):
    sums = loss_sums(*args)
    return sums.loss, sums

  (grads, grad_BxKxD, grad_SxVxD), sums = jax.grad(
      loss, argnums=(0, 1, 2), has_aux=True)(
          params, look_up(embedding_VxD, ids_BxK), per_shard(embedding_VxD))
  return grads | {"embedding": _add_up(grad_SxVxD, ids_BxK, grad_BxKxD)}, sums


def _add_up(grad_SxVxD, ids_BxK, grad_BxKxD):
  """Returns what came through the head and the look-up, [V, D]."""
  shards, _, width = grad_SxVxD.shape
  return jnp.sum(jax.vmap(lambda grad, ids, g: grad.at[ids].add(g))(
      grad_SxVxD, ids_BxK.reshape(shards, -1),
      grad_BxKxD.reshape(shards, -1, width)), axis=0)
