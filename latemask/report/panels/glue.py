"""GLUE by task."""

import dataclasses

from latemask.report import look as look_lib


def glue(rows, num_series, looks):
  """Draws scores by task, with a sample deviation to each side.

  Args:
    rows: [(task, [(median, deviation) in percent or None, one a series])].

  Returns:
    A figure.
  """
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
                    xerr=score[1] or None, color=looks.colors[i],
                    marker=looks.markers[i], markersize=2 if many else 3.5,
                    elinewidth=0.4 if many else 0.8,
                    capsize=0 if many else 1.5, linestyle="")
    if row:
      ax.axhline(row - 0.5, color="0.8", linewidth=0.5)
  ax.set_yticks(range(len(rows)), [task for task, _ in rows])
  ax.set_ylim(len(rows) - 0.5, -0.5)
  ax.tick_params(axis="y", length=0)
  ax.grid(False, axis="y")
  ax.set_xlabel("dev score (%), median over seeds ± deviation")
  return fig
