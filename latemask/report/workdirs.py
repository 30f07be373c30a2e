"""One workdir, of a run or of fine-tuning, read line by line.

A run is a folder with config.json and metrics.jsonl, a fine-tuning workdir has
config.json and cells/TASK/*.json. A file that cannot be used raises `Damaged`;
a line that cannot be used is counted and skipped.
"""

import array
import json
import math

import numpy as np

from latemask.config import spec
from latemask.finetune import grid as grid_lib
from latemask.report import runs as runs_lib

# Of the lines about training; "loss" tells one from the others.
_TRAIN_KEYS = ("step", "loss", "accuracy", "tokens_per_sec",
               "data_wait_fraction", "mfu", "flops", "all_flops", "devices",
               "watts")
# Keys of config.json without which neither tokens nor a place can be told.
_NEEDED_KEYS = ("masking.rate", "model.insertion_layer", "model.layers",
                "train.batch_size", "train.num_steps", "train.total_flops",
                "data.length", "seed")


class Damaged(Exception):
  """A file cannot be used; the message says why."""


def read_json(path):
  """Returns the object in a file.

  Raises:
    Damaged: there is none.
  """
  try:
    value = json.loads(path.read_text())
  except (OSError, ValueError) as error:  # Both kinds of damage to JSON.
    raise Damaged(f"{path} cannot be read: {error}") from error
  if not isinstance(value, dict):
    raise Damaged(f"{path} holds no JSON object")
  return value


def read_run(path):
  """Reads a run.

  Raises:
    Damaged: config.json or metrics.jsonl cannot be used.
  """
  config = spec.flatten(read_json(path / "config.json"))
  if "optimizer.warmup_steps" in config:  # Begun before it was a share.
    config["optimizer.warmup_fraction"] = (
        config.pop("optimizer.warmup_steps") / config["train.num_steps"])
  config.pop("model.loss_chunk", None)  # What it meant is but rounding.
  for key in _NEEDED_KEYS:
    if key not in config:
      raise Damaged(f"{path}/config.json has no {key}")
  columns = {key: array.array("d") for key in _TRAIN_KEYS}
  evaluations, counts = [], {"lines": 0, "damaged": 0, "rollbacks": 0}
  file_path = path / "metrics.jsonl"
  try:
    with file_path.open(encoding="utf-8", errors="replace",
                        newline="\n") as file:
      for line in file:
        try:
          _take(json.loads(line), columns, evaluations, counts)
          counts["lines"] += 1
        except (ValueError, TypeError, KeyError):
          # The last line of a live run may be half written.
          counts["damaged"] += line.endswith("\n")
  except OSError as error:
    raise Damaged(f"{file_path} cannot be read: {error}") from error
  if not counts["lines"]:
    raise Damaged(
        f"{file_path} is damaged: none of its {counts['damaged']} lines can "
        "be read" if counts["damaged"] else f"{file_path} has no line so far")
  return _summarise(str(path), config, columns, evaluations, counts)


def _take(record, columns, evaluations, counts):
  """Takes the numbers of a line.

  Raises:
    ValueError, TypeError, KeyError: it is no line of metrics.
  """
  step = float(record["step"])
  if not math.isfinite(step):
    raise ValueError(step)
  if "loss" in record:
    # All first, so that a line is taken whole or not at all. Numbers that are
    # not finite are written as strings.
    values = [float(record.get(key, math.nan)) for key in _TRAIN_KEYS]
    for key, value in zip(_TRAIN_KEYS, values):
      columns[key].append(value)
  elif "eval/loss" in record:
    evaluations.append({"step": step} | {
        key: float(value) for key, value in record.items()
        if key.startswith("eval/")})
  elif "rollback" in record:
    counts["rollbacks"] += 1


