"""Effective rank of the hidden states, by layer."""

import dataclasses

from matplotlib import lines

from latemask.report import look as look_lib


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
