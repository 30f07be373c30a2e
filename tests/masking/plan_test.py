"""Counts of a plan: the invariants that its docstring names, and the counts
of the rule as it was first written."""

import itertools

import numpy as np

from latemask.masking import plan as plan_lib


def _as_first_written(most, predict_rate, rate, random_rate, same_rate):
  """One number of selected tokens after the other, with every branch."""
  for m in range(most + 1):
    predicted = m if predict_rate is None else min(
        m, np.round(m * (predict_rate / rate)))
    random = np.round(random_rate * m)
    same = min(np.round(same_rate * m), m - random)
    target_random = min(random, np.round(random_rate * predicted))
    target_same = min(same, np.round(same_rate * predicted),
                      predicted - target_random)
    if predict_rate is None:
      target_random, target_same = random, same
    slots = predicted - target_random - target_same
    gone = max(0, m - random - same - slots)
    yield [slots, target_random, target_same, gone, random - target_random,
           m - predicted - gone - (random - target_random)]


def test_counts_add_up():
  shares = (0.0, 0.1, 0.3, 0.5, 1.0)
  for predicted, random, same in itertools.product(
      (0.2, 0.5, 0.75, 1.0), shares, shares):
    if random + same > 1:
      continue
    counts_MxN = plan_lib.deal(100, predicted, random, same)
    m_M = np.arange(101)
    assert np.all(counts_MxN >= 0), (predicted, random, same)
    np.testing.assert_array_equal(counts_MxN.sum(1), m_M)
    np.testing.assert_array_equal(
        counts_MxN[:, :plan_lib.GONE].sum(1), np.round(predicted * m_M))
    noise_M = counts_MxN[:, [plan_lib.RANDOM, plan_lib.EXTRA_RANDOM]].sum(1)
    np.testing.assert_array_equal(noise_M, np.round(random * m_M))
    np.testing.assert_array_equal(counts_MxN, list(_as_first_written(
        100, predicted / 2, 0.5, random, same)))
    if predicted == 1:
      np.testing.assert_array_equal(counts_MxN, list(_as_first_written(
          100, None, 0.5, random, same)))
