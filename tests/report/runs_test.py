"""Curves are thinned, and keep their mean."""

import numpy as np
import pytest

from latemask.report import runs as runs_lib


def test_thinning_keeps_the_mean_and_passes_over_what_is_not_finite():
  rng = np.random.default_rng(0)
  y = rng.random(1003)
  y[[5, 700]] = np.nan, np.inf
  y[300:310] = np.nan
  thinned = runs_lib.thin({"step": np.arange(1003.0), "y": y}, 100)
  assert len(thinned["step"]) == len(thinned["y"]) == 100
  edges = np.linspace(0, 1003, 101).astype(int)
  for i, (start, stop) in enumerate(zip(edges, edges[1:])):
    part = y[start:stop]
    if np.isfinite(part).any():
      assert thinned["y"][i] == pytest.approx(
          part[np.isfinite(part)].mean())
    assert start <= thinned["step"][i] < stop
