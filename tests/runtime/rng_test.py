"""Hashed random bits: fair, independent, and the same on every mesh."""

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np
import pytest

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


def test_bits_are_those_of_before():
  """A run that goes on drops what it would have dropped."""
  key = jax.random.key(5, impl=rng.KINDS["hash"])
  first, second = np.asarray(jax.random.key_data(key))
  x = np.arange(3 * 5, dtype=np.uint32) ^ first
  x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) + second
  x *= np.uint32(0x846CA68B)
  np.testing.assert_array_equal(
      jax.random.bits(key, (3, 5)), (x ^ (x >> 16)).reshape(3, 5))


@pytest.mark.parametrize("places", [1 << 32, 64, 16])
def test_a_part_has_the_bits_of_the_whole(monkeypatch, places):
  """Where one index reaches all, where rows have keys, and where heads do."""
  monkeypatch.setattr(rng, "_PLACES", places)
  key = jax.random.key(1, impl=rng.KINDS["hash"])
  whole = np.asarray(rng._hash(jax.random.key_data(key), (3, 4, 8, 2)))
  assert len(np.unique(whole)) == whole.size
  for start in (0, 3, 5):
    np.testing.assert_array_equal(
        rng.bits(key, (3, 4, 3, 2), rng.Part(2, start, 8)),
        whole[:, :, start:start + 3])


def test_large_arrays_do_not_repeat():
  """Row 64 of 8,192 x 8,192 would be row 0 again; here it is another.

  With but one half of the key its own, some rows correlate (58 deviations).
  """
  key = jax.random.key(1, impl=rng.KINDS["hash"])
  shape = (65, 1, 1, 8192)
  assert rng._num_leading((65, 1, 8192, 8192), None) == 1
  assert rng._num_leading(shape, rng.Part(2, 0, 8192)) == 1
  assert rng._num_leading((64, 1, 8192, 8192), None) == 0
  assert rng._num_leading((9, 4, 1, 1 << 15), rng.Part(2, 0, 1 << 15)) == 1
  assert rng._num_leading((9, 5, 1, 1 << 15), rng.Part(2, 0, 1 << 15)) == 2
  bits = np.asarray(rng.bits(key, shape, rng.Part(2, 8000, 8192)))[:, 0, 0]
  dropped = (bits < RATE * 2**32).astype(np.float64)
  assert abs(dropped.mean() - RATE) < 5 * np.sqrt(
      RATE * (1 - RATE) / dropped.size)
  for row in range(1, 65):
    assert abs(_score(dropped[0], dropped[row])) < 5
    # Nor are they the same numbers in another order.
    assert len(np.intersect1d(bits[0], bits[row])) < 3
