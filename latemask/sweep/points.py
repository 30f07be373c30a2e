"""The points of a sweep: what each of them is, costs and has come to.

A sweep is a config file that also has sweep(config) and columns() (see
configs/sweeps/), or any config with a grid (grid.py). A point is one run, in
a workdir of its own, with beside it
  RUN.log      what it printed
  RUN.done     its config and its rate, once it has come to its end
  RUN.failed   its exit code and last line, where it ended otherwise
A run is done if RUN.done names the config that is wanted now, but for what a
run may change on its way (`keys.Key.free`).
"""

import dataclasses
import fnmatch
import functools
import hashlib
import json
import re

from etils import epath
import ml_collections

from latemask.config import keys
from latemask.config import spec as spec_lib
from latemask.data import mixture
from latemask.data import packed_set
from latemask import errors
from latemask.runtime import files
from latemask.sweep import grid as grid_lib

_MAX_NAME = 180


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
  """A run of a sweep.

  Fields:
    name: what it is called in tables.
    path: its workdir.
    overrides: {dotted key: value}, what tells it from the others.
    config: the run's.
    flags: of latemask.main, the workdir's apart.
    num_steps, flops: of the whole run; None of fine-tuning.
  """

  name: str
  path: epath.Path
  overrides: dict
  config: ml_collections.ConfigDict
  flags: tuple
  num_steps: int | None = None
  flops: int | None = None

  def file(self, kind):
    """Returns the path of a file beside the workdir: log, done, failed."""
    return self.path.with_name(f"{self.path.name}.{kind}")

  @functools.cached_property
  def wanted(self):
    """The config by which a run is known to be done."""
    return {key: value for key, value in
            spec_lib.flatten(self.config.to_dict()).items()
            if key not in keys.names(keys.table(self.config), "place")}

  @property
  def done(self):
    """What RUN.done says; None while the run is not done."""
    path = self.file("done")
    record = read_json(path) if path.exists() else {}
    begun = record.get("config", {})
    wanted = keys.as_begun(begun, self.wanted)
    found = keys.fill(begun, wanted)
    # Of a fine-tuning, free keys say what there is to do; and what was done
    # before says nothing of its rows.
    free = (set(keys.ROWS) - set(begun) if "task" in self.config else
            keys.names(keys.PRETRAINING, "free"))
    differing = {key for key in found | wanted
                 if found.get(key) != wanted.get(key)}
    return None if differing.difference(free) else record

  @property
  def state(self):
    """done, failed (so it ended last), begun or new."""
    if self.done:
      return "done"
    if self.file("failed").exists():
      return "failed"
    return "begun" if (self.path / "config.json").exists() else "new"


def read(spec, out, init_from=(), grid=None):
  """Returns (points, columns) of a sweep.

  Args:
    spec: FILE[:SIZE][,KEY=VALUE...] of a sweep, or with a grid of any config.
    out: the folder that its runs lie in.
    init_from: runs to fine-tune; of pre-training, none. None of fine-tuning:
      those of `out` that are done.
    grid: {dotted key: values}, with which each point is taken; see grid.py.

  Raises:
    InputError: it is no sweep, or a point of it cannot be.
  """
  grid = grid or {}
  name = spec.split(",")[0]
  path = name.partition(":")[0]
  config, given = spec_lib.load(spec), spec_lib.load(name)
  found, columns = _file_says(spec_lib.module(path), path, config, grid)
  columns += [key for key in grid if key not in columns]
  is_finetuning = "task" in config
  runs = _called(init_from or _done_runs(epath.Path(out))) if (
      is_finetuning) else []
  if init_from and not is_finetuning:
    raise errors.InputError(
        "--init_from is for fine-tuning; give train.init_from with --config")
  points = []
  for overrides in grid_lib.points(grid, found):
    changed = config.copy_and_resolve_references()
    spec_lib.override(changed, overrides, _where(path, overrides, grid))
    try:
      keys.check(changed)
    except errors.InputError as error:
      raise errors.InputError(
          f"{name_of(changed, overrides)}: {error}") from error
    if is_finetuning:
      points += [_finetuning(run, name, overrides, changed)
                 for run, name in runs]
    else:
      label = name_of(changed, overrides)
      points.append(Point(
          label, epath.Path(out) / label, overrides,
          _with_rows(changed, out), ()))
  if not points:
    raise errors.InputError(f"{path}: sweep() yields no point")
  points = [dataclasses.replace(point, flags=_flags(
      name, point.config, given)) for point in points]
  _refuse_twins(points, path)
  return points, columns


def matching(points, patterns):
  """Returns the points whose names match one of some patterns, as of a shell.

  Args:
    patterns: none of them: all points.

  Raises:
    InputError: one that matches no name.
  """
  for pattern in patterns:
    if not any(fnmatch.fnmatchcase(point.name, pattern) for point in points):
      raise errors.InputError(
          f"--only {pattern} matches none of {len(points)} runs, of which the "
          f"first is {points[0].name}; --dry_run prints all")
  return [point for point in points if not patterns or any(
      fnmatch.fnmatchcase(point.name, pattern) for pattern in patterns)]


