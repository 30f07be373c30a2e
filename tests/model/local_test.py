"""Local attention in blocks, against every pair of tokens by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask.masking import masked as masked_lib
from latemask.model import attention
from latemask.model import local
from tests.model import encoder_test

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


def _mixed(q, k, v, segment_BxS, position_BxS, window):
  place = attention.Place(segment_BxS, None, position_BxS)
  return local.mix(q, k, v, place, window, lambda x: x)


@pytest.mark.parametrize("window, length", [
    (2, 50), (6, 50), (16, 200), (40, 200), (40, 60)])
def test_is_every_pair(window, length):
  """Random documents and masks; rows of one block, too."""
  rng = np.random.default_rng(window)
  rows = [_tokens(rng, length - 5, share) for share in (0.3, 0.7, 0.9, 1, 1)]
  segment_BxS, position_BxS = np.stack([np.pad(
      row, [(0, 0), (0, length - row.shape[1])]) for row in rows], axis=1)
  q, k, v = (rng.normal(size=(*segment_BxS.shape, HEADS, SIZE)).astype(
      np.float32) for _ in range(3))
  found = jax.jit(_mixed, static_argnums=5)(
      q, k, v, segment_BxS, position_BxS, window)
  assert np.isfinite(found).all()
  for row, (segment_S, position_S) in enumerate(zip(
      segment_BxS, position_BxS)):
    expected = _brute(*(x[row].astype(np.float64) for x in (q, k, v)),
                      segment_S, position_S, window)
    real_S = segment_S > 0
    np.testing.assert_allclose(
        found[row][real_S], expected[real_S], atol=1e-5)


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
          lambda *qkv: _mixed(*(x[None] for x in (
              *qkv, segment_S, position_S)), 10)[0], whole))
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


def _by_mask(q, k, v, place, window, drop):
  """What `local.mix` gives, by attention over all keys with a mask."""
  del drop
  apart = jnp.abs(place.position_BxS[:, :, None]
                  - place.position_BxS[:, None, :])
  sees = (apart <= window / 2) & (place.segment_BxS[:, :, None]
                                  == place.segment_BxS[:, None, :])
  scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
  shares = jax.nn.softmax(jnp.where(sees[:, None], scores, -1e30))
  return jnp.einsum("bhqk,bkhd->bqhd", shares, v)


def _local(config, **changes):
  """Makes a config's model one of local layers and of global ones."""
  config.model.update(dict(
      architecture="modern", global_every=3, local_window=6,
      local_rotary_theta=100.0) | changes)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    # Inside of a stack: 2 is early, 4 and 5 are late. Or all, even the last.
    dict(layers=7, insertion_layer=3, insertion="scatter"),
    dict(layers=2, insertion_layer=0, insertion="scatter")])
def test_a_model_of_blocks_is_one_of_masks(tiny, monkeypatch, changes):
  """With noise, tokens that are gone, several documents, and unused places."""
  _local(tiny, **changes)
  tiny.masking.same_rate = tiny.masking.random_rate = 0.1
  tiny.masking.predict_rate = 0.3
  model, params, _, masked = encoder_test._build(tiny)
  found = encoder_test._targets(model, params, masked)
  seen = []
  monkeypatch.setattr(local, "mix", lambda *args: (
      seen.append(args[0].shape[1]) or _by_mask(*args)))
  expected = encoder_test._targets(model, params, masked)
  assert seen and found.std() > 0.1
  np.testing.assert_allclose(found, expected, atol=3e-5)


def test_a_neighbouring_document_changes_nothing(tiny):
  """Not one bit, though it stands in the same block."""
  _local(tiny, layers=4, insertion_layer=0, insertion="scatter")
  model, params, ids_BxL, _ = encoder_test._build(tiny)
  ids_BxL = np.asarray(ids_BxL)[:2].copy()
  ids_BxL[ids_BxL < 5] = 7
  ids_BxL[:, [0, 11]] = specials.TRAINED.bos  # Blocks are of 3.
  other_BxL = ids_BxL.copy()
  other_BxL[:, 12:] = 5 + other_BxL[:, 12:] % 100

  @jax.jit
  def encode(ids_BxL):
    return model.apply({"params": params}, masked_lib.unmasked(
        ids_BxL, specials.TRAINED), method="encode")

  found, other = encode(ids_BxL), encode(other_BxL)
  np.testing.assert_array_equal(found[:, :11], other[:, :11])
  assert np.abs(found - other)[:, 11:].max(-1).min() > 1e-3
