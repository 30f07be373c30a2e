"""A workdir on gs://: all of it but Orbax goes to a bucket that pretends.

The bucket is a folder behind epath, with what differs on gs://: files are
opened as contexts only, and folders need not be made.
"""

import contextlib
import json
import os
import pathlib

from etils import epath
from etils.epath import backend
from etils.epath import gpath
import jax
import numpy as np
import pytest

from latemask.hub import pretrained
from latemask.runtime import files
from latemask.train import metrics
from latemask.train import run as run_lib


class _Bucket(backend._OsPathBackend):
  """Files of gs://bucket in a folder."""

  def __init__(self, folder):
    self._folder = str(folder)

  def local(self, path):
    text = os.fspath(path)
    return text.replace("gs://", f"{self._folder}/", 1)

  @contextlib.contextmanager
  def open(self, path, mode):
    if "r" not in mode:
      pathlib.Path(self.local(path)).parent.mkdir(parents=True, exist_ok=True)
    with super().open(self.local(path), mode) as file:
      yield file

  def glob(self, path):
    return [found.replace(f"{self._folder}/", "gs://", 1)
            for found in super().glob(self.local(path))]


def _maps(name):
  def mapped(self, *paths, **options):
    if name in ("copy", "rename", "replace"):  # There are no folders.
      pathlib.Path(self.local(paths[1])).parent.mkdir(
          parents=True, exist_ok=True)
    return getattr(backend._OsPathBackend, name)(
        self, *(self.local(path) if isinstance(path, (str, os.PathLike))
                else path for path in paths), **options)
  return mapped


for _name in ("exists", "isdir", "listdir", "makedirs", "mkdir", "rmtree",
              "remove", "rename", "replace", "copy", "stat"):
  setattr(_Bucket, _name, _maps(_name))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """Yields the folder of gs://bucket."""
  found = _Bucket(tmp_path / "remote")
  (tmp_path / "remote/bucket").mkdir(parents=True)
  monkeypatch.setattr(backend, "tf_backend", found)
  monkeypatch.setattr(gpath, "_GCS_BACKENDS", {found})
  monkeypatch.setattr(gpath, "_is_zonal_gcs_bucket", lambda bucket: False)
  monkeypatch.chdir(tmp_path)
  return tmp_path / "remote/bucket"


def test_absolute_paths():
  assert str(files.absolute("gs://bucket/run")) == "gs://bucket/run"
  assert str(files.absolute("run")) == f"{os.getcwd()}/run"


@pytest.mark.slow
def test_a_run_on_gs(tiny_run, bucket, tmp_path, monkeypatch):
  """Begun, gone on with, read: and nothing lies beside the bucket."""
  asked = []

  def absolute(path):
    asked.append(str(path))
    return epath.Path(found.local(path))
  found = backend.tf_backend
  monkeypatch.setattr(files, "absolute", absolute)
  # TensorFlow writes these to gs:// by itself.
  monkeypatch.setattr(metrics, "_summary_writer", lambda *_: None)
  workdir = "gs://bucket/run"
  tiny_run.checkpoint.every_steps = 6
  tiny_run.data.cache_dir = str(tmp_path / "cache")
  tiny_run.data.dir, tiny_run.train.num_steps = None, 12
  state, _ = run_lib.train(tiny_run, workdir)
  first = (bucket / "run/metrics.jsonl").read_text().splitlines()
  run_lib.train(tiny_run, workdir)  # It has come to its end.
  assert (bucket / "run/metrics.jsonl").read_text().splitlines() == first
  assert json.loads(first[-1])["step"] == 12
  assert {path.name for path in (bucket / "run").iterdir()} >= {
      "config.json", "metrics.jsonl", "checkpoints", "data"}
  loaded = pretrained.load(workdir)
  jax.tree.map(np.testing.assert_array_equal, loaded.params,
               jax.device_get(state.params))
  assert asked and all(path.startswith("gs://bucket/run") for path in asked)
  assert not list(tmp_path.glob("gs:*"))