def _file_says(module, path, config, grid):
  """Returns (overrides of each point, columns) of a file's own sweep."""
  if grid and not hasattr(module, "sweep"):
    return [{}], []
  for function in ("sweep", "columns"):
    if not hasattr(module, function):
      raise errors.InputError(
          f"{path} has no {function}(); give one of configs/sweeps/, or "
          "--grid KEY=VALUE,VALUE...")
  columns = spec_lib.asked(path, lambda: list(module.columns()))
  for key in columns:
    if key not in spec_lib.flatten(config.to_dict()):
      raise errors.InputError(f"{path}: columns() has {key!r}, no config key")
  return spec_lib.asked(path, lambda: list(module.sweep(config))), columns


def _where(path, overrides, grid):
  """Returns where overrides were written, for a message."""
  return "--grid" if grid.keys() == overrides.keys() else (
      f"{path}: {overrides}")


def _called(runs):
  """Returns [(run, its name)]: that of its folder, where no two have one."""
  names = [epath.Path(run).name for run in runs]
  return list(zip(runs, names if len(set(names)) == len(names) else runs))


def _finetuning(run, name, overrides, config):
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.init_from = str(run)
  place = "glue" + (f"_{name_of(config, overrides)}" if overrides else "")
  run = epath.Path(run)
  return Point(f"{name}/{place}", run / place,
               overrides | {"init_from": str(run)}, config, ())


def _done_runs(out):
  """Returns the workdirs in a folder whose run a sweep saw done."""
  found = sorted(str(path)[:-len(".done")] for path in out.glob("*.done"))
  if not found:
    raise errors.InputError(
        f"{out} holds no finished run of a sweep; name some with --init_from")
  return found


def name_of(config, overrides):
  """Returns overrides, sorted, as the name of a folder."""
  flat = spec_lib.flatten(config.to_dict())
  text = "_".join(f"{key}={flat[key]}" for key in sorted(overrides))
  safe = re.sub(r"[^\w.=+-]", "-", text, flags=re.ASCII)
  if safe != text or len(safe) > _MAX_NAME:
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    safe = f"{safe[:_MAX_NAME]}-{digest}"
  return safe or "default"


def _with_rows(config, out):
  """Returns a config whose rows are shared with those that pack the same."""
  if config.data.dir is None:
    settings = {key: value for key, value in spec_lib.flatten(
        config.data.to_dict()).items()
                if not keys.PRETRAINING[f"data.{key}"].free
                # Rows that were packed before there was a key keep their name.
                and (f"data.{key}", value) not in keys.BEFORE.items()}
    # Other shares read the same rows.
    settings["source"] = mixture.without_shares(settings["source"])
    if config.train.init_from:  # Its tokenizer may be that of the rows.
      settings["init_from"] = config.train.init_from
    fraction = {"eval_fraction": settings.pop("eval_fraction")}
    settings.pop("fit", None)
    directory = f"{out}/data/{_digest(settings)}"
    # Rows that were packed before documents were held out go with any.
    if not (packed_set.holds_out_rows(directory) or config.data.eval_source):
      settings |= fraction
      directory = f"{out}/data/{_digest(settings)}"
    # Those that are older than the key go with any, and keep their name, which
    # is that of the default, too.
    if config.data.fit != "best" and not packed_set.is_older_than_fit(
        directory):
      settings["fit"] = config.data.fit
      directory = f"{out}/data/{_digest(settings)}"
    with config.unlocked():
      config.data.dir = directory
  return config


def _digest(settings):
  return hashlib.sha256(
      json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _flags(name, config, given):
  """Returns the flags that make of the file's config this one."""
  before = spec_lib.flatten(given.to_dict())
  return (f"--config={name}", *_changes("", config.to_dict(), before))


def _changes(prefix, group, before):
  for key, value in group.items():
    key = prefix + key
    if isinstance(value, dict):
      yield from _changes(f"{key}.", value, before)
    elif json.loads(json.dumps(value)) != before[key]:
      yield f"--config.{key}={value}"


def _refuse_twins(points, path):
  seen = {}
  for point in points:
    twin = seen.setdefault(json.dumps(point.wanted | {
        "init_from": point.overrides.get("init_from")}), point)
    if twin is not point:
      raise errors.InputError(
          f"{path}: {point.name} is the same run as {twin.name}")


def read_json(path):
  """Returns the object in a file of ours; {} where it was cut off, or went."""
  try:
    return _as_object(path.read_text())
  except FileNotFoundError:
    return {}


def newest_lines(path):
  """Yields what the lines of a run's metrics.jsonl say, the newest first.

  A line that was cut off says {}.
  """
  file = path / "metrics.jsonl"
  lines = file.read_text().splitlines() if file.exists() else ()
  return map(_as_object, reversed(lines))


def _as_object(text):
  try:
    found = json.loads(text)
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def record(points, columns, path):
  """Writes what was swept, for tools/report.py."""
  before = read_json(path) if path.exists() else {}
  wanted = before | {
      "columns": columns, "points": before.get("points", {}) | {
          point.name: point.overrides for point in points}}
  if wanted != before:
    files.write_json(path, wanted)
