"""Curves: their points, axes and bands."""

import numpy as np
import pytest

from latemask.report import page as page_lib
from latemask.report import reading
from latemask.report import series as series_lib
from tests.report import made


def test_axes_curves_and_look(sweep):
  found = reading.read([sweep[2].parent / "runs"])
  page = page_lib.Page(found)
  with report_look.style():
    page.draw()
  ends = {}
  for name in ("steps", "tokens", "flops"):
    top, bottom = page.figures[f"loss_{name}"].axes
    assert len(top.lines) == len(bottom.lines) == 4
    assert len(top.collections) == 4  # Bands over seeds.
    ends[name] = max(line.get_xdata()[-1] for line in top.lines)
    assert bottom.get_xlabel() and "nats" in bottom.get_ylabel()
  assert ends["steps"] == 12
  assert ends["tokens"] == pytest.approx(12 * 4096 * 128 / 1e6)
  assert ends["flops"] == 12 * made.STEP_FLOPS
  for fig in page.figures.values():
    assert fig.get_size_inches()[0] == report_look.WIDTH_INCHES
    for ax in fig.axes:
      assert all(text.get_fontsize() >= 7 for text in ax.findobj(
          lambda artist: hasattr(artist, "get_fontsize")))
  assert len(set(page._look.colors)) == 4


def test_the_mean_curve_is_that_of_its_seeds(tmp_path):
  records = [made.run(tmp_path / str(seed), seed=seed, upto=upto)
             for seed, upto in ((0, None), (1, 8))]
  found = reading.read([tmp_path])
  (series,), _, _ = series_lib.group(found.runs, [])
  x, mean, low, high = series_lib.curve(
      series, lambda run: 2.0, "train", "loss")
  first, second = ([r["loss"] for r in run if "loss" in r] for run in records)
  np.testing.assert_array_equal(x, 2.0 * np.arange(1, 13))
  np.testing.assert_allclose(
      mean[:8], np.mean([first[:8], second], axis=0))
  np.testing.assert_allclose(mean[8:], first[8:])
  np.testing.assert_allclose(low[:8], np.minimum(first[:8], second))
  np.testing.assert_allclose(high[:8], np.maximum(first[:8], second))
