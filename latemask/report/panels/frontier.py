"""What compute buys; where all runs cost the same, what it buys for what."""

import dataclasses
import math
import os

from matplotlib import lines

from latemask.report import comparison
from latemask.report import look as look_lib
from latemask.report import series as series_lib


@dataclasses.dataclass(frozen=True)
class _Quality:
  """What runs are compared by.

  Fields:
    of_run: function of a run: a number, NaN where unknown.
    name, unit: of it.
    is_loss: whether the lower is the better; else y begins at 0.
    has_best: whether what is best is to be drawn at all.
  """

  of_run: object
  name: str
  unit: str
  is_loss: bool
  has_best: bool


@dataclasses.dataclass(frozen=True)
class _Points:
  """Points to draw, one a series.

  Fields:
    xy: (FLOPs, quality, its deviation); NaN where unknown.
    series: what they are of.
    looks: how they look.
    kinds: those of a number can be compared.
    known: the indices of those to draw.
  """

  xy: list
  series: list
  looks: look_lib.Look
  kinds: list
  known: list

  def few_vanillas(self):
    """Returns the baselines that the other points are held against."""
    found = [i for i in self.known if self.series[i].is_vanilla]
    return found if len(found) < 3 and len(set(self.kinds)) == 1 else []


def loss(content):
  """Draws the held-out loss by which most runs can be compared."""
  key = content.quality_key
  return _draw(content, _Quality(
      comparison.final(key), comparison.loss_name(key), "nats a target", True,
      not comparison.is_few(content.runs)),
               comparison.kinds(content.series, key),
               comparison.caution(content.series, key))


def glue(content):
  """Draws the GLUE average of what began from the runs."""
  averages = content.glue_averages
  return _draw(content, _Quality(
      lambda run: averages.get(os.path.realpath(run.path), math.nan),
      "GLUE average", "%", False, True), content.kinds, "")


def _draw(content, quality, kinds, caution):
  """Returns (figure, caption); None where fewer than two points are known."""
  settled = content.settled
  places = [s.number - 1 for s in settled]
  xy = [(s.scalar(comparison.spent_flops)[0], *s.scalar(quality.of_run)[:2])
        for s in settled]
  same = comparison.equal_compute(settled)
  known = [i for i, (x, y, _) in enumerate(xy)
           if math.isfinite(y) and (same or math.isfinite(x))]
  if len(known) < 2:
    return None
  points = _Points(xy, settled, look_lib.pick(content.look, places),
                   [kinds[place] for place in places], known)
  if same:
    fig, ax, caption = _equal_compute(points, quality, *same)
  else:
    fig, ax, caption = _frontier(points, quality)
  ax.set_ylabel(f"{quality.name}\n({quality.unit})")
  if not quality.is_loss:
    look_lib.begin_at_zero(ax.yaxis)
  if any(s.is_vanilla for s in settled):
    caption += ("; the star and the dotted line: the vanilla baseline (15 % "
                "masks, at the input)")
  return fig, f"{caption}.{content.unfinished}{caution}"


def _frontier(points, quality):
  """Draws quality over FLOPs, and what no other run of its kind betters."""
  known, kinds = points.known, points.kinds
  flops = [points.xy[i][0] for i in known]
  factor, label = look_lib.unit(max(flops), "training FLOPs")
  sign = 1 if quality.is_loss else -1
  frontiers = []
  for kind in dict.fromkeys(kinds) if quality.has_best else ():
    alike = [i for i in known if kinds[i] == kind]
    frontiers.append([alike[i] for i in comparison.frontier(
        [(points.xy[i][0], sign * points.xy[i][1]) for i in alike])])
  fig, ax = _begin(points, any(len(best) > 1 for best in frontiers))
  for best in frontiers:
    ax.plot([factor * points.xy[i][0] for i in best],
            [points.xy[i][1] for i in best], color="0.55", linewidth=0.9,
            zorder=1)
  _draw_points(ax, points, lambda i: factor * points.xy[i][0])
  for i in points.few_vanillas():
    ax.axvline(factor * points.xy[i][0], color="0.2", linestyle=":",
               linewidth=0.7)
  if max(flops) > 10 * min(flops):
    ax.set_xscale("log")
  ax.margins(0.08)
  ax.set_xlabel(label)
  caption = (f"What compute buys: {quality.name} against the FLOPs spent on "
             "it")
  if any(len(best) > 1 for best in frontiers):
    caption += "; a grey line joins those that no cheaper one betters"
  return fig, ax, caption


