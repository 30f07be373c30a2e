"""What a report draws: series of runs that differ in their seed alone.

A series is named by the folders of its runs, and by the config keys in which
it differs from the others: the `columns` of a sweep.json where there is one,
else mask rate and insertion layer, and then the fewest others that tell all
series apart. The folders of a sweep say the same keys, and are left out.
"""

import collections
import dataclasses
import json
import math
import os
import re

import numpy as np

from latemask.config import keys
from latemask.finetune import grid as grid_lib

# Of a run, what it may change on its way; of fine-tuning, what it is told to
# do and where things lie: no part of what they are.
_FREE_KEYS = keys.names(keys.PRETRAINING, "free") | keys.names(
    keys.GLUE, "free") | {"grid.num_epochs"}
# What says how a run is watched rather than what it is: names of a series take
# them last.
_LAST_KEYS = re.compile(r"data\.rows$|(eval|checkpoint|metrics|mesh)\.")
# Keys that readers look for first.
_FIRST_KEYS = ("masking.rate", "model.insertion_layer", "model.decoder",
               "masking.predict_rate", "model.layers", "model.width",
               "optimizer.learning_rate", "train.batch_size")
VANILLA_RATE = 0.15


@dataclasses.dataclass(frozen=True)
class Series:
  """Runs, or fine-tuning workdirs, that differ in their seed alone.

  Fields:
    number: its place in the table, from 1.
    label: what it is called in pictures.
    values: {key: value} that tell it from the others.
    runs: its members.
    folders: what their folders are called, one a run.
  """

  number: int
  label: str
  values: dict
  runs: list
  folders: list

  @property
  def members(self):
    """The folders in short."""
    return _in_short(self.folders, 3)

  def scalar(self, of_run):
    """Returns (mean, sample deviation, number) over the runs that know it."""
    values = [v for v in map(of_run, self.runs) if math.isfinite(v)]
    if not values:
      return math.nan, math.nan, 0
    return (float(np.mean(values)), grid_lib.deviation(values),
            len(values))

  @property
  def is_finished(self):
    """Whether all runs have come to their end."""
    return all(run.is_finished for run in self.runs)

  @property
  def masks_at_input(self):
    """Whether this is ordinary masked language modelling."""
    return self.runs[0].config["model.insertion_layer"] == 0

  @property
  def is_vanilla(self):
    """Whether this is the baseline: 15 % masks, at the input."""
    return self.masks_at_input and set(self.rates) == {VANILLA_RATE}

  @property
  def rates(self):
    """Mask rates of training, phase by phase."""
    config = self.runs[0].config
    return [rate for rate, *_ in config["masking.phases"] or (
        [config["masking.rate"]],)]


def group(runs, columns):
  """Returns (series, keys that name them, all keys in which they differ).

  Args:
    runs: with `path` and a flat `config`.
    columns: keys that are wanted as names, first.
  """
  configs = [{k: json.dumps(v) for k, v in run.config.items()
              if k not in _FREE_KEYS and k != "seed"} for run in runs]
  keys = sorted(set().union(*configs), key=_rank)
  differing = [k for k in keys if len({c.get(k) for c in configs}) > 1]
  members = {}
  for run, folder, config in zip(runs, folders(runs), configs):
    members.setdefault(tuple(config.get(k) for k in differing), []).append(
        (run, folder))
  naming = _fewest(differing, list(members),
                   [c for c in columns or _FIRST_KEYS[:2] if c in differing])
  series = []
  for place in sorted(members, key=lambda p: [
      _order(dict(zip(differing, p))[k]) for k in naming + differing]):
    mine, names = zip(*sorted(members[place], key=lambda member: (
        str(member[0].config.get("seed")), member[0].path)))
    values = {k: mine[0].config.get(k) for k in naming}
    series.append(Series(len(series) + 1, _label(names, values), values,
                         list(mine), list(names)))
  if len({s.label for s in series}) < len(series):
    # What tells them apart was cut off, or rounded.
    series = [dataclasses.replace(s, label=_label(s.folders, s.values, str))
              for s in series]
  return series, naming, differing


def folders(runs):
  """Returns what the folder of each run is called: its name.

  Where two have one name, each is its path below the folder that holds all.
  """
  paths = [os.path.abspath(run.path) for run in runs]
  names = [os.path.basename(path) for path in paths]
  if len(set(names)) == len(names):
    return names
  top = os.path.commonpath([os.path.dirname(path) for path in paths])
  return [os.path.relpath(path, top) for path in paths]


