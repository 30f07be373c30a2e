"""Workdirs read line by line; what is damaged is told and left out."""

import dataclasses
import hashlib
import json
import os
import pathlib

import tqdm

from latemask.config import keys
from latemask import errors
from latemask.report import runs as runs_lib
from latemask.report import workdirs
from latemask.runtime import files as files_lib

# Keys that a report reads, of runs of before there were these, too.
_READ_KEYS = ("eval.masks", "masking.phases")
# Where in a workdir no other workdir lies.
_NOT_SEARCHED = ("checkpoints", "data", "plugins", "cells", "best", "export",
                 "test")


def read(directories):
  """Reads every workdir in some folders, under a progress bar.

  Raises:
    InputError: a folder is not there, or none holds a workdir.
  """
  paths, columns, problems = [], [], []
  for directory in map(pathlib.Path, directories):
    if not os.path.isdir(directory):
      raise errors.InputError(f"{directory} is no folder")
    paths += _search(directory)
    try:
      # A run of a sweep may be named by itself.
      for folder in (directory, directory.parent):
        columns += _columns(folder / "sweep.json")
    except workdirs.Damaged as error:
      problems.append(str(error))
  paths = list({os.path.realpath(path): path for path in paths}.values())
  if not paths:
    raise errors.InputError(
        f"no run in {', '.join(map(str, directories))}: a run is a folder with "
        "config.json and metrics.jsonl, or config.json and cells/")
  runs, glues = [], []
  bar = tqdm.tqdm(total=sum(map(_size_bytes, paths)), desc="reading",
                  unit="B", unit_scale=True, mininterval=0.5)
  with bar:
    for path in paths:
      try:
        if (path / "cells").is_dir():
          glues.append(workdirs.read_glue(path, problems))
        if (path / "metrics.jsonl").exists():
          runs.append(workdirs.read_run(path))
      except workdirs.Damaged as error:
        problems.append(str(error))
      bar.update(_size_bytes(path))
  return runs_lib.Found(_filled(_with_rows(runs), _READ_KEYS), _filled(glues),
                        list(dict.fromkeys(columns)), problems)


def _filled(found, wanted=()):
  """Returns runs with the keys that some are too old to have."""
  wanted = set(wanted).union(*(run.config for run in found))
  return [dataclasses.replace(run, config=keys.fill(run.config, wanted))
          for run in found]


def _with_rows(runs):
  """Returns the runs with `data.rows`, unless some do not tell."""
  digests = [_rows(run) for run in runs]
  if None in digests:
    return runs
  return [dataclasses.replace(run, config=run.config | {"data.rows": digest})
          for run, digest in zip(runs, digests)]


def _rows(run):
  """Returns a digest of the rows and the tokenizer of a run.

  Whatever they are called. None where they do not lie where its config says,
  or far away.
  """
  directory = run.config.get("data.dir") or os.path.join(run.path, "data")
  if files_lib.is_remote(directory):
    return None
  try:
    manifest = workdirs.read_json(pathlib.Path(directory) / "manifest.json")
    settings = manifest["settings"]
    found = [settings["tokenizer"], settings["length"]] + [
        shard["sha256"] for shard in manifest["shards"] if shard["rows"]]
    is_its = all(run.config[f"data.{key}"] == settings[key]
                 for key in ("source", "length", "packing"))
  except (workdirs.Damaged, KeyError, TypeError):
    return None
  return (hashlib.sha256(json.dumps(found).encode()).hexdigest()[:8]
          if is_its else None)


def _search(directory):
  """Yields the workdirs in a folder, itself included, in order."""
  for root, folders, files in os.walk(directory):
    is_workdir = "config.json" in files and (
        "metrics.jsonl" in files or "cells" in folders)
    if is_workdir:
      yield pathlib.Path(root)
    folders[:] = sorted(f for f in folders if not (
        is_workdir and f in _NOT_SEARCHED))


def _size_bytes(path):
  path = path / "metrics.jsonl"
  return path.stat().st_size if path.exists() else 0


def _columns(path):
  if not os.path.exists(path):  # Or the folder above is shut.
    return []
  columns = workdirs.read_json(path).get("columns", [])
  if not isinstance(columns, list) or not all(
      isinstance(column, str) for column in columns):
    raise workdirs.Damaged(f"{path}: `columns` is no list of config keys")
  return columns
