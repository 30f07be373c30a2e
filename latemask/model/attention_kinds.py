"""The ways in which global attention is computed: the table `model.attention`.

All are the same function to rounding: queries see the keys of their segment.
  xla      scores whole, [B, H, Q, S]
  chunked  queries in blocks, recomputed in the backward pass: memory linear in
           S. Dropout (of the kind hash) drops the same weights as xla does
  auto     by platform, length and dropout, see `choose`
Letters: B batch, Q queries, S keys, H heads, h size of a head, C queries of a
block.
"""

import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from latemask.model import products
from latemask.runtime import rng

# Queries of a block of `chunked`, at most.
_QUERIES = 256
# Fewer scores of a row and head are computed whole by `auto`.
_SHORT = 1024 * 1024


def xla(q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS, drop):
  """Returns what each query mixes of the values, [B, Q, H, h].

  Args:
    q_BxQxHxh: scaled already.
    segment_BxQ, segment_BxS: queries see keys where these are equal.
    drop: function of the weights, a `parts.Drop`.
  """
  scores_BxHxQxS = products.einsum(
      "bqhk,bshk->bhqs", q_BxQxHxh, k_BxSxHxh,
      preferred_element_type=jnp.float32)
  sees_Bx1xQxS = (segment_BxQ[:, None, :, None]
                  == segment_BxS[:, None, None, :])
  # Finite, so that a row that sees nothing (a filler) stays finite too.
  scores_BxHxQxS = jnp.where(sees_Bx1xQxS, scores_BxHxQxS, -1e30)
  weights_BxHxQxS = jax.nn.softmax(scores_BxHxQxS).astype(v_BxSxHxh.dtype)
  return products.einsum(
      "bhqs,bshk->bqhk", drop(weights_BxHxQxS), v_BxSxHxh)


def chunked(q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS, drop):
  """Returns the same as `xla`, in blocks of equally many queries."""
  queries = q_BxQxHxh.shape[1]
  count = -(-queries // _QUERIES)
  if count == 1:
    return xla(q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS, drop)
  size = -(-queries // count)
  # The gradients of keys and values are summed up over the blocks: in float32,
  # as one product would.
  wide = [x.astype(jnp.float32) for x in (k_BxSxHxh, v_BxSxHxh)]

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def attend(start, q_BxCxHxh, segment_BxC, wide):
    k, v = (x.astype(q_BxCxHxh.dtype) for x in wide)
    return xla(q_BxCxHxh, k, v, segment_BxC, segment_BxS, functools.partial(
        drop, part=rng.Part(2, start, queries)))

  def step(_, block):
    return None, attend(*block, wide)

  _, mixed_NxBxCxHxh = jax.lax.scan(step, None, (
      size * jnp.arange(count), _blocks(q_BxQxHxh, count, size),
      _blocks(segment_BxQ, count, size)))
  mixed = jnp.moveaxis(mixed_NxBxCxHxh, 0, 1)
  # Kept where layers are recomputed: else the blocks would run once more.
  return checkpoint_name(mixed.reshape(
      mixed.shape[0], count * size, *mixed.shape[3:])[:, :queries], "mixed")


def _blocks(x_BxQx, count, size):
  """[B, Q, ...] -> [N, B, C, ...]; what is filled up is read by nobody."""
  fill = [(0, 0)] * x_BxQx.ndim
  fill[1] = (0, count * size - x_BxQx.shape[1])
  x = jnp.pad(x_BxQx, fill)
  return jnp.moveaxis(
      x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)


def choose(queries, keys):
  """Returns the name of the kind that `auto` takes."""
  return "xla" if queries * keys < _SHORT else "chunked"


def _auto(q_BxQxHxh, k_BxSxHxh, *others):
  kind = choose(q_BxQxHxh.shape[1], k_BxSxHxh.shape[1])
  return KINDS[kind](q_BxQxHxh, k_BxSxHxh, *others)


KINDS = {"xla": xla, "chunked": chunked, "auto": _auto}
