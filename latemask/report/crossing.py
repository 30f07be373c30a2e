"""What it takes to reach the loss at which a baseline ends.

For each run: the step at which its held-out loss first comes down to the mean
end of the baseline's runs, by a straight line between two evaluations; and what
was spent until then, as shares of what the baseline spent in all. Runs whose
losses cannot be compared with the baseline's never come down to it.
"""

import dataclasses
import math
import os

import numpy as np

from latemask import errors
from latemask.report import comparison
from latemask.report import runs as runs_lib
from latemask.report import series as series_lib

# What is spent: {name: function of a run and of steps}.
SPENT = {
    "FLOPs": runs_lib.Run.flops_at,
    "FLOPs with the optimizer's": runs_lib.Run.all_flops_at,
    "seconds": runs_lib.Run.secs_at,
    "tokens": runs_lib.Run.tokens_at,
}


# What else is told, as it is.
USED = {
    "device-hours": runs_lib.Run.device_hours_at,
    "kWh (estimate)": runs_lib.Run.kwh_at,
}


@dataclasses.dataclass(frozen=True)
class Crossing:
  """Series against a baseline.

  Fields:
    key: the held-out loss that is compared.
    baseline: its `Series`.
    loss: the mean at which its runs end.
    can_compare: whether a series can be compared with it, one each.
    steps: one list a series: the step of each run, NaN where it never is.
    shares: {a name of `SPENT`: [(mean, deviation, number of runs), one a
      series]}.
    used: the same of `USED`, not as shares.
  """

  key: str
  baseline: series_lib.Series
  loss: float
  can_compare: list
  steps: list
  shares: dict
  used: dict


def find(series, name, key):
  """Returns the `Crossing`.

  Args:
    name: of the baseline: a folder of it, its path, or its label.
    key: of the held-out losses.

  Raises:
    InputError: no series has that name, or it has not ended.
  """
  baseline = _named(series, name)
  loss, _, count = baseline.scalar(comparison.final(key))
  if not count or not baseline.is_finished:
    raise errors.InputError(f"--baseline {name} has not come to its end")
  kinds = comparison.kinds(series, key)
  can_compare = [kind == kinds[baseline.number - 1] for kind in kinds]
  # Its own runs end on either side of their mean.
  steps = [[float(run.last_step) if s is baseline else
            _first_step(run, key, loss) if can else math.nan
            for run in s.runs] for s, can in zip(series, can_compare)]
  by_path = {run.path: step for s, steps_of_runs in zip(series, steps)
             for run, step in zip(s.runs, steps_of_runs)}
  return Crossing(key, baseline, loss, can_compare, steps, {
      what: _used(series, by_path, spent, baseline.scalar(
          lambda run, spent=spent: float(spent(run, run.last_step)))[0])
      for what, spent in SPENT.items()}, {
      what: _used(series, by_path, used) for what, used in USED.items()})


def _used(series, by_path, used, whole=1.0):
  """Returns a (mean, deviation, number) a series; steps are by path of a run.
  """
  return [s.scalar(lambda run: float(used(run, by_path[run.path])) / whole)
          for s in series]


def _named(series, name):
  for s in series:
    paths = [os.path.realpath(run.path) for run in s.runs]
    if name in (s.label, *s.folders) or os.path.realpath(name) in paths:
      return s
  raise errors.InputError(
      f"--baseline {name} is none of these series: "
      + "; ".join(s.label for s in series))


def _first_step(run, key, loss):
  """Returns the step, not whole, at which a loss is first reached; or NaN."""
  if key not in run.evals:
    return math.nan
  steps, losses = run.evals["step"], run.evals[key]
  is_known = np.isfinite(losses)
  steps, losses = steps[is_known], losses[is_known]
  below = np.flatnonzero(losses <= loss)
  if not len(below):
    return math.nan
  at = below[0]
  if not at:
    return float(steps[0])
  high, low = losses[at - 1], losses[at]
  return float(steps[at - 1] + (steps[at] - steps[at - 1]) * (
      high - loss) / (high - low))
