"""Scores of fine-tuning by task."""

import dataclasses

from latemask.report import look as look_lib
from latemask.report import series as series_lib


def glue(content):
  """Draws scores by task, with a sample deviation to each side."""
  fig = _draw(content.glue_rows, len(content.glue_series), _looks(content))
  return fig, (
      f"{content.fine_tuning} dev scores by task: of the best learning rate "
      "and batch size the median over seeds, those of pre-training included, "
      "with a sample deviation to each side; of tasks with two metrics their "
      "mean. Within a task, series stand below each other.")


def _looks(content):
  """Returns how series look: as the one that each began from, if one each."""
  numbers = {s.label: s.number for s in content.series}
  begun = [numbers.get(s.label) for s in content.glue_series]
  if None not in begun and len(set(begun)) == len(begun):
    return look_lib.pick(content.look, [n - 1 for n in begun])
  return look_lib.look(content.glue_series)


def _draw(rows, num_series, looks):
  many = num_series > look_lib.MAX_NAMED
  step = 0.8 / max(num_series, 2)
  inches = 0.45 + len(rows) * (0.3 if many else 0.1 + 0.09 * num_series)
  fig, (ax,) = look_lib.begin(
      1, dataclasses.replace(looks, handles=look_lib.point_style(looks)),
      inches)
  for row, (_, scores) in enumerate(rows):
    for i, score in enumerate(scores):
      if score is not None:
        ax.errorbar(score[0], row + step * (i - (num_series - 1) / 2),
                    xerr=look_lib.spread(score[1]),
                    color=looks.colors[i],
                    marker=looks.markers[i], markersize=2 if many else 3.5,
                    elinewidth=0.4 if many else 0.8,
                    capsize=0 if many else 1.5, linestyle="")
    if row:
      ax.axhline(row - 0.5, color="0.8", linewidth=0.5)
  ax.set_yticks(range(len(rows)), [series_lib.show(task) for task, _ in rows])
  ax.set_ylim(len(rows) - 0.5, -0.5)
  ax.tick_params(axis="y", length=0)
  ax.grid(False, axis="y")
  look_lib.begin_at_zero(ax.xaxis)
  ax.set_xlabel("dev score (%), median over seeds ± deviation")
  return fig
