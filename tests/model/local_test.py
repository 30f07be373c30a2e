"""Local attention in blocks, against every pair of tokens by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.model import attention
from latemask.model import local

HEADS, SIZE = 2, 4


def _document_lengths(rng, length):
  while length > 0:
    one = min(int(rng.integers(1, 60)), length)
    yield one
    length -= one


def _tokens(rng, length, kept_share):
  """Returns (segment_S, position_S) of a row of which tokens are removed.

  Unused places stand behind them, and between them where a slot is gone.
  """
  segment_S, position_S = (np.concatenate(x).astype(np.int32) for x in zip(*(
      (np.full(one, i + 1), np.arange(one))
      for i, one in enumerate(_document_lengths(rng, length)))))
  kept_S = rng.random(length) < kept_share
  unused = [(0, 0)] * int(rng.integers(0, 5))
  gone_S = rng.random(length) < 0.05
  pairs = [(0, int(position)) if gone else (segment, position)
           for segment, position, kept, gone in zip(
               segment_S, position_S, kept_S, gone_S) if kept]
  return np.array(pairs + unused, np.int32).T


def _brute(q_SxHxh, k_SxHxh, v_SxHxh, segment_S, position_S, window):
  """Returns what a token gets, pair by pair, in float64."""
  out_SxHxh = np.zeros(q_SxHxh.shape)
  for i, (segment, position) in enumerate(zip(segment_S, position_S)):
    near = np.flatnonzero((segment_S == segment) & (
        np.abs(position_S - position) <= window / 2))
    for head in range(HEADS):
      scores = k_SxHxh[near, head] @ q_SxHxh[i, head] / SIZE ** 0.5
      weights = np.exp(scores - scores.max())
      out_SxHxh[i, head] = weights @ v_SxHxh[near, head] / weights.sum()
  return out_SxHxh


def _mixed(q, k, v, segment_S, position_S, window):
  place = attention.Place(segment_S[None], None, position_S[None])
  return local.mix(q[None], k[None], v[None], place, window, lambda x: x)[0]


@pytest.mark.parametrize("window", [2, 6, 16, 40])
@pytest.mark.parametrize("seed", range(4))
def test_is_every_pair(seed, window):
  """Random rows, documents, masks; rows of one block, too."""
  rng = np.random.default_rng([seed, window])
  segment_S, position_S = _tokens(
      rng, int(rng.integers(1, 200)), rng.choice([0.3, 0.7, 1.0]))
  q, k, v = (rng.normal(size=(len(segment_S), HEADS, SIZE)).astype(np.float32)
             for _ in range(3))
  found = jax.jit(_mixed, static_argnums=5)(
      q, k, v, segment_S, position_S, window)
  expected = _brute(*(x.astype(np.float64) for x in (q, k, v)), segment_S,
                    position_S, window)
  real_S = segment_S > 0
  np.testing.assert_allclose(found[real_S], expected[real_S], atol=1e-5)
  assert np.isfinite(found).all()


def test_gradients_are_those_of_a_mask():
  """Against attention over all keys with the mask added."""
  rng = np.random.default_rng(0)
  segment_S, position_S = _tokens(rng, 90, 0.6)
  q, k, v, weights = (
      rng.normal(size=(len(segment_S), HEADS, SIZE)).astype(np.float32)
      for _ in range(4))
  weights *= (segment_S > 0)[:, None, None]
  sees_SxS = (segment_S[:, None] == segment_S) & (
      np.abs(position_S[:, None] - position_S) <= 5)

  def whole(q, k, v):
    scores = jnp.einsum("qhd,khd->hqk", q, k) / SIZE ** 0.5
    shares = jax.nn.softmax(jnp.where(sees_SxS[None], scores, -1e30))
    return jnp.einsum("hqk,khd->qhd", shares, v)

  found, expected = (jax.jit(jax.grad(
      lambda qkv: jnp.sum(f(*qkv) * weights)))((q, k, v)) for f in (
          lambda *qkv: _mixed(*qkv, segment_S, position_S, 10), whole))
  for one, other in zip(found, expected):
    assert np.abs(other).max() > 0.1
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_scores_are_linear_in_the_length():
  def scores(length):
    num, queries, keys = local.blocks(length, 128)
    assert num * queries >= length
    return num * queries * keys
  assert scores(192) == 192 ** 2
  assert scores(4096) == 8 * scores(512) == 4096 * 192
