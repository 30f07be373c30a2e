"""Loss, accuracy and throughput over steps, tokens or FLOPs."""

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
