"""Local attention: a token sees those near it in its document, in blocks.

Near is a difference of positions of at most `window` / 2. A block of that many
queries reads its own keys and those of the two blocks beside it, and an exact
mask by position leaves out what is further away: linear in S, no kernel, the
same on every platform. Three blocks suffice where tokens stand in order, each
at most once: between two of a document whose positions are p apart stand at
most p - 1 others, and fewer where some have been removed. So it holds for the
kept tokens, and for the whole row, but not for slots that are appended.

Letters: B batch, S tokens, N blocks, Q queries of a block, R keys that it
reads, H heads, h size of a head.
"""

import jax
import jax.numpy as jnp

from latemask.model import parts
from latemask.model import products


def blocks(num_tokens, window):
  """Returns (N, Q, R) of that many tokens; a short row is one block."""
  reach = window // 2
  if num_tokens <= 3 * reach:
    return 1, num_tokens, num_tokens
  return -(-num_tokens // reach), reach, 3 * reach


def mix(q_BxSxHxh, k_BxSxHxh, v_BxSxHxh, place, window, drop):
  """Returns what each token gets of the values near it, [B, S, H, h].

  Args:
    place: the `attention.Place` of the tokens, in order.
    window: tokens that one sees, half of them before it; it sees itself, too.
    drop: function of the weights; dropout.
  """
  length = q_BxSxHxh.shape[1]
  num, size, _ = blocks(length, window)

  def own(x_BxS):
    rest = [(0, 0)] * (x_BxS.ndim - 2)
    x_BxS = jnp.pad(x_BxS, [(0, 0), (0, num * size - length), *rest])
    return x_BxS.reshape(len(x_BxS), num, size, *x_BxS.shape[2:])

  def near(x_BxS):
    x_BxNxQ = own(x_BxS)
    if num == 1:
      return x_BxNxQ
    rest = [(0, 0)] * (x_BxNxQ.ndim - 2)
    x_BxNxQ = jnp.pad(x_BxNxQ, [(0, 0), (1, 1), *rest])
    return jnp.concatenate(
        [x_BxNxQ[:, :-2], x_BxNxQ[:, 1:-1], x_BxNxQ[:, 2:]], axis=2)

  scores_BxHxNxQxR = products.einsum(
      "bnqhk,bnrhk->bhnqr", own(q_BxSxHxh) * q_BxSxHxh.shape[-1] ** -0.5,
      near(k_BxSxHxh), preferred_element_type=jnp.float32)
  same_BxNxQxR = (own(place.segment_BxS)[..., :, None]
                  == near(place.segment_BxS)[..., None, :])
  apart_BxNxQxR = jnp.abs(own(place.position_BxS)[..., :, None]
                          - near(place.position_BxS)[..., None, :])
  sees_BxNxQxR = same_BxNxQxR & (apart_BxNxQxR <= window // 2)
  scores_BxHxNxQxR = parts.hide(scores_BxHxNxQxR, sees_BxNxQxR[:, None])
  weights_BxHxNxQxR = drop(
      jax.nn.softmax(scores_BxHxNxQxR).astype(q_BxSxHxh.dtype))
  mixed_BxNxQxHxh = products.einsum(
      "bhnqr,bnrhk->bnqhk", weights_BxHxNxQxR, near(v_BxSxHxh))
  return mixed_BxNxQxHxh.reshape(
      len(q_BxSxHxh), num * size, *q_BxSxHxh.shape[2:])[:, :length]