def _equal_compute(points, quality, key, values, groups):
  """Draws what the same compute buys, over a key that was swept.

  Args:
    values: of the key, one a series.
    groups: one a series; a line joins those of a group and a kind.
  """
  known, looks = points.known, points.looks
  groups = list(zip(groups, points.kinds))
  levels, lines_of = sorted(set(values)), list(dict.fromkeys(groups))

  def place(i):  # Those of a value stand side by side.
    return levels.index(values[i]) + 0.5 * (
        (lines_of.index(groups[i]) + 0.5) / len(lines_of) - 0.5)

  fig, ax = _begin(points, False)
  for group in lines_of:
    members = sorted((i for i in known if groups[i] == group), key=place)
    if members:
      ax.plot([place(i) for i in members],
              [points.xy[i][1] for i in members],
              color=looks.colors[members[0]] if looks.bar else "0.8",
              linewidth=0.7, zorder=1)
  _draw_points(ax, points, place)
  stride = -(-len(levels) // 12)
  ax.set_xticks(range(0, len(levels), stride),
                [f"{v:g}" for v in levels[::stride]])
  ax.set_xlim(-0.5, len(levels) - 0.5)
  ax.margins(y=0.08)
  name = series_lib.short(key)
  ax.set_xlabel(name)
  caption = (
      f"What the same compute buys ({points.xy[0][0]:.3g} FLOPs a run): "
      f"{quality.name} against {name}, mean and sample deviation over seeds; "
      "lines join series that are alike otherwise; values are evenly spaced")
  if len(lines_of) > 1:
    caption += (", and series of one value are moved sideways, so as not to "
                "hide each other")
  return fig, ax, caption


def _begin(points, has_frontier):
  """Returns (figure, axes), with a legend that also tells the baseline."""
  extra = []
  if has_frontier:
    extra.append((lines.Line2D([], [], color="0.55", linewidth=0.9),
                  "frontier"))
  drawn = [points.series[i] for i in points.known]
  if any(s.is_vanilla for s in drawn):
    extra.append((lines.Line2D(
        [], [], color="0.2", linestyle=":", linewidth=0.9, marker="*",
        markersize=8, markerfacecolor="white"), "vanilla (15 % at input)"))
  if any(s.masks_at_input and not s.is_vanilla for s in drawn):
    extra.append((lines.Line2D(
        [], [], color="white", linestyle="", marker="o", markersize=4,
        markeredgecolor="black"), "masks at the input"))
  fig, (ax,) = look_lib.begin(
      1, dataclasses.replace(
          points.looks,
          handles=look_lib.point_style(points.looks) + extra), 2.1)
  return fig, ax


def _draw_points(ax, points, place):
  """Draws points with deviations, and a line at each vanilla baseline."""
  looks, known = points.looks, points.known
  for i in known:
    _, y, deviation = points.xy[i]
    s = points.series[i]
    size = 3 if looks.bar and len(known) > 60 else 4
    ax.errorbar(place(i), y, look_lib.spread(deviation),
                color=looks.colors[i],
                marker="*" if s.is_vanilla else looks.markers[i],
                markersize=9 if s.is_vanilla else size, capsize=1.5,
                markeredgecolor=("black" if s.masks_at_input
                                 else looks.colors[i]),
                markeredgewidth=0.8, elinewidth=0.8,
                zorder=3 if s.is_vanilla else 2)
  for i in points.few_vanillas():
    ax.axhline(points.xy[i][1], color="0.2", linestyle=":", linewidth=0.7)
