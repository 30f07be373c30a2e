"""Curves: their points, axes and bands."""

import json
import math

import numpy as np
import pytest

from latemask.report import look as look_lib
from latemask.report.panels import curves
from latemask.report import reading
from latemask.report import series as series_lib
from tests.report import made


def test_axes_curves_and_look(page):
  content, figures, _ = page
  ends = {}
  for name in ("steps", "tokens", "flops"):
    top, bottom = figures[f"loss_{name}"].axes
    assert len(top.lines) == len(bottom.lines) == 4
    assert len(top.collections) == 4  # Bands over seeds.
    ends[name] = max(line.get_xdata()[-1] for line in top.lines)
    assert bottom.get_xlabel() and "nats" in bottom.get_ylabel()
  assert ends["steps"] == 12
  assert ends["tokens"] == pytest.approx(12 * 4096 * 128 / 1e6)
  assert ends["flops"] == 12 * made.STEP_FLOPS / 1e12
  for fig in figures.values():
    assert fig.get_size_inches()[0] == look_lib.WIDTH_INCHES
    for ax in fig.axes:
      assert all(text.get_fontsize() >= 7 for text in ax.findobj(
          lambda artist: hasattr(artist, "get_fontsize")))
  assert len(set(content.look.colors)) == 4


def test_the_mean_curve_is_that_of_its_seeds(tmp_path):
  records = [made.run(tmp_path / str(seed), seed=seed, upto=upto)
             for seed, upto in ((0, None), (1, 8))]
  found = reading.read([tmp_path])
  (series,), _, _ = series_lib.group(found.runs, [])
  x, mean, low, high = curves.curve(
      series, lambda run, steps: 2.0 * steps, "train", "loss")
  first, second = ([r["loss"] for r in run if "loss" in r] for run in records)
  np.testing.assert_array_equal(x, 2.0 * np.arange(1, 13))
  np.testing.assert_allclose(
      mean[:8], np.mean([first[:8], second], axis=0))
  np.testing.assert_allclose(mean[8:], first[8:])
  np.testing.assert_allclose(low[:8], np.minimum(first[:8], second))
  np.testing.assert_allclose(high[:8], np.maximum(first[:8], second))


@pytest.mark.parametrize("num_lines, is_whole", [(40, True), (400, False)])
def test_the_start_is_left_out_of_long_curves_alone(
    tmp_path, num_lines, is_whole):
  """And it is said; as it is that points are means."""
  made.run(tmp_path / "a", num_lines)
  path = tmp_path / "a/metrics.jsonl"
  records = list(map(json.loads, path.read_text().splitlines()))
  for record in records:
    for key in ("loss", "eval/loss"):
      if key in record:
        record[key] = 2 + 8 * math.exp(-100 * record["step"] / num_lines)
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  _, figures, text = made.drawn(tmp_path)
  for ax in figures["loss_steps"].axes:
    line, = ax.lines
    bottom, top = ax.get_ylim()
    y = line.get_ydata()
    assert bottom < min(y) and (top > max(y)) == is_whole
    assert (len(y) in (num_lines, num_lines // 4 + 1)) or not is_whole
  for told in ("lie above the picture", "means over stretches"):
    assert (told in text) != is_whole
