"""Hashed random bits: fair, independent, and the same on every mesh."""

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from latemask.runtime import rng

RATE = 0.1
SHAPE = (256, 768)


def _dropped(number):
  key = jax.random.fold_in(
      jax.random.key(0, impl=rng.KINDS["hash"]), number)
  return np.asarray(jax.random.bits(key, SHAPE)) < RATE * 2**32


def _score(one, two):
  """Correlation in standard deviations: about 1 if there is none."""
  product = (one - RATE) * (two - RATE)
  return product.sum() / (RATE * (1 - RATE) * np.sqrt(product.size))


def test_bits_are_fair_and_independent():
  dropped = [_dropped(i).astype(np.float64) for i in range(20)]
  for d in dropped:
    assert abs(d.mean() - RATE) < 4 * np.sqrt(RATE * (1 - RATE) / d.size)
    # Counts of a column and of a row vary as independent draws do: within
    # five standard deviations of a variance.
    for axis in (0, 1):
      variance = d.sum(axis).var() / (SHAPE[axis] * RATE * (1 - RATE))
      assert abs(variance - 1) < 5 * np.sqrt(2 / SHAPE[1 - axis])
    for lag in (1, 2, 64, 128, 512):
      assert abs(_score(d[:, lag:], d[:, :-lag])) < 5
      assert abs(_score(d[lag % 255:], d[:-(lag % 255)])) < 5
  for i in range(20):
    for j in range(i):
      assert abs(_score(dropped[i], dropped[j])) < 5


def test_keys_give_other_numbers_not_other_orders():
  first, second = (
      np.asarray(jax.random.bits(jax.random.key(
          seed, impl=rng.KINDS["hash"]), (4096,))) for seed in (0, 1))
  # Two sets of 4096 of 2**32 numbers share none, most likely.
  assert len(np.intersect1d(first, second)) < 3


def test_devices_change_nothing():
  mesh = jax.make_mesh((4, 2), ("data", "tensor"))
  key = jax.random.key(3, impl=rng.KINDS["hash"])
  draw = lambda: jax.random.bits(key, (8, 6))
  split = jax.jit(draw, out_shardings=NamedSharding(
      mesh, P("data", "tensor")))()
  np.testing.assert_array_equal(split, jax.jit(draw)())
