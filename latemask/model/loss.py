"""Cross-entropy of the language-model head, without ever holding all logits.

Logits exist for a chunk of targets at a time. The gradient is computed in the
forward pass, while a chunk's logits are there: three matrix products in all,
none repeated, where rematerialised logits would take four. Sums, never means:
they are divided once, after micro-batches and devices.
"""

import flax.struct
import jax
import jax.numpy as jnp

from latemask.model import products
from latemask.runtime import mesh


@flax.struct.dataclass
class Sums:
  """Sums over targets, float32 scalars: the loss in nats, hits, weights."""

  loss: jax.Array
  correct: jax.Array
  weight: jax.Array

  def __add__(self, other):
    return jax.tree.map(jnp.add, self, other)

  @property
  def means(self):
    """{"loss": nats per target, "accuracy": share}; 0 without targets."""
    weight = jnp.maximum(self.weight, 1)
    return {"loss": self.loss / weight, "accuracy": self.correct / weight}


def head_loss(hidden_BxTxD, embedding_SxVxD, bias_V, ids_BxT, weights_BxT,
              vocab_size, tokens, chunk=None):
  """Returns the `Sums` of softmax(hidden embedding^T + bias) against ids.

  Args:
    hidden_BxTxD: in the dtype in which logits are multiplied.
    embedding_SxVxD: a copy for each shard of the batch, see `per_shard`.
    embedding_SxVxD, bias_V: rows from `vocab_size` on are padding and get no
      probability.
    tokens: targets of a shard whose logits exist at a time, at most.
    chunk: None; or targets of a row, instead.
  """
  bias_V = jnp.where(
      jnp.arange(bias_V.shape[0]) < vocab_size, bias_V, -1e30)
  shards, given = embedding_SxVxD.shape[0], (
      hidden_BxTxD, ids_BxT, weights_BxT)
  if chunk is None:
    chunk, given = tokens, (_one_row(x, shards) for x in given)
  hidden, ids, weights = (_chunks(x, chunk, shards) for x in given)
  loss, correct = _loss(
      hidden, embedding_SxVxD, bias_V, ids, weights)
  return Sums(loss, correct, jnp.sum(weights_BxT))