def group_glue(glues, names):
  """Returns the series of fine-tuning workdirs, in the order of `names`.

  Those that are told to do the same, of runs that differ in their seed alone,
  are one.

  Args:
    names: {real path of a pre-training run: its label}.
  """
  found, order = {}, list(dict.fromkeys(names.values()))
  # Runs that differ in their seed alone are one beginning.
  told = [dataclasses.replace(one, config=one.config | {
      "init_from": names.get(one.begun_from, one.config["init_from"])})
          for one in glues]
  by_path = {one.path: one for one in glues}
  several = len({one.begun_from for one in glues}) > 1
  grouped = group(told, ())[0]
  # As in `group`: where what is shown does not tell them apart, all of it does.
  say = str if len({_keys(s.values) for s in grouped}) < len(grouped) else None
  for s in grouped:
    members = [by_path[run.path] for run in s.runs]
    times = collections.Counter(member.begun_from for member in members)
    for member, folder in zip(members, s.folders):
      values, begun = dict(s.values), names.get(member.begun_from)
      if begun and several:
        values.pop("init_from", None)
        label = ", ".join(filter(None, [begun, _keys(values, say)]))
        if "init_from" in s.values:
          values["init_from"] = begun
        label += f" ({folder})" if times[member.begun_from] > 1 else ""
      else:
        label = _label([folder], values, say)
      place = order.index(begun) if begun else len(order)
      # What began from elsewhere is not known to differ in its seed alone.
      key = place, label, None if begun else member.path
      found.setdefault(key, (values, [], []))
      found[key][1].append(member)
      found[key][2].append(folder)
  return [Series(i + 1, key[1], *found[key]) for i, key in enumerate(
      sorted(found, key=lambda key: key[0]))]


def _rank(key):
  return (_FIRST_KEYS.index(key) if key in _FIRST_KEYS else len(_FIRST_KEYS),
          bool(_LAST_KEYS.match(key)), key)


def _order(text):
  """Sorts JSON values: numbers by size, before the others."""
  value = None if text is None else json.loads(text)
  is_number = isinstance(value, (int, float))
  return (not is_number, value if is_number else 0, text or "")


def _fewest(keys, places, wanted):
  """Returns `wanted` and then keys, each of which tells more places apart."""
  chosen = list(wanted)
  index = {key: i for i, key in enumerate(keys)}

  def parts(chosen):
    return len({tuple(p[index[k]] for k in chosen) for p in places})

  for key in keys:
    if parts(chosen + [key]) > parts(chosen):
      chosen.append(key)
  return chosen


def _label(names, values, say=None):
  """Returns what a series is called in pictures: folders, and keys.

  Args:
    say: what makes text of a value; None: `show`.
  """
  if not values:
    return _in_short(names, 3)
  # A sweep names its folders by the keys.
  if any("=" in name for name in names):
    return _keys(values, say)
  return f"{_in_short(names, 2)} ({_keys(values, say)})"


def _keys(values, say=None):
  return ", ".join(f"{short(key)} {(say or show)(value)}"
                   for key, value in values.items())


def _in_short(names, count):
  more = len(names) - count
  return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def short(key):
  """Returns a config key as words: its last part, with spaces."""
  group_name, _, last = key.rpartition(".")
  if last == "name":
    return group_name
  # These say nothing without their group.
  if last in ("rate", "schedule", "length", "unit", "source"):
    last = {"masking": "mask"}.get(group_name, group_name) + " " + last
  return last.replace("_", " ")


def show(value):
  """Returns a config value for a label."""
  if isinstance(value, bool) or value is None:
    return str(value)
  if isinstance(value, float):
    return f"{value:g}"
  text = str(value)
  return text if len(text) <= 24 else "..." + text[-21:]


def numbers(series):
  """Returns {key: its value in each series} of naming keys that are numbers."""
  columns = {key: [s.values[key] for s in series] for key in series[0].values}
  return {key: values for key, values in columns.items()
          if all(isinstance(v, (int, float)) for v in values)}


def settled(series):
  """Returns the series whose runs have all ended; all where none has."""
  return [s for s in series if s.is_finished] or list(series)