def _summarise(path, config, columns, evaluations, counts):
  train = {key: np.array(column) for key, column in columns.items()}
  # A line may stand at the wrong place only where files were put together.
  order = np.argsort(train["step"], kind="stable")
  train = {key: column[order] for key, column in train.items()}
  evaluations.sort(key=lambda e: e["step"])
  eval_keys = dict.fromkeys(key for e in evaluations for key in e)
  evals = {key: np.array([e.get(key, math.nan) for e in evaluations])
           for key in eval_keys or ("step",)}
  bad = [step for known, key in ((train, "loss"), (evals, "eval/loss"))
         for step in known["step"][~np.isfinite(known.get(key, ()))]]
  steps = np.concatenate([train["step"], evals["step"]])
  return runs_lib.Run(
      path=path, config=config, train=runs_lib.thin(train, runs_lib.MAX_POINTS),
      evals=runs_lib.thin(evals, runs_lib.MAX_POINTS),
      final=evaluations[-1] if evaluations else {},
      last_step=int(steps.max()) if len(steps) else 0,
      flops=_spent(train, "flops"), all_flops=_spent(train, "all_flops"),
      secs=_secs(train, config["train.batch_size"] * config["data.length"]),
      tokens_per_sec=_over(np.nanmedian, train["tokens_per_sec"]),
      mfu=_over(np.nanmedian, train["mfu"]),
      data_wait_fraction=_over(np.nanmean, train["data_wait_fraction"]),
      devices=_over(np.nanmedian, train["devices"]),
      watts=_over(np.nanmedian, train["watts"]),
      num_lines=counts["lines"], num_damaged=counts["damaged"],
      num_rollbacks=counts["rollbacks"],
      nonfinite_step=int(min(bad)) if bad else None)


def _spent(train, key):
  """Returns (steps, what a key says was spent on the first steps)."""
  known = np.isfinite(train[key]) & (train["step"] > 0)
  return _from_zero(train["step"][known], train[key][known])


def _secs(train, step_tokens):
  """Returns (steps, seconds of the first steps)."""
  speed = train["tokens_per_sec"]
  known = np.isfinite(speed) & (speed > 0) & (train["step"] > 0)
  steps = train["step"][known]
  return _from_zero(steps, np.cumsum(
      np.diff(steps, prepend=0) * step_tokens / speed[known]))


def _from_zero(steps, spent):
  """Returns (steps, what was spent on them), thinned; nothing on none."""
  columns = runs_lib.thin({"step": steps, "spent": spent}, runs_lib.MAX_POINTS)
  return tuple(np.append(0, column) for column in columns.values())


def _over(function, values):
  """Applies a function that ignores NaN; NaN where there is nothing else."""
  return (math.nan if np.isnan(values).all() else float(function(values)))


def read_glue(path, problems):
  """Reads a fine-tuning workdir; damaged cells are added to `problems`.

  Raises:
    Damaged: config.json or all cells cannot be used.
  """
  config = spec.flatten(read_json(path / "config.json"))
  if not isinstance(config.get("init_from"), str):
    raise Damaged(f"{path}/config.json has no init_from")
  results = {}
  for task in grid_lib.in_order(
      sorted(folder.name for folder in (path / "cells").iterdir())):
    for cell in sorted((path / "cells" / task).glob("*.json")):
      try:
        result = read_json(cell)
        # Scores of other rows are those of another task.
        name = f"{task}, {config['data.dev']}" if "data.dev" in config else task
        cells = results.setdefault(name, [])
        scored = grid_lib.scored(cells)
        _check_cell(cell, result, scored[0]["metrics"] if scored else None)
        cells.append(result)
      except Damaged as error:
        problems.append(str(error))
  results = {task: cells for task, cells in results.items() if cells}
  if not results:
    raise Damaged(f"{path}/cells holds no result that can be read")
  return runs_lib.Glue(str(path), config, results)


def _check_cell(path, result, metrics_of_first):
  """Raises Damaged unless it is the result of a cell, failed or not."""
  numbers = [result.get(key) for key in (
      "learning_rate", "batch_size", "seed")]
  metrics = result.get("metrics")
  if grid_lib.failed_epoch(result) is None:
    is_whole = isinstance(metrics, dict) and metrics and (
        metrics.keys() == (metrics_of_first or metrics).keys())
    numbers += [result.get("score"), *(metrics.values() if is_whole else ())]
  else:
    is_whole = True
  if not is_whole or not all(isinstance(n, (int, float)) for n in numbers):
    raise Damaged(f"{path} is no result of a cell")
