"""Curves over FLOPs, the end of a baseline, and where each comes down to it."""

from latemask.report import comparison
from latemask.report import look as look_lib
from latemask.report import runs as runs_lib
from latemask.report.panels import curves


def loss(content):
  """Draws held-out losses against FLOPs, and the crossings.

  Returns:
    (figure, caption); None where no FLOPs are known.
  """
  found = content.crossing
  drawn = [curves.curve(s, runs_lib.Run.flops_at, "evals", found.key)
           for s in content.series]
  if not any(len(x) for x, *_ in drawn):
    return None
  factor, label = look_lib.unit(
      max(x[-1] for x, *_ in drawn if len(x)), "training FLOPs")
  fig, (ax,) = look_lib.begin(1, content.look, 2.1)
  for i, (x, *ys) in enumerate(drawn):
    curves.draw_curve(ax, content, i, (x * factor, *ys))
  ax.axhline(found.loss, color="0.2", linestyle=":", linewidth=0.9)
  whole = found.baseline.scalar(comparison.spent_flops)[0]
  for i, (share, _, count) in enumerate(found.shares["FLOPs"]):
    if not count or content.series[i] is found.baseline:
      continue
    ax.plot([share * whole * factor], [found.loss], marker="v", markersize=6,
            color=content.look.colors[i], markeredgecolor="black",
            markeredgewidth=0.6, zorder=4)
    ax.annotate(f"{share:.2f}", (share * whole * factor, found.loss),
                textcoords="offset points", xytext=(-4, -10), ha="right",
                fontsize=7)
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
      f"({found.loss:.3f}). A triangle: where a series first comes down to it, "
      "with the share of the baseline's FLOPs." + comparison.caution(
          content.series, found.key))