def chunk_targets(num_targets, chunk):
  """Returns targets per chunk: as many chunks as `chunk` asks for, but even."""
  num_chunks = -(-num_targets // chunk)
  return -(-num_targets // num_chunks)


def _one_row(x_BxTx, shards):
  """[B, T, ...] -> [shards, rows of a shard x T, ...]."""
  return mesh.constrain(
      x_BxTx.reshape(shards, -1, *x_BxTx.shape[2:]), mesh.BATCH_AXES)


def _chunks(x_BxTx, chunk, shards):
  """[B, T, ...] -> [chunks, shards, rows of a shard x chunk, ...].

  What is lacking to even chunks is zero.

  The axis of the device shards stays an axis of its own, so that gradients of
  the embedding add up on each device and are reduced once, after the loop.
  """
  batch, targets, *rest = x_BxTx.shape
  chunk = chunk_targets(targets, chunk)
  x = jnp.pad(x_BxTx, ((0, 0), (0, -targets % chunk)) + ((0, 0),) * len(rest))
  targets = x.shape[1]
  x = x.reshape(shards, batch // shards, targets // chunk, chunk, *rest)
  x = jnp.moveaxis(x, 2, 0)
  x = x.reshape(targets // chunk, shards, batch // shards * chunk, *rest)
  return mesh.constrain(x, None, mesh.BATCH_AXES)


def _chunk_loss(hidden_SxRxD, embedding_SxVxD, bias_V, ids_SxR, weights_SxR):
  """Returns (loss sum, hit sum, logits, their log normaliser)."""
  logits_SxRxV = products.einsum(
      "srd,svd->srv", hidden_SxRxD, embedding_SxVxD,
      preferred_element_type=jnp.float32) + bias_V[None, None]
  normaliser_SxR = jax.nn.logsumexp(logits_SxRxV, axis=-1)
  target_SxR = jnp.take_along_axis(
      logits_SxRxV, ids_SxR[..., None], axis=-1)[..., 0]
  loss = jnp.sum((normaliser_SxR - target_SxR) * weights_SxR)
  # As argmax has it: the first of the largest. One pass of comparisons, where
  # an argmax would carry an index along, over all shards of the vocabulary.
  index_V = jnp.arange(bias_V.shape[0], dtype=ids_SxR.dtype)[None, None]
  hit_SxR = jnp.all(
      (target_SxR[..., None] > logits_SxRxV)
      | ((target_SxR[..., None] == logits_SxRxV)
         & (index_V >= ids_SxR[..., None])), axis=-1)
  correct = jnp.sum(hit_SxR * weights_SxR)
  return loss, correct, logits_SxRxV, normaliser_SxR


@jax.custom_vjp
def _loss(hidden, embedding_SxVxD, bias_V, ids, weights):
  embedding_SxVxD = embedding_SxVxD.astype(hidden.dtype)

  def step(sums, xs):
    loss, correct, _, _ = _chunk_loss(xs[0], embedding_SxVxD, bias_V, *xs[1:])
    return (sums[0] + loss, sums[1] + correct), None
  sums, _ = jax.lax.scan(step, (0.0, 0.0), (hidden, ids, weights))
  return sums


def _loss_forward(hidden, embedding_SxVxD, bias_V, ids, weights):
  shards = hidden.shape[1]
  embedding_SxVxD = embedding_SxVxD.astype(hidden.dtype)

  def step(carry, xs):
    sums, grad_embedding_SxVxD, grad_bias_SxV = carry
    hidden_SxRxD, ids_SxR, weights_SxR = xs
    loss, correct, logits_SxRxV, normaliser_SxR = _chunk_loss(
        hidden_SxRxD, embedding_SxVxD, bias_V, ids_SxR, weights_SxR)
    grad_SxRxV = jnp.exp(logits_SxRxV - normaliser_SxR[..., None])
    is_target_SxRxV = (
        ids_SxR[..., None]
        == jnp.arange(bias_V.shape[0], dtype=ids_SxR.dtype)[None, None])
    grad_SxRxV = (grad_SxRxV - is_target_SxRxV) * weights_SxR[..., None]
    grad_SxRxV = grad_SxRxV.astype(hidden_SxRxD.dtype)
    # A sum over rows, as a product: on CPU twenty times as fast.
    grad_bias_SxV += products.einsum(
        "srv,sr->sv", grad_SxRxV,
        jnp.ones(ids_SxR.shape, grad_SxRxV.dtype),
        preferred_element_type=jnp.float32)
    grad_embedding_SxVxD += products.einsum(
        "srv,srd->svd", grad_SxRxV, hidden_SxRxD,
        preferred_element_type=jnp.float32)
    grad_hidden_SxRxD = products.einsum(
        "srv,svd->srd", grad_SxRxV, embedding_SxVxD)
    return ((sums[0] + loss, sums[1] + correct), grad_embedding_SxVxD,
            grad_bias_SxV), grad_hidden_SxRxD

  def zeros(shape):
    return mesh.constrain(
        jnp.zeros(shape, jnp.float32), mesh.BATCH_AXES, "tensor")

  carry = ((0.0, 0.0), zeros(embedding_SxVxD.shape),
           zeros((shards, *bias_V.shape)))
  (sums, grad_embedding, grad_bias), grad_hidden = jax.lax.scan(
      step, carry, (hidden, ids, weights))
  return sums, (grad_hidden, grad_embedding, jnp.sum(grad_bias, 0))


def _loss_backward(grads, cotangents):
  grad_hidden, grad_embedding, grad_bias = grads
  scale, _ = cotangents
  return ((grad_hidden * scale).astype(grad_hidden.dtype),
          grad_embedding * scale, grad_bias * scale, None, None)


_loss.defvjp(_loss_forward, _loss_backward)
