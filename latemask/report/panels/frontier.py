"""What compute buys, and what the same compute buys."""

import dataclasses
import math

from matplotlib import lines

from latemask.report import comparison
from latemask.report import look as look_lib


def frontier(points, looks, y_name, lower_is_better, kinds, has_best=True):
  """Draws what compute buys, and what no other run of its kind betters.

  Args:
    points: one a series, (FLOPs, quality, its deviation, is_vanilla,
      masks_at_input); NaN where unknown.
    y_name: what quality is, with its unit.
    kinds: one a series: those of a number can be compared.
    has_best: whether what is best is to be drawn at all.

  Returns:
    A figure; None for fewer than two points.
  """
  known = [i for i, (x, y, *_) in enumerate(points)
           if math.isfinite(x) and math.isfinite(y)]
  if len(known) < 2:
    return None
  flops = [points[i][0] for i in known]
  factor, label = look_lib.unit(max(flops), "training FLOPs")
  sign = 1 if lower_is_better else -1
  frontiers = []
  for kind in dict.fromkeys(kinds) if has_best else ():
    alike = [i for i in known if kinds[i] == kind]
    frontiers.append([alike[i] for i in comparison.frontier(
        [(points[i][0], sign * points[i][1]) for i in alike])])
  fig, ax = _begin_points(
      points, known, looks, any(len(best) > 1 for best in frontiers))
  for best in frontiers:
    ax.plot([factor * points[i][0] for i in best],
            [points[i][1] for i in best], color="0.55", linewidth=0.9,
            zorder=1)
  _draw_points(ax, points, known, looks, lambda i: factor * points[i][0],
               kinds)
  for i in _few_vanillas(points, known, kinds):
    ax.axvline(factor * points[i][0], color="0.2", linestyle=":",
               linewidth=0.7)
  if max(flops) > 10 * min(flops):
    ax.set_xscale("log")
  ax.margins(0.08)
  ax.set_xlabel(label)
  ax.set_ylabel(y_name)
  return fig


def equal_compute(points, looks, y_name, x_name, values, groups, kinds):
  """Draws what the same compute buys, over a key that was swept.

  Args:
    points, kinds: as of `frontier`.
    values: of the key, one a series.
    groups: one a series; a line joins those of a group and a kind.

  Returns:
    A figure; None for fewer than two points.
  """
  known = [i for i, (_, y, *_) in enumerate(points) if math.isfinite(y)]
  if len(known) < 2:
    return None
  groups = list(zip(groups, kinds))
  levels, lines_of = sorted(set(values)), list(dict.fromkeys(groups))

  def place(i):  # Those of a value stand side by side.
    return levels.index(values[i]) + 0.5 * (
        (lines_of.index(groups[i]) + 0.5) / len(lines_of) - 0.5)

  fig, ax = _begin_points(points, known, looks, False)
  for group in lines_of:
    members = sorted((i for i in known if groups[i] == group), key=place)
    if members:
      ax.plot([place(i) for i in members], [points[i][1] for i in members],
              color=looks.colors[members[0]] if looks.bar else "0.8",
              linewidth=0.7, zorder=1)
  _draw_points(ax, points, known, looks, place, kinds)
  stride = -(-len(levels) // 12)
  ax.set_xticks(range(0, len(levels), stride),
                [f"{v:g}" for v in levels[::stride]])
  ax.set_xlim(-0.5, len(levels) - 0.5)
  ax.margins(y=0.08)
  ax.set_xlabel(x_name)
  ax.set_ylabel(y_name)
  return fig


def _few_vanillas(points, known, kinds):
  """Returns the baselines that the other points are held against."""
  vanillas = [i for i in known if points[i][3]]
  return vanillas if len(vanillas) < 3 and len(set(kinds)) == 1 else []


def _begin_points(points, known, looks, has_frontier):
  """Returns (figure, axes), with a legend that also tells the baseline."""
  extra = []
  if has_frontier:
    extra.append((lines.Line2D([], [], color="0.55", linewidth=0.9),
                  "frontier"))
  if any(points[i][3] for i in known):
    extra.append((lines.Line2D(
        [], [], color="0.2", linestyle=":", linewidth=0.9, marker="*",
        markersize=8, markerfacecolor="white"), "vanilla (15 % at input)"))
  if any(points[i][4] and not points[i][3] for i in known):
    extra.append((lines.Line2D(
        [], [], color="white", linestyle="", marker="o", markersize=4,
        markeredgecolor="black"), "masks at the input"))
  fig, (ax,) = look_lib.begin(
      1, dataclasses.replace(
          looks, handles=look_lib.point_style(looks) + extra), 2.1)
  return fig, ax


def _draw_points(ax, points, known, looks, place, kinds):
  """Draws points with deviations, and a line at each vanilla baseline."""
  for i in known:
    _, y, deviation, is_vanilla, at_input = points[i]
    size = 3 if looks.bar and len(known) > 60 else 4
    ax.errorbar(place(i), y, deviation or None, color=looks.colors[i],
                marker="*" if is_vanilla else looks.markers[i],
                markersize=9 if is_vanilla else size, capsize=1.5,
                markeredgecolor="black" if at_input else looks.colors[i],
                markeredgewidth=0.8, elinewidth=0.8,
                zorder=3 if is_vanilla else 2)
  for i in _few_vanillas(points, known, kinds):
    ax.axhline(points[i][1], color="0.2", linestyle=":", linewidth=0.7)
