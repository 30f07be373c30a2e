"""An entry of a speedrun, checked from what its runs have on record."""

import dataclasses
import datetime
import os

import numpy as np

from latemask import errors
from latemask.config import keys
from latemask.report import look as look_lib

# Runs of an entry: one seed may be lucky.
NUM_RUNS = 3
LOSS = "eval/rate_0.15/loss"
# Besides what packs the rows (`data.*`): how all are measured.
_FIXED = ("eval.masks", "eval.rates", "eval.max_rows", "train.init_from")


@dataclasses.dataclass(frozen=True)
class Track:
  """What all entries share.

  Fields:
    name: of the track.
    config: {dotted key: value}, of which `data.*` and some others are fixed.
    target: mean held-out loss at 15 % masks, in nats, to be reached.
    rows: digest of the rows; None takes those of the first run.
    num_rows: held-out rows; None takes those of the first run.
    text: what the rows are made of.
  """

  name: str
  config: dict
  target: float
  rows: str | None
  num_rows: int | None
  text: str


def entry(runs, track, hardware, commit):
  """Checks runs, and returns their line of the table of records.

  Args:
    runs: `runs.Run`s.

  Raises:
    InputError: the first rule that they break.
  """
  if len(runs) < NUM_RUNS:
    raise errors.InputError(
        f"an entry is {NUM_RUNS} runs or more, each of a seed of its own; "
        f"here {'is' if len(runs) == 1 else 'are'} {len(runs)}")
  for run in runs:
    _check(run, track)
  first = runs[0].config
  rows = track.rows or first["data.rows"]
  num_rows = track.num_rows or runs[0].final["eval/rows"]
  seeds = set()
  for run in runs:
    _check_rows(run, track, rows, num_rows)
    for key in first.keys() | run.config.keys():
      if first.get(key) != run.config.get(key) and key != "seed" and not (
          key in keys.PRETRAINING and keys.PRETRAINING[key].free):
        raise errors.InputError(
            f"{run.path}: {key} is {run.config.get(key)!r}, and "
            f"{first.get(key)!r} in {runs[0].path}; the runs of an entry "
            "differ in their seed alone")
    if run.config["seed"] in seeds:
      raise errors.InputError(
          f"{run.path}: another run has seed {run.config['seed']}, too")
    seeds.add(run.config["seed"])
  if seeds != set(range(1, len(runs) + 1)):
    raise errors.InputError(
        f"the seeds are {', '.join(map(str, sorted(seeds)))}; those of an "
        "entry are 1, 2, 3 and so on")
  losses = np.array([run.final[LOSS] for run in runs])
  if losses.mean() > track.target:
    raise errors.InputError(
        f"the mean held-out loss at 15 % masks is {losses.mean():.4f} "
        f"({', '.join(f'{loss:.4f}' for loss in losses)}); the target of the "
        f"track {track.name} is {track.target}")
  # Then nothing has told that they are made of the track's text.
  told = rows if track.rows else f"{rows} (the track tells none yet)"
  return _line(runs, losses, told, hardware, commit)


def _check(run, track):
  """Checks a run by itself."""
  if not run.is_finished or LOSS not in run.final:
    raise errors.InputError(
        f"{run.path} has not come to its end, or was not evaluated at 15 %")
  for key, value in track.config.items():
    if (key in _FIXED or key.startswith("data.") and not (
        keys.PRETRAINING[key].free)) and run.config.get(key) != value:
      raise errors.InputError(
          f"{run.path}: {key} is {run.config.get(key)!r}; the track "
          f"{track.name} has {value!r}")
  if "data.rows" not in run.config:
    raise errors.InputError(
        f"{run.path}: its rows do not lie where its config says, so nothing "
        "tells that they are those of the track")


def _check_rows(run, track, rows, num_rows):
  """Checks that its rows are those of the track."""
  found, num_found = run.config["data.rows"], run.final["eval/rows"]
  if (found, num_found) != (rows, num_rows):
    raise errors.InputError(
        f"{run.path}: its rows are {found} with {num_found:g} "
        f"held out; those of the track {track.name}, {track.text}, are {rows} "
        f"with {num_rows:g}")


def _line(runs, losses, rows, hardware, commit):
  """Returns {column: text}."""
  def mean(of_run, form):
    return look_lib.number(float(np.mean([of_run(r) for r in runs])), form)

  newest = max(os.path.getmtime(os.path.join(run.path, "metrics.jsonl"))
               for run in runs)
  return {
      "date": datetime.date.fromtimestamp(newest).isoformat(),
      "commit": commit, "hardware": hardware,
      "steps": f"{runs[0].last_step:,}",
      "TFLOP": mean(lambda r: float(r.flops_at(r.last_step)) / 1e12, ".2f"),
      "with the optimizer's": mean(
          lambda r: float(r.all_flops_at(r.last_step)) / 1e12, ".2f"),
      "seconds": mean(lambda r: float(r.secs_at(r.last_step)), ".0f"),
      "loss at 15 %": (f"{losses.mean():.4f} ± {losses.std(ddof=1):.4f}"),
      "rows": rows}
