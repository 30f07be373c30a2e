"""The points of a sweep: each checked, what it costs, how long is left."""

import dataclasses
import itertools
import statistics

from latemask.data import mixture
from latemask.data.sources import table as sources_lib
from latemask.data.sources import tfds as tfds_source
from latemask import errors
from latemask.finetune import run as finetune_run
from latemask.model import attention_kinds
from latemask.model import encoder
from latemask.runtime import console
from latemask.runtime import files
from latemask.runtime import workdir as workdir_lib
from latemask.sweep import outcome
from latemask.sweep import points as points_lib
from latemask.train import check as check_lib


# Name, FLOPs.
_UNITS = (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9))


def check(points):
  """Checks every run, and returns the points with steps and FLOPs.

  Raises:
    InputError: the first thing found that cannot be, with its run.
  """
  checked = []
  for point in points:
    try:
      if "task" in point.config:
        finetune_run.check(point.config)
        files.check_writable(point.path)
        checked.append(point)
      else:
        checked.append(_check(point))
    except errors.InputError as error:
      raise errors.InputError(f"{point.name}: {error}") from error
  for config in rows(checked).values():
    if not mixture.load(config, config.data.dir):
      _check_sources(config)
  return checked


def _check(point):
  # Devices are the run's affair, and none is taken here.
  config = point.config.copy_and_resolve_references()
  with config.unlocked():
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = None, 1, 1
  config = workdir_lib.keep_meaning(config, point.path)
  _check_attention(config)
  program, _ = check_lib.check(config, point.path)
  num_steps = program.config.train.num_steps
  return dataclasses.replace(
      point, num_steps=num_steps, flops=program.flops_until(num_steps))


def _check_attention(config):
  """Checks a kernel for another platform, and takes one for this in its place.
  """
  platform = attention_kinds.KINDS[config.model.attention].platform
  if platform:
    attention_kinds.check(encoder.make_model(
        config, config.data.vocab_size).config, platform)
    with config.unlocked():
      config.model.attention = "auto"


def _check_sources(config):
  for key, spec in sources_lib.named(config):
    try:
      sources_lib.open_source(spec, config, key, download=False)
    except tfds_source.NotPrepared:
      pass  # It will be downloaded, or prepared.


def rows(points):
  """Returns {data.dir: config} of the rows that points read."""
  return {point.config.data.dir: point.config for point in points
          if "task" not in point.config}


def table(points, rate, parallel):
  """Returns the runs, what they cost and have come to, as Markdown.

  Args:
    rate: FLOP/s of a run; None where it is unknown.
    parallel: runs at a time.
  """
  unit, flops = _unit(points)
  rows = [("run", "steps", unit, "time", "state", "result")]
  for point in points:
    rows.append((
        point.name, f"{point.num_steps:,}" if point.num_steps else "",
        f"{point.flops / flops:,.4g}" if point.flops else "",
        _time(point.flops / rate if rate and point.flops else None),
        point.state, outcome.text(point) if point.done else ""))
  todo = [point for point in points if not point.done]
  total = sum(point.flops or 0 for point in todo)
  rows.append((f"{len(todo)} of {len(points)} to do, {parallel} at a time",
               "", f"{total / flops:,.4g}" if total else "",
               _time(left_secs(todo, points, rate, parallel)), "", ""))
  return console.table(rows)


def _unit(points):
  """Returns (name, FLOPs) of a unit in which no number is tiny."""
  largest = max(point.flops or 0 for point in points)
  return next((unit for unit in _UNITS if largest >= unit[1]), _UNITS[-1])


def left_secs(todo, points, rate, parallel):
  """Returns the seconds that runs will take; None where unknown."""
  if all(point.flops for point in todo):
    if not todo:
      return 0.0
    flops = [point.flops for point in todo]
    # The last ones run alone.
    return max(sum(flops) / parallel, max(flops)) / rate if rate else None
  secs = [point.done["secs"] for point in points if point.done]
  return statistics.mean(secs) * len(todo) / parallel if secs else None


def _time(secs):
  return "unknown" if secs is None else console.duration(secs)


def rate_of(points):
  """Returns the FLOP/s of the runs that are done; None where none tells.

  From start to end, compiling and evaluations included.
  """
  rates = [point.done["flops_per_sec"] for point in points if point.done]
  rates = [rate for rate in rates if rate]
  return statistics.median(rates) if rates else None


def last_step(path):
  """Returns the newest step in the metrics.jsonl of a run; 0 before."""
  return max((found.get("step", 0) for found in itertools.islice(
      points_lib.newest_lines(path), 2)), default=0)
