"""The pictures of a report, one function each; report_look.py dresses them."""

import dataclasses
import math

from matplotlib import lines
import numpy as np

from latemask.report import look as look_lib
from latemask.report import runs as runs_lib
from latemask.report import series as series_lib

# Points of all curves of a panel, of one, and of one that is mostly noise:
# more are no use at this width, and would make SVG files large.
_PANEL_POINTS, _CURVE_POINTS, _NOISY_POINTS = 12_000, 250, 50
_NOISY = ("tokens_per_sec", "data_wait_fraction")


def points_a_curve(num_series):
  """Returns the points that a curve has at most."""
  return min(_CURVE_POINTS, max(60, _PANEL_POINTS // num_series))


def curves(series, looks, x_of_step, x_name, panels):
  """Draws curves over the course of training.

  Args:
    x_of_step: function of a run: what a step is in the units of x.
    panels: [(part of a run, key, factor, name of y, whether it is a loss)];
      what is no loss begins at 0.

  Returns:
    A figure; None where nothing is known.
  """
  drawn = [[series_lib.curve(s, x_of_step, part, key) for s in series]
           for part, key, *_ in panels]
  panels = [(p, d) for p, d in zip(panels, drawn)
            if any(len(x) for x, *_ in d)]
  if not panels:
    return None
  factor, label = look_lib.unit(
      max(x[-1] for _, d in panels for x, *_ in d if len(x)), x_name)
  is_named = len(series) <= look_lib.MAX_NAMED
  fig, axes = look_lib.begin(len(panels), looks, sharex=True)
  for ax, ((part, key, scale, name, is_loss), panel) in zip(axes, panels):
    points = _NOISY_POINTS if key in _NOISY else points_a_curve(len(series))
    for i, (x, mean, low, high) in enumerate(panel):
      thinned = runs_lib.thin({"step": x * factor, "mean": mean * scale,
                               "low": low * scale, "high": high * scale},
                              points)
      x, mean, low, high = thinned.values()
      is_few = part == "evals" and len(x) <= 30 and is_named
      ax.plot(x, mean, color=looks.colors[i], linestyle=looks.dashes[i],
              marker=looks.markers[i] if is_few or len(x) == 1 else None,
              markersize=2.5,
              linewidth=1.1 if is_named else 0.6,
              alpha=1 if len(series) <= 40 else 0.7)
      if is_named and len(series[i].runs) > 1:
        ax.fill_between(x, low, high, color=looks.colors[i], alpha=0.2,
                        linewidth=0)
    ax.set_ylabel(name)
    if is_loss:
      _leave_out_the_start(ax, panel, scale)
    else:
      ax.set_ylim(bottom=0)
  axes[-1].set_xlabel(label)
  axes[-1].set_xlim(left=0)
  fig.align_ylabels(axes)
  return fig


def _leave_out_the_start(ax, panel, scale):
  """Ends y at the loss after 3 % of the steps, where the curves begin."""
  later = [mean[x >= 0.03 * x[-1]] for x, mean, *_ in panel if len(x) > 2]
  later = np.concatenate(later) * scale if later else np.zeros(0)
  if len(later) > 2:
    top, bottom = np.percentile(later, 99.5), later.min()
    if top > bottom:
      margin = 0.06 * (top - bottom)
      ax.set_ylim(bottom - margin, top + margin)


def heat_map(panels, names):
  """Draws numbers over mask rate and insertion layer, the better the lighter.

  Args:
    panels: [(title, unit, what `report_series.grid` returns, whether the
      lower is the better)].
    names: {insertion layer: what it is called}.

  Returns:
    A figure; None where rates and layers do not cross.
  """
  rates, layers, value_RxI, _ = panels[0][2]
  if np.isfinite(value_RxI).sum() <= max(len(rates), len(layers)):
    return None
  panel_inches = 0.75 + 0.24 * max(3, min(len(rates), 12))
  fig, axes = look_lib.begin(len(panels), None, panel_inches)
  for ax, (title, unit, grid, lower_is_better) in zip(axes, panels):
    rates, layers, value_RxI, count_RxI = grid
    image = ax.imshow(
        value_RxI, aspect="auto", origin="lower",
        cmap=look_lib.MAP.reversed() if lower_is_better else look_lib.MAP)
    ax.grid(False)
    for axis, values in ((ax.xaxis, [names[v] for v in layers]),
                         (ax.yaxis, [f"{100 * v:g}" for v in rates])):
      stride = max(1, -(-len(values) // 12))
      axis.set_ticks(range(0, len(values), stride), values[::stride])
    counts = set(count_RxI[count_RxI > 0].tolist())
    if len(counts) == 1 and counts != {1}:
      title += f", mean of {counts.pop()}"
      counts = {1}
    ax.set_title(title, loc="left")
    ax.set_xlabel("insertion layer")
    ax.set_ylabel("mask rate (%)")
    bar = fig.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    bar.set_label(unit)
    bar.outline.set_linewidth(0.4)
    if len(layers) <= 6 and len(rates) <= 12:
      _write_cells(ax, image, value_RxI, count_RxI, counts != {1})
  return fig


def _write_cells(ax, image, value_RxI, count_RxI, with_counts):
  known = value_RxI[np.isfinite(value_RxI)]
  digits = 2 if np.abs(known).max() < 10 else 1
  for (row, column), value in np.ndenumerate(value_RxI):
    if not math.isfinite(value):
      continue
    red, green, blue, _ = image.to_rgba(value)
    is_dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
    text = f"{value:.{digits}f}" + (
        f" ({count_RxI[row, column]})" if with_counts else "")
    ax.text(column, row, text, ha="center", va="center", fontsize=7,
            color="white" if is_dark else "black")


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
    frontiers.append([alike[i] for i in series_lib.frontier(
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
      1, dataclasses.replace(looks, handles=_points(looks) + extra), 2.1)
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


def _points(looks):
  """Returns the legend of a picture of points, which have no dashes."""
  markers = look_lib.MARKERS if looks.bar else looks.markers
  return [(lines.Line2D([], [], color=line.get_color(), linestyle="",
                        marker=marker, markersize=4), name)
          for (line, name), marker in zip(looks.handles, markers)]


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
      1, dataclasses.replace(looks, handles=_points(looks)), inches)
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


def ranks(series, looks, ranks_of_series, insertions):
  """Draws the effective rank of real tokens by layer, and what masks change.

  Args:
    ranks_of_series: one a series: {"unmasked", "masked": [N + 1]}.
    insertions: one a series: the layer before which masks enter.

  Returns:
    A figure.
  """
  named = len(series) <= look_lib.MAX_NAMED
  looks = dataclasses.replace(looks, handles=[
      *((lines.Line2D([], [], color=line.get_color()), name)
        for line, name in (looks.handles if named else ())),
      (lines.Line2D([], [], color="0.3", marker="o", markersize=2.5),
       "nothing masked"),
      (lines.Line2D([], [], color="0.3", linestyle=look_lib.DASHES[2],
                    marker="s", markersize=2.5), "half masked")])
  fig, axes = look_lib.begin(2, looks, sharex=True)
  for i, found in enumerate(ranks_of_series):
    options = {"color": looks.colors[i], "markersize": 2.5,
               "linewidth": 1.1 if named else 0.6}
    layers = range(len(found["masked"]))
    for name, dash, marker in (("unmasked", "-", "o"),
                               ("masked", look_lib.DASHES[2], "s")):
      axes[0].plot(layers, found[name], linestyle=dash,
                   marker=marker if named else None, **options)
    axes[1].plot(layers, 100 * (found["masked"] / found["unmasked"] - 1),
                 linestyle="-" if named else looks.dashes[i],
                 marker=looks.markers[i] if named else None, **options)
  axes[1].axhline(0, color="0.4", linewidth=0.6)
  for layer in sorted(set(insertions)) if len(set(insertions)) <= 4 else ():
    for ax in axes:
      ax.axvline(layer, color="0.6", linewidth=0.6, zorder=0)
    axes[0].annotate(
        "masks enter", (layer, 0), xycoords=("data", "axes fraction"),
        xytext=(2, 3), textcoords="offset points", color="0.4", rotation=90)
  axes[1].xaxis.get_major_locator().set_params(integer=True)
  axes[0].set_ylim(bottom=0)
  axes[1].set_xlabel("layer (0: embeddings)")
  axes[0].set_ylabel("effective rank\n(dimensions)")
  axes[1].set_ylabel("change by\nmasking (%)")
  fig.align_ylabels(axes)
  return fig
