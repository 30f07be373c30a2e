"""Curves over FLOPs, the end of a baseline, and where each comes down to it."""

import dataclasses
import math

from latemask.report import comparison
from latemask.report import look as look_lib
from latemask.report import runs as runs_lib
from latemask.report.panels import curves


def loss(content):
  """Draws held-out losses against FLOPs, and the crossings.

  Of many series the baseline and those that come down to its end first have
  names; the others are thin lines.

  Returns:
    (figure, caption); None where no FLOPs are known.
  """
  found, chosen = content.crossing, _first(content)
  shares = [found.shares["FLOPs"][i] for i in chosen]
  can_compare = [found.can_compare[i] for i in chosen]
  series = [content.series[i] for i in chosen]
  others = [s for i, s in enumerate(content.series) if i not in chosen]
  content = dataclasses.replace(content, series=series, look=look_lib.named([
      look_lib.wrap(_name(s, *share, can, found.baseline))
      for s, share, can in zip(series, shares, can_compare)]))
  drawn, thin = ([curves.curve(s, runs_lib.Run.flops_at, "evals", found.key)
                  for s in some] for some in (series, others))
  if not any(len(x) for x, *_ in drawn):
    return None
  factor, label = look_lib.unit(
      max(x[-1] for x, *_ in drawn if len(x)), "training FLOPs")
  fig, (ax,) = look_lib.begin(1, content.look, 2.1)
  for x, y, *_ in thin:
    if len(x):
      ax.plot(x * factor, y, color="0.75", linewidth=0.6, zorder=1)
  for i, (x, *ys) in enumerate(drawn):
    curves.draw_curve(ax, content, i, (x * factor, *ys))
  ax.axhline(found.loss, color="0.2", linestyle=":", linewidth=0.9)
  whole = found.baseline.scalar(comparison.spent_flops)[0]
  for i, (share, _, count) in enumerate(shares):
    if count and content.series[i] is not found.baseline:
      ax.plot([share * whole * factor], [found.loss], marker="v", markersize=6,
              color=content.look.colors[i], markeredgecolor="black",
              markeredgewidth=0.6, zorder=4)
  ends = [y[-1] for _, y, *_ in drawn if len(y)]
  span = max(max(ends) - min(ends), 0.05 * found.loss)
  ax.set_ylim(min(ends) - 0.15 * span, max(ends) + 2.5 * span)
  ax.set_xlim(left=0)
  ax.set_xlabel(label)
  name = comparison.loss_name(found.key)
  ax.set_ylabel(f"{name}\n(nats a target)")
  return fig, (
      f"What it takes to reach the end of {found.baseline.label}: {name} "
      "against FLOPs. Dotted: the loss at which that baseline ends "
      f"({found.loss:.3f}). A triangle: where a series first comes down to it; "
      "the share of the baseline's FLOPs stands before its name."
      + f" Thin, {len(others)} of {len(others) + len(series)}: series that "
        "come down later or never; the table has their names." * bool(others)
      + comparison.caution(content.series, found.key))


def _first(content):
  """Returns the indices of the series to draw, the baseline's first."""
  def rank(i):
    found = content.crossing
    share, _, count = found.shares["FLOPs"][i]
    return (content.series[i] is not found.baseline, not found.can_compare[i],
            share if count else math.inf)

  order = sorted(range(len(content.series)), key=rank)
  return order[:look_lib.MAX_NAMED]


def _name(series, share, deviation, count, can_compare, baseline):
  """Returns a name that begins with the share."""
  if series is baseline:
    return f"1: {series.label}"
  if not can_compare:
    return f"not comparable: {series.label}"
  if not count:
    return f"never: {series.label}"
  spread = f" ± {deviation:.2f}" * (count > 1)
  few = f" ({count} of {len(series.runs)})" * (count < len(series.runs))
  return f"{share:.2f}{spread}{few}: {series.label}"
