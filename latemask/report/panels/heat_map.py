"""Quality by mask rate and insertion layer."""

import math
import os

import numpy as np

from latemask.config import keys as keys_lib
from latemask.report import comparison
from latemask.report import look as look_lib
from latemask.report import series as series_lib

# Words in these groups of keys make another recipe. Numbers of them may be
# tuned cell by cell.
_RECIPE = ("model", "masking", "optimizer", "train")
# What changes with the layer, or nothing in what is computed.
_ALIKE = keys_lib.names(keys_lib.PRETRAINING, "free") | {"model.insertion"}


def loss(content):
  """Draws the last held-out loss, at each run's rate and at one for all."""
  series, only = _of_one_recipe(content.series)
  keys = list(dict.fromkeys(["eval/loss", content.quality_key]))
  fig = _draw([
      (comparison.loss_name(key) + (
          " (trained rate)" if key == "eval/loss" else ""), "nats a target",
       comparison.grid(series, comparison.final(key),
                       kinds=comparison.kinds(series, key)), True)
      for key in keys], comparison.depths(content.settled))
  return fig and (fig, "Final held-out loss by mask rate and insertion layer"
                  + (": above at the rate that each was trained at (an easier "
                     "task where fewer tokens are hidden), below at one rate "
                     "for all" if len(keys) > 1 else "")
                  + ". Mean over seeds; where other keys differ, the best."
                  + only + content.unfinished)


def glue(content):
  """Draws the GLUE average of what began from the runs."""
  averages = content.glue_averages
  series, only = _of_one_recipe(content.series)
  fig = _draw([("GLUE average", "%", comparison.grid(
      series, lambda run: averages.get(
          os.path.realpath(run.path), math.nan), False), False)],
              comparison.depths(content.settled))
  return fig and (fig, "GLUE average by mask rate and insertion layer of "
                  f"pre-training, mean over its seeds.{only}"
                  + content.unfinished)


def _of_one_recipe(series):
  """Returns (the series of the recipe that fills most cells, which that is).

  Else neighbours would differ in more than rate and layer: AdamW beside Muon.
  """
  settled = series_lib.settled(series)
  configs = [s.runs[0].config for s in settled]
  words = {key for config in configs for key, value in config.items()
           if isinstance(value, str) and key.split(".")[0] in _RECIPE
           and key not in _ALIKE}
  differing = sorted(key for key in words
                     if len({config.get(key) for config in configs}) > 1)
  recipes = {}
  for s, config in zip(settled, configs):
    recipe = tuple(config.get(key) for key in differing)
    recipes.setdefault(recipe, []).append(s)
  chosen = max(recipes, key=lambda recipe: len({
      (s.rates[0], s.runs[0].config["model.insertion_layer"])
      for s in recipes[recipe] if len(s.rates) == 1}))
  if len(recipes) == 1:
    return series, ""
  return recipes[chosen], " Only {}; the others stand in the table.".format(
      ", ".join(f"{series_lib.short(key)} {series_lib.show(value)}"
                for key, value in zip(differing, chosen)))


def _draw(panels, names):
  """Draws numbers over mask rate and insertion layer, the better the lighter.

  Args:
    panels: [(title, unit, what `comparison.grid` returns, whether the
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
