"""The word embedding at both ends of the model: look-up, and one gradient."""

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


def embedding_gradient(grad_SxVxD, ids_BxK, grad_BxKxD):
  """Returns the gradient of the embedding, [V, D].

  Args:
    grad_SxVxD: what came through the head.
    ids_BxK, grad_BxKxD: the tokens that were looked up, and what came through
      them.
  """
  shards, _, width = grad_SxVxD.shape
  return jnp.sum(jax.vmap(lambda grad, ids, g: grad.at[ids].add(g))(
      grad_SxVxD, ids_BxK.reshape(shards, -1),
      grad_BxKxD.reshape(shards, -1, width)), axis=0)
