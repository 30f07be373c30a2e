"""Global attention in blocks of queries: `chunked`, on any platform.

Of a block all scores are there at once, of the others none: memory is linear in
the length. The backward pass computes the scores of a block once more, and its
weights from them with what normalised them before, so that a softmax and its
gradient are not gone through again. Source: FlashAttention (Dao et al., arXiv
2205.14135, appendix B.2), with blocks of queries alone. Letters:
attention_kinds.py, and N blocks.
"""

import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from latemask.model import parts
from latemask.model import products
from latemask.runtime import rng

# Queries of a block, at most.
_QUERIES = 256


def attend(q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS, drop):
  """Returns what each query mixes of the values, [B, Q, H, h].

  Args:
    q_BxQxHxh: scaled already.
    segment_BxQ, segment_BxS: queries see keys where these are equal.
    drop: function of the weights, a `parts.Drop`. Of the generator hash it
      drops the weights that it would of whole scores.
  """
  return _attend(drop.rate, q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ,
                 segment_BxS, drop.key)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(rate, *arrays_and_key):
  return _forward(rate, *arrays_and_key)[0]


def _forward(rate, q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS,
             key):
  queries = q_BxQxHxh.shape[1]

  # Else a loop over layers would keep, of all blocks at once, what is the same
  # in every layer: who sees whom, and random bits.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def step(_, block):
    start, q_BxCxHxh, segment_BxC = block
    scores_BxHxCxS = parts.scores(
        q_BxCxHxh, k_BxSxHxh, segment_BxC, segment_BxS)
    largest_BxHxCx1 = scores_BxHxCxS.max(-1, keepdims=True)
    weights_BxHxCxS = jnp.exp(scores_BxHxCxS - largest_BxHxCx1)
    scale_BxHxCx1 = 1 / weights_BxHxCxS.sum(-1, keepdims=True)
    mixed_BxCxHxh = products.einsum(
        "bhcs,bshk->bchk", _drop(rate, key, start, queries)(
            weights_BxHxCxS.astype(v_BxSxHxh.dtype)), v_BxSxHxh,
        preferred_element_type=jnp.float32)
    # Cheaper than to scale the weights: h instead of S.
    mixed_BxCxHxh *= jnp.swapaxes(scale_BxHxCx1, 1, 2)
    # An axis of 1 at the end would be padded to the 128 lanes of a TPU.
    return None, (mixed_BxCxHxh.astype(v_BxSxHxh.dtype),
                  largest_BxHxCx1[..., 0], scale_BxHxCx1[..., 0])

  _, (mixed_NxBxCxHxh, *softmax) = jax.lax.scan(
      step, None, _blocks(queries, q_BxQxHxh, segment_BxQ))
  # Kept where layers are recomputed: else the blocks would run once more.
  mixed_BxQxHxh, softmax = checkpoint_name(
      (_whole(mixed_NxBxCxHxh, queries), softmax), "mixed")
  return mixed_BxQxHxh, (q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ,
                         segment_BxS, key, softmax)


def _backward(rate, saved, d_mixed_BxQxHxh):
  (q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, segment_BxQ, segment_BxS, key,
   softmax) = saved
  queries = q_BxQxHxh.shape[1]
  wide = {"preferred_element_type": jnp.float32}

  def step(sums, block):
    (start, q_BxCxHxh, segment_BxC, d_mixed_BxCxHxh), softmax = block
    largest_BxHxCx1, scale_BxHxCx1 = (x[..., None] for x in softmax)
    dropped = _drop(rate, key, start, queries)
    weights_BxHxCxS = scale_BxHxCx1 * jnp.exp(parts.scores(
        q_BxCxHxh, k_BxSxHxh, segment_BxC, segment_BxS) - largest_BxHxCx1)
    d_weights_BxHxCxS = dropped(products.einsum(
        "bchk,bshk->bhcs", d_mixed_BxCxHxh, v_BxSxHxh, **wide))
    # It is that of mixed times its gradient, too; rounded to bfloat16 that
    # would more than double the error of the gradient of keys.
    sum_BxHxCx1 = jnp.sum(
        weights_BxHxCxS * d_weights_BxHxCxS, -1, keepdims=True)
    d_scores_BxHxCxS = jnp.where(
        parts.sees(segment_BxC, segment_BxS),
        weights_BxHxCxS * (d_weights_BxHxCxS - sum_BxHxCx1), 0
        ).astype(q_BxCxHxh.dtype)
    weights_BxHxCxS = dropped(weights_BxHxCxS.astype(v_BxSxHxh.dtype))
    # Summed over the blocks in float32, as one product would.
    sums = (
        sums[0] + products.einsum(
            "bhcs,bchk->bshk", d_scores_BxHxCxS, q_BxCxHxh, **wide),
        sums[1] + products.einsum(
            "bhcs,bchk->bshk", weights_BxHxCxS, d_mixed_BxCxHxh, **wide))
    return sums, products.einsum(
        "bhcs,bshk->bchk", d_scores_BxHxCxS, k_BxSxHxh)

  sums, d_q_NxBxCxHxh = jax.lax.scan(
      step, (jnp.zeros(k_BxSxHxh.shape), jnp.zeros(v_BxSxHxh.shape)),
      (_blocks(queries, q_BxQxHxh, segment_BxQ, d_mixed_BxQxHxh), softmax))
  d_k_BxSxHxh, d_v_BxSxHxh = sums
  return (_whole(d_q_NxBxCxHxh, queries), d_k_BxSxHxh.astype(k_BxSxHxh.dtype),
          d_v_BxSxHxh.astype(v_BxSxHxh.dtype), None, None, None)


_attend.defvjp(_forward, _backward)


def _drop(rate, key, start, queries):
  return functools.partial(
      parts.Drop(rate, key), part=rng.Part(2, start, queries))


def _blocks(queries, *arrays_BxQx):
  """Returns (start of each block, [N, B, C, ...] of each array)."""
  count = -(-queries // _QUERIES)
  size = -(-queries // count)

  def of(x_BxQx):  # What is filled up is read by nobody.
    x = parts.pad(x_BxQx, 1, count * size)
    return jnp.moveaxis(
        x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

  return size * jnp.arange(count), *map(of, arrays_BxQx)


def _whole(x_NxBxCx, queries):
  """[N, B, C, ...] -> [B, Q, ...]."""
  x = jnp.moveaxis(x_NxBxCx, 0, 1)
  return x.reshape(len(x), -1, *x.shape[3:])[:, :queries]
