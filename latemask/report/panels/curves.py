"""Loss, accuracy and throughput over steps, tokens or FLOPs.

Each picture is a row of `_KINDS` over one of `_OVER`.
"""

import math

import numpy as np

from latemask.report import look as look_lib
from latemask.report import runs as runs_lib

# Points of all curves of a panel, of one, and of one that is mostly noise:
# more are no use at this width, and would make SVG files large.
_PANEL_POINTS, _CURVE_POINTS, _NOISY_POINTS = 12_000, 250, 50
_NOISY = ("tokens_per_sec", "data_wait_fraction")
# A panel whose longest curve has no more points is drawn from the start.
_FEW_POINTS = 60
_FEW_MARKERS = 30

# {name of x: function of a run and of steps}.
_OVER = {"steps": lambda run, steps: steps,
         "tokens": runs_lib.Run.tokens_at,
         "training FLOPs": runs_lib.Run.flops_at}
# Panels: part of a run, key, factor, name of y, whether it is a loss.
_LOSSES = (
    ("train", "loss", 1, "training loss\n(nats a target)", True),
    ("evals", "eval/loss", 1, "held-out loss\n(nats a target)", True))
_ACCURACIES = (
    ("train", "accuracy", 100, "training\naccuracy (%)", False),
    ("evals", "eval/accuracy", 100, "held-out\naccuracy (%)", False))


def loss_over_steps(content):
  """Draws losses against steps."""
  return _draw(content, "steps", _LOSSES,
               "Loss against steps, each run at its own mask rate.")


def loss_over_tokens(content):
  """Draws losses against tokens."""
  return _draw(content, "tokens", _LOSSES, "The same against tokens.",
               has_notes=False)


def loss_over_flops(content):
  """Draws losses against FLOPs."""
  return _draw(content, "training FLOPs", _LOSSES, "The same against FLOPs.",
               has_notes=False)


def accuracy(content):
  """Draws how many of the targets are predicted."""
  return _draw(content, "steps", _ACCURACIES,
               "Share of the hidden tokens that are predicted.")


def throughput(content):
  """Draws tokens a second, and how much of the time steps wait for data."""
  fastest = max((run.tokens_per_sec for run in content.runs
                 if math.isfinite(run.tokens_per_sec)), default=math.nan)
  factor, name = look_lib.unit(fastest, "tokens/s")
  return _draw(content, "steps", (
      ("train", "tokens_per_sec", factor, name.replace(" (", "\n("), False),
      ("train", "data_wait_fraction", 100, "waiting for\ndata (%)", False)),
               "Throughput (tokens of rows, masked or not), and the share of "
               "the time that steps wait for data.")


def _draw(content, x_name, panels, caption, has_notes=True):
  """Draws panels above each other.

  Returns:
    (figure, caption); None where nothing is known.
  """
  series = content.series
  drawn = [(panel, [curve(s, _OVER[x_name], *panel[:2]) for s in series])
           for panel in panels]
  drawn = [(panel, curves) for panel, curves in drawn
           if any(len(x) for x, *_ in curves)]
  if not drawn:
    return None
  factor, label = look_lib.unit(max(
      x[-1] for _, curves in drawn for x, *_ in curves if len(x)), x_name)
  fig, axes = look_lib.begin(len(drawn), content.look, sharex=True)
  most, is_cut = 0, False  # Points that a curve is drawn of; a start left out.
  for ax, ((_, key, scale, name, is_loss), curves) in zip(axes, drawn):
    limit = _limit(key, len(series))
    thinned = [tuple(runs_lib.thin(
        {"step": x * factor, **{n: y * scale for n, y in zip(
            ("mean", "low", "high"), ys)}}, limit).values())
               for x, *ys in curves]
    for i, points in enumerate(thinned):
      draw_curve(ax, content, i, points)
    ax.set_ylabel(name)
    if is_loss:
      is_cut |= _limit_loss(ax, thinned)
    else:
      ax.set_ylim(bottom=0)
    if any(len(x) > limit for x, *_ in curves):
      most = max(most, limit)
  axes[-1].set_xlabel(label)
  axes[-1].set_xlim(left=0)
  fig.align_ylabels(axes)
  return fig, caption + (_notes(content, most, is_cut) if has_notes else "")


def _limit(key, num_series):
  """Returns the points that a curve has at most."""
  return _NOISY_POINTS if key in _NOISY else min(
      _CURVE_POINTS, max(_FEW_POINTS, _PANEL_POINTS // num_series))


def draw_curve(ax, content, i, points):
  """Draws the curve of series `i`, with a band where it has several seeds."""
  looks, num_series = content.look, len(content.series)
  is_named = num_series <= look_lib.MAX_NAMED
  x, mean, low, high = points
  is_few = is_named and len(x) <= _FEW_MARKERS
  ax.plot(x, mean, color=looks.colors[i], linestyle=looks.dashes[i],
          marker=looks.markers[i] if is_few or len(x) == 1 else None,
          markersize=2.5, linewidth=1.1 if is_named else 0.6,
          alpha=1 if num_series <= 40 else 0.7)
  if is_named and len(content.series[i].runs) > 1:
    ax.fill_between(x, low, high, color=looks.colors[i], alpha=0.2,
                    linewidth=0)


def _limit_loss(ax, curves):
  """Ends y at the loss after 3 % of the steps, unless points are few.

  Returns:
    Whether a part of a curve lies above the picture.
  """
  later = [mean[x >= 0.03 * x[-1]] for x, mean, *_ in curves if len(x) > 2]
  if max(len(x) for x, *_ in curves) <= _FEW_POINTS or not later:
    return False
  later = np.concatenate(later)
  top, bottom = np.percentile(later, 99.5), later.min()
  if not top > bottom:
    return False
  margin = 0.06 * (top - bottom)
  ax.set_ylim(bottom - margin, top + margin)
  return any((mean > top + margin).any() for _, mean, *_ in curves)


def _notes(content, most, is_cut):
  """Returns what a reader must know of the points, for the caption."""
  notes = ""
  if most:
    notes += (f" Points are means over stretches of lines, at most {most} a "
              "curve.")
  if is_cut:
    notes += (" Higher losses, mostly of the start of training, lie above the "
              "picture.")
  is_named = len(content.series) <= look_lib.MAX_NAMED
  if any(len(s.runs) > 1 for s in content.series):
    notes += " Of several seeds the mean of those that came so far" + (
        ", with a band from the lowest to the highest." if is_named else ".")
  if not is_named:
    notes += " Keys that neither colour nor dashes show are in the table."
  return notes


def curve(series, x_of_steps, part, key):
  """Returns (x, mean, low, high) over the runs of a series, each [P].

  Where seeds have come to different steps, the mean is over those that have
  come so far.

  Args:
    x_of_steps: function of a run and of steps, see `_OVER`.
    part: "train" or "evals".
  """
  curves = []
  for run in series.runs:
    columns = getattr(run, part)
    if key in columns and len(columns["step"]):
      is_known = np.isfinite(columns[key])
      curves.append((x_of_steps(run, columns["step"][is_known]),
                     columns[key][is_known]))
  curves = [c for c in curves if len(c[0]) and np.isfinite(c[0]).all()]
  if not curves:
    return (np.zeros(0),) * 4
  x_P = max((c[0] for c in curves), key=lambda x: (x[-1], len(x)))
  y_RxP = np.array([np.interp(x_P, x, y, right=np.nan) for x, y in curves])
  # The longest curve knows every point, so there is no column of NaN alone.
  return (x_P, np.nanmean(y_RxP, 0), np.nanmin(y_RxP, 0),
          np.nanmax(y_RxP, 0))
