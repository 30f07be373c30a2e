"""Effective rank of the hidden states, by layer."""

import dataclasses

from matplotlib import lines

from latemask.report import look as look_lib


def rank(content):
  """Draws the effective rank of real tokens by layer, and what masks change.
  """
  series, ranks = zip(*content.ranks)
  looks = look_lib.pick(content.look, [s.number - 1 for s in series])
  is_named = len(series) <= look_lib.MAX_NAMED
  fig, axes = look_lib.begin(
      2, dataclasses.replace(looks, handles=_handles(looks, is_named)),
      sharex=True)
  for i, found in enumerate(ranks):
    _draw_series(axes, looks, i, found, is_named)
  axes[1].axhline(0, color="0.4", linewidth=0.6)
  _draw_insertions(axes, {
      s.runs[0].config["model.insertion_layer"] for s in series})
  axes[1].xaxis.get_major_locator().set_params(integer=True)
  axes[0].set_ylim(bottom=0)
  axes[1].set_xlabel("before layer (0: embeddings; last: output)")
  axes[0].set_ylabel("effective rank\n(dimensions)")
  axes[1].set_ylabel("change by\nmasking (%)")
  fig.align_ylabels(axes)
  return fig, (
      "Effective rank, exp of the entropy of the normalised singular values "
      "(Roy and Vetterli, 2007; not centred), of the hidden states of the "
      "same real tokens: with nothing hidden, and with the other half of the "
      "tokens hidden, whose slots join before the insertion layer. Ordinary "
      "tokens of held-out rows, newest checkpoint, states as they go into a "
      "layer (layers are counted from 0; the last is what comes out of the "
      "model's last layer), mean over seeds.")


def _handles(looks, is_named):
  """Returns the legend: the series, and with what of the tokens masked."""
  named = [(lines.Line2D([], [], color=line.get_color()), name)
           for line, name in looks.handles] if is_named else []
  return named + [
      (lines.Line2D([], [], color="0.3", marker="o", markersize=2.5),
       "nothing masked"),
      (lines.Line2D([], [], color="0.3", linestyle=look_lib.DASHES[2],
                    marker="s", markersize=2.5), "half masked")]


def _draw_series(axes, looks, i, found, is_named):
  """Draws the `effective_rank.Ranks` of a series."""
  options = {"color": looks.colors[i], "markersize": 2.5,
             "linewidth": 1.1 if is_named else 0.6}
  layers = range(len(found.masked))
  for y, dash, marker in ((found.unmasked, "-", "o"),
                          (found.masked, look_lib.DASHES[2], "s")):
    axes[0].plot(layers, y, linestyle=dash,
                 marker=marker if is_named else None, **options)
  axes[1].plot(layers, 100 * (found.masked / found.unmasked - 1),
               linestyle="-" if is_named else looks.dashes[i],
               marker=looks.markers[i] if is_named else None, **options)


def _draw_insertions(axes, layers):
  """Marks where masks join, if the series have few such layers."""
  for layer in sorted(layers) if len(layers) <= 4 else ():
    for ax in axes:
      ax.axvline(layer, color="0.6", linewidth=0.6, zorder=0)
    axes[0].annotate(
        "masks join", (layer, 0), xycoords=("data", "axes fraction"),
        xytext=(2, 3), textcoords="offset points", color="0.4", rotation=90)
