"""What is held of a run, and of a fine-tuning workdir.

Of a file a few numbers a line are held while it is read; after that, means
over at most `MAX_POINTS` stretches of lines.
"""

import dataclasses
import math
import os

import numpy as np

MAX_POINTS = 500


@dataclasses.dataclass(frozen=True)
class Run:
  """A pre-training run.

  Fields:
    path: its workdir.
    config: {dotted key: value}, as if it were no older than the others of a
      report; `data.rows` is a digest of its rows, if all of them have one.
    train: {key of a line: float64 means over stretches of lines, by step};
      NaN where the lines say nothing.
    evals: the same of its evaluations.
    final: {key: value} of the newest evaluation; empty without one.
    last_step: newest step on record.
    flops: (steps, FLOPs of the model in the first steps), two arrays; from
      (0, 0) on.
    all_flops: the same with those of the optimizer.
    secs: the same of seconds of training, by the lines' tokens/s: without
      evaluations, saves and compiling.
    tokens_per_sec, mfu: median over the lines; NaN where none tells.
    data_wait_fraction: mean over the lines.
    devices, watts: median over the lines; NaN where none tells.
    num_lines: lines that could be used.
    num_damaged: lines that could not.
    num_rollbacks: of them so far.
    nonfinite_step: first step whose loss is no number; None where all are.
  """

  path: str
  config: dict
  train: dict
  evals: dict
  final: dict
  last_step: int
  flops: tuple[np.ndarray, np.ndarray]
  all_flops: tuple[np.ndarray, np.ndarray]
  secs: tuple[np.ndarray, np.ndarray]
  tokens_per_sec: float
  mfu: float
  data_wait_fraction: float
  devices: float
  watts: float
  num_lines: int
  num_damaged: int
  num_rollbacks: int
  nonfinite_step: int | None

  def flops_at(self, steps):
    """Returns FLOPs of the model in the first steps; NaN if no line tells."""
    return _at(steps, *self.flops)

  def all_flops_at(self, steps):
    """Returns these and the optimizer's; NaN where no line tells."""
    return _at(steps, *self.all_flops)

  def tokens_at(self, steps):
    """Returns tokens of the first steps, masked or not."""
    return np.asarray(steps) * self.step_tokens

  def device_hours_at(self, steps):
    """Returns hours of training until steps, times devices."""
    return self.secs_at(steps) * self.devices / 3600

  def kwh_at(self, steps):
    """Returns kWh until steps if all devices draw what they can at most."""
    return self.secs_at(steps) * self.watts / 3.6e6

  def secs_at(self, steps):
    """Returns seconds of training until steps; NaN where no line tells."""
    return _at(steps, *self.secs)

  @property
  def num_steps(self):
    """Steps of the whole run; None where nothing tells so far.

    Of a budget, as many as the newest lines promise.
    """
    budget_flops = self.config["train.total_flops"]
    if budget_flops is None:
      return self.config["train.num_steps"]
    next_flops = float(self.flops_at(self.last_step + 1)
                       - self.flops_at(self.last_step))
    if math.isnan(next_flops):
      return None
    left_flops = budget_flops - float(self.flops_at(self.last_step))
    # Differences of large numbers: no step may be lost to their last bits.
    return self.last_step + math.floor(left_flops / next_flops + 1e-6)

  @property
  def is_finished(self):
    """Whether the evaluation behind the last step is on record.

    That of a run that was stopped in it would be an older one.
    """
    return (self.num_steps is not None
            and self.final.get("step", -1) >= self.num_steps)

  @property
  def step_tokens(self):
    """Tokens of a step, masked or not."""
    return self.config["train.batch_size"] * self.config["data.length"]


@dataclasses.dataclass(frozen=True)
class Glue:
  """A fine-tuning workdir: `results` is {task: results of its cells}."""

  path: str
  config: dict
  results: dict

  @property
  def begun_from(self):
    """Real path of what it began from."""
    return os.path.realpath(self.config["init_from"])


@dataclasses.dataclass(frozen=True)
class Found:
  """All that was found.

  Fields:
    runs, glues: those that can be used, by path.
    columns: dotted keys that a sweep.json names, in its order.
    problems: one line for each file that is left out.
  """

  runs: list[Run]
  glues: list[Glue]
  columns: list[str]
  problems: list[str]


def _at(steps, known, spent):
  """Returns what was spent until steps, straight on from what is known."""
  if len(known) < 2:
    return np.full(np.shape(steps), np.nan)
  beyond = (spent[-1] - spent[-2]) / (known[-1] - known[-2])
  return np.interp(steps, known, spent) + beyond * np.maximum(
      0, np.asarray(steps) - known[-1])


def thin(columns, limit):
  """Returns columns of at most `limit` points: means over equal stretches.

  What is not finite is left out of a mean; a stretch of nothing else is NaN.

  Args:
    columns: {key: array of N numbers}.
  """
  size = len(columns["step"])
  if size <= limit:
    return columns
  starts = np.linspace(0, size, limit, endpoint=False).astype(int)
  thinned = {}
  for key, column in columns.items():
    is_finite = np.isfinite(column)
    counts = np.add.reduceat(is_finite.astype(int), starts)
    sums = np.add.reduceat(np.where(is_finite, column, 0.0), starts)
    thinned[key] = np.where(counts, sums / np.maximum(counts, 1), np.nan)
  return thinned
