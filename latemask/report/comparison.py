"""Which runs of a report can be compared, and by which held-out loss.

Losses are on one scale where runs read the same rows (text, tokenizer, length
and what is held out) and are asked the same: of how many of the held-out rows,
how much is hidden, in which units, and with what noise. Other runs are drawn
beside each other, and nothing joins or ranks them.
"""

import math

import numpy as np

from latemask.config import keys
from latemask.report import series as series_lib
from latemask.train import evaluate

# What rows do not depend on: where they lie, and how they are cut into files.
_NO_TEXT = keys.names(keys.PRETRAINING, "free") | {"data.shards"}
# What a unit depends on.
_UNIT_KEYS = {"span": ("masking.span_length", "masking.max_span_length"),
              "word": ("masking.word_starts",)}


def text(run):
  """Returns what tells the rows of a run from others.

  That is `data.rows` where the runs of a report all have it.
  """
  config = run.config
  if "data.rows" in config:
    return config["data.rows"], config.get("data.eval_fraction")
  return tuple(sorted((k, str(v)) for k, v in config.items()
                      if k.startswith("data.") and k not in _NO_TEXT))


def task(run, key):
  """Returns what a key of the held-out losses asks of a run."""
  config, rows = run.config, run.final.get("eval/rows")
  is_trained = key == "eval/loss"
  rate = config["masking.rate"] if is_trained else rate_of(key)
  if not is_trained and config["eval.masks"] == "fixed":
    return rows, rate, "token", 0.0, 0.0
  unit = config.get("masking.unit")
  return (rows, rate, unit, *map(config.get, (
      "masking.random_rate", "masking.same_rate",
      *_UNIT_KEYS.get(unit, ()))))


def rate_of(key):
  """Returns the rate in eval/rate_0.15/loss."""
  return evaluate.rates([key])[key]


def common_rates(runs):
  """Returns keys of the held-out losses at fixed rates that all runs have."""
  sets = [set(evaluate.rates(run.final)) for run in runs if run.final]
  return sorted(set.intersection(*sets), key=rate_of) if sets else []


def quality_key(runs):
  """Returns the held-out loss by which most runs can be compared.

  That at their own rate if they were trained at one task, else at the lowest
  rate that all share.
  """
  return min(["eval/loss"] + common_rates(runs),
             key=lambda key: len(_tasks(runs, key)))


def _tasks(runs, key):
  """Returns the tasks of the runs that were evaluated."""
  return {task(run, key) for run in runs if run.final}


def loss_name(key):
  """Returns what a key of the held-out losses is called."""
  if key == "eval/loss":
    return "held-out loss"
  return f"held-out loss at {100 * rate_of(key):g} % masks"


def kinds(series, key=None):
  """Returns a number for each series: those of a number can be compared.

  Args:
    key: of the held-out losses; None looks at the rows alone.
  """
  # One that has been evaluated, if there is one.
  first = [next((run for run in s.runs if run.final), s.runs[0])
           for s in series]
  found = [(text(run), key and task(run, key)) for run in first]
  order = list(dict.fromkeys(found))
  return [order.index(kind) for kind in found]


def fewest_rows(runs):
  """Returns the held-out rows of the run with the fewest; NaN if unknown."""
  return min((rows for rows in (
      run.final.get("eval/rows", math.nan) for run in runs)
              if not math.isnan(rows)), default=math.nan)


def is_few(runs):
  """Whether a run has too few held-out rows for any to be called the best."""
  return fewest_rows(runs) < evaluate.FEW_ROWS


def caution(series, key):
  """Returns a sentence on what cannot be compared, or nothing."""
  num_texts = len(set(kinds(series)))
  tasks = _tasks([run for s in series for run in s.runs], key)
  told = ""
  if num_texts > 1:
    told += (f" These runs are of {num_texts} texts or tokenizers (`data.*`): "
             "they are drawn together, and nothing joins or compares them.")
  if len(tasks) > 1:
    told += (" Mind that losses at unlike mask rates, units or noise, or of "
             "unlike rows, measure unlike tasks; nothing joins or compares "
             "these.")
  if is_few([run for s in series for run in s.runs]):
    told += (f" Too few rows are held out (fewer than {evaluate.FEW_ROWS}) to "
             "tell which is best.")
  return told


def grid(series, of_run, lower_is_better=True, kinds=None):
  """Returns (rates_R, layers_I, value_RxI, count_RxI), of a heat map.

  Mask rate x insertion layer; NaN where nothing was run. Where series in a
  cell differ in other keys, the one with the best mean stands for it; NaN
  where they cannot be compared.

  Args:
    of_run: function of a run: a number, NaN where unknown.
    kinds: one a series, as of `kinds`; None: all are alike.
  """
  cells = {}
  kinds = dict(zip((s.number for s in series), kinds or [0] * len(series)))
  for s in series_lib.settled(series):
    config = s.runs[0].config
    mean, _, count = s.scalar(of_run)
    if count and len(s.rates) == 1:  # Phases have no place in it.
      cells.setdefault((s.rates[0],
                        config["model.insertion_layer"]), []).append(
                            (kinds[s.number], mean, count))
  rates = sorted({rate for rate, _ in cells})
  layers = sorted({layer for _, layer in cells})
  value_RxI = np.full((len(rates), len(layers)), np.nan)
  count_RxI = np.zeros((len(rates), len(layers)), int)
  best = min if lower_is_better else max
  for (rate, layer), cell in cells.items():
    place = rates.index(rate), layers.index(layer)
    if len({kind for kind, *_ in cell}) == 1:
      _, value_RxI[place], count_RxI[place] = best(
          cell, key=lambda found: found[1])
  return rates, layers, value_RxI, count_RxI


def depths(series):
  """Returns {insertion layer: how it is called}: "4 of 6" where depths differ.

  The number alone where all are as deep, or a cell holds several depths.
  """
  found = {}
  for s in series:
    config = s.runs[0].config
    found.setdefault(config["model.insertion_layer"], set()).add(
        config["model.layers"])
  says_all = len(set.union(*found.values())) == 1 or any(
      len(layers) > 1 for layers in found.values())
  return {layer: str(layer) if says_all else f"{layer} of {layers.pop()}"
          for layer, layers in found.items()}


def final(key):
  """Returns a function of a run: a number of its newest evaluation, or NaN."""
  return lambda run: run.final.get(key, math.nan)


def spent_flops(run):
  """Returns the FLOPs up to the newest evaluation; NaN where unknown."""
  return float(run.flops_at(run.final.get("step", math.nan)))


def equal_compute(series):
  """Returns (key, values, groups) of a sweep whose runs cost the same.

  To draw quality over: the key of few values that was swept, its values and
  those of the other keys, one a series. None where runs cost more or less, or
  no key of numbers differs.
  """
  flops = [f for f in (s.scalar(spent_flops)[0] for s in series)
           if math.isfinite(f)]
  if not flops or max(flops) > 1.02 * min(flops):
    return None
  swept = {key: values for key, values in series_lib.numbers(series).items()
           if len(set(values)) > 1}
  if not swept:
    return None
  # The colour is that of most values, the first of equals.
  key = min(reversed(swept), key=lambda k: len(set(swept[k])))
  return key, swept[key], [
      tuple(v for k, v in s.values.items() if k != key) for s in series]


def frontier(points):
  """Returns the indices of points that no other beats in cost and loss.

  Args:
    points: [(cost, loss)], finite.
  """
  best, chosen = math.inf, []
  for index in sorted(range(len(points)), key=lambda i: points[i]):
    if points[index][1] < best:
      best = points[index][1]
      chosen.append(index)
  return chosen
