"""Layers in a loop: whole periods of global and local ones, then the rest."""

import jax
import numpy as np
import pytest

from latemask.model import encoder
from latemask.model import stack
from tests.model import encoder_test


@pytest.mark.parametrize("kinds, period, steps", [
    ("g", 1, 1), ("gggg", 1, 4), ("", 1, 0), ("gllgllg", 3, 2),
    ("gllgll", 3, 2), ("llgllgg", 3, 2), ("gllg", 3, 0), ("gl", 3, 0),
    ("gllgggg", 3, 0), ("lglglg", 2, 3)])
def test_periods_that_repeat(kinds, period, steps):
  assert stack._repeats(list(kinds), period) == steps


def _scans(jaxpr):
  """Returns the lengths of the loops over layers."""
  return [equation.params["length"] for equation in jaxpr.eqns
          if equation.primitive.name == "scan"]


@pytest.mark.slow
def test_a_loop_of_periods_changes_nothing(tiny):
  """Against all layers one by one."""
  tiny.model.update(dict(
      architecture="modern", global_every=3, local_window=6,
      local_rotary_theta=100.0, layers=10, insertion_layer=2,
      insertion="scatter"))  # Early gl; late lgl lgl l, and g for the targets.
  _, params, _, masked = encoder_test._build(tiny)
  found = []
  for unroll in (1, 10):
    tiny.model.unroll = unroll
    model = encoder.make_model(tiny, encoder_test.VOCAB)
    found.append((encoder_test._targets(model, params, masked), _scans(
        jax.make_jaxpr(lambda p: model.apply({"params": p}, masked))(
            params).jaxpr)))
  (loop, two), (single, none) = found
  assert (two, none) == ([2], []) and loop.std() > 0.1
  np.testing.assert_allclose(loop, single, atol=3e-5)
