"""What is drawn over what, and which points a line joins."""

import pytest

from latemask.report import comparison
from latemask.report import reading
from latemask.report import series as series_lib
from tests.report import made


@pytest.mark.slow
def test_what_is_drawn_over_depends_on_whether_runs_cost_the_same(tmp_path):
  for rate in (0.15, 0.3, 0.5):
    for layer in (0, 6):
      made.run(tmp_path / f"same/{rate}-{layer}", rate=rate, layer=layer)
    made.run(tmp_path / f"more/{rate}", round(100 * rate), rate=rate)
  texts, figures = {}, {}
  for name in ("same", "more"):
    content, figures[name], texts[name] = made.drawn(tmp_path / name)
    assert content.problems == []
  # The colour of points is that of the key of more values.
  assert "against insertion layer, mean and" in texts["same"]
  assert "against the FLOPs spent on it" in texts["more"]
  series, *_ = series_lib.group(
      reading.read([tmp_path / "same"]).runs, [])
  key, values, groups = comparison.equal_compute(series)
  assert key == "model.insertion_layer"
  assert values == [0, 6] * 3
  assert groups == [(0.15,)] * 2 + [(0.3,)] * 2 + [(0.5,)] * 2
  # Lines of three rates: their points stand side by side, and it is said.
  assert "moved sideways" in texts["same"]
  assert "moved sideways" not in texts["more"]
  axes = figures["same"]["frontier"].axes[0]
  assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "6"]
  for s in series:
    mean, *_ = s.scalar(comparison.final("eval/rate_0.15/loss"))
    x, = (line.get_xdata()[0] for line in axes.lines
          if len(line.get_xdata()) == 1 and line.get_ydata()[0] == mean)
    assert round(x) == [0, 6].index(s.values["model.insertion_layer"])


def _joined(figure):
  """Returns the lines of a picture that join points, as sets of heights."""
  return [set(line.get_ydata()) for line in figure.axes[0].lines
          if len(line.get_xdata()) > 1 and len(set(line.get_ydata())) > 1]


@pytest.mark.parametrize("is_equal", [True, False])
def test_runs_of_other_texts_are_not_joined(tmp_path, is_equal):
  """At equal compute or not; nor is one of them called the best."""
  for text in "ab":
    for rate in (0.3, 0.5):
      made.run(tmp_path / f"{text}{rate}",
                12 if is_equal else round(40 * rate), rate=rate, layer=6,
                **{"data.source": f"text:{text}"})
  content, figures, text = made.drawn(tmp_path)
  assert "of 2 texts or tokenizers" in text and "Lowest" not in text
  assert "heat_map" not in figures
  losses = [{s.scalar(comparison.final("eval/rate_0.15/loss"))[0]
             for s in content.series
             if s.runs[0].config["data.source"] == source}
            for source in ("text:a", "text:b")]
  for line in _joined(figures["frontier"]):
    assert any(line <= mine for mine in losses)
  if is_equal:
    assert len(_joined(figures["frontier"])) == 2
