"""Rows on gs://: the same code against a folder that is taken for remote."""

import contextlib
import os
import pathlib
import types

from etils import epath
import numpy as np
import pytest

from latemask.data import loader
from latemask.data import packed_set
from latemask.data import prepare as prepare_lib
from latemask.data import shards
from latemask import errors
from latemask.predict import texts
from latemask.runtime import files
from tests import conftest


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """A folder that nothing may open as a local one."""
  folder = tmp_path / "bucket"
  monkeypatch.setattr(files, "is_remote", lambda path: str(path).startswith(
      str(folder)))
  for name in ("ArrayRecordWriter",):
    real = getattr(shards.array_record_module, name)
    def opened(path, *args, real=real):
      assert not path.startswith(str(folder)), path
      return real(path, *args)
    monkeypatch.setattr(shards.array_record_module, name, opened)
  return folder


def test_packed_there_and_read_here(bucket, corpus, tmp_path, packed_dir):
  config = conftest.tiny_config(f"text:{corpus}/*.txt")
  config.data.cache_dir = str(tmp_path / "cache")
  packed = prepare_lib.prepare(config, bucket / "rows")
  names = sorted(p.name for p in (bucket / "rows").iterdir())
  assert names == sorted(p.name for p in packed_dir.iterdir())
  assert all((bucket / "rows" / n).read_bytes() == (packed_dir / n).read_bytes()
             for n in names)
  here = packed_set.load(conftest.tiny_config(f"text:{corpus}/*.txt"), packed_dir)
  for _ in range(2):
    there = loader.Loader(packed, config)
    np.testing.assert_array_equal(
        there.read(range(20)), loader.Loader(here, config).read(range(20)))
    # Only the copies are opened; a second start makes none anew.
    copies = sorted((tmp_path / "cache").rglob("*.arrayrecord"))
    assert len(copies) == len(packed.paths)
    times = [copy.stat().st_mtime_ns for copy in copies]
    loader.Loader(packed, config)
    assert times == [copy.stat().st_mtime_ns for copy in copies]
    copies[0].write_bytes(copies[0].read_bytes()[:1000])  # Mended.


def test_lines_written_there(bucket):
  bucket.mkdir()
  path = bucket / "new" / "a.txt"
  texts.check_out(path)
  with texts.writer(path) as write:
    write("caf\xe9")
    assert not path.exists()
  assert path.read_bytes() == b"caf\xc3\xa9\n"
  with pytest.raises(errors.InputError, match="--out .*a.txt exists; name"):
    texts.check_out(path)


def test_what_is_local_is_not_copied(packed_dir, corpus, tmp_path):
  config = conftest.tiny_config(f"text:{corpus}/*.txt")
  config.data.cache_dir = str(tmp_path / "cache")
  loader.Loader(packed_set.load(config, packed_dir), config)
  assert not (tmp_path / "cache").exists()


def test_remote_or_not():
  assert files.is_remote("gs://bucket/rows")
  assert not files.is_remote(pathlib.Path("/data/rows"))


@pytest.mark.parametrize("remote", [False, True])
def test_what_fails_leaves_nothing(tmp_path, monkeypatch, remote):
  monkeypatch.setattr(files, "is_remote", lambda path: remote)
  path = tmp_path / "new" / "file.json"
  files.write_json(path, {"b": [1], "a": None})
  assert path.read_text() == '{\n "b": [\n  1\n ],\n "a": null\n}\n'
  files.write_json(path, {"b": 1, "a": 2}, sort_keys=True)
  assert path.read_text() == '{\n "a": 2,\n "b": 1\n}\n'
  with pytest.raises(KeyboardInterrupt):
    with files.writing(path) as part:
      part.write_text("half")
      raise KeyboardInterrupt
  (path.parent / "folder").mkdir()
  with pytest.raises(IsADirectoryError):
    with files.writing(path.parent / "folder") as part:
      part.write_text("whole")
  assert {p.name for p in path.parent.iterdir()} == {"file.json", "folder"}
  assert path.read_text() == '{\n "a": 2,\n "b": 1\n}\n'


def test_folders_that_cannot_be_written():
  with pytest.raises(errors.InputError, match="/dev/null is a file"):
    files.check_writable("/dev/null/x/y")
  with pytest.raises(errors.InputError, match="/proc/x/y cannot be made"):
    files.make("/proc/x/y")
  with pytest.raises(errors.InputError, match=r"looked at \(File name too long"):
    files.check_writable("/tmp/" + "x" * 300)


def _export(folder):
  """Writes what looks like an export."""
  folder.mkdir()
  for name in ("config.json", "latemask.json"):
    (folder / name).write_text("old")
  return folder


NAMES = ("config.json", "latemask.json")


def test_only_what_was_written_there_is_replaced(tmp_path):
  folder = _export(tmp_path / "out")
  files.check_replaceable(folder, "latemask.json", NAMES)
  files.check_replaceable(tmp_path / "new", "latemask.json", NAMES)
  (tmp_path / "empty").mkdir()
  files.check_replaceable(tmp_path / "empty", "latemask.json", NAMES)
  (folder / "checkpoints").mkdir()
  with pytest.raises(errors.InputError, match="checkpoints"):
    files.check_replaceable(folder, "latemask.json", NAMES)
  (folder / "checkpoints").rmdir()
  (folder / "latemask.json").unlink()
  with pytest.raises(errors.InputError, match="no latemask.json"):
    files.check_replaceable(folder, "latemask.json", NAMES)
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.InputError, match="is no folder"):
    files.check_replaceable(tmp_path / "file", "latemask.json", NAMES)


def test_replaced_on_gs(bucket, monkeypatch):
  """Without its mark it is nothing; nothing stays of what was there."""
  bucket.mkdir()
  folder = _export(bucket / "out")
  (folder / "1_Pooling").mkdir()
  (folder / "1_Pooling/config.json").write_text("old")
  seen = []
  real = type(epath.Path(folder)).copy
  def copy(self, target, **options):
    seen.append((target.name, (folder / "latemask.json").exists()))
    return real(self, target, **options)
  monkeypatch.setattr(type(epath.Path(folder)), "copy", copy)
  with files.replacing(folder, "latemask.json") as part:
    assert not files.is_remote(part)
    for name in ("latemask.json", "model.safetensors", "2_Normalize/a.json"):
      (part / name).parent.mkdir(exist_ok=True)
      (part / name).write_text("new")
    assert (folder / "latemask.json").exists()
  assert seen == [("a.json", False), ("model.safetensors", False),
                  ("latemask.json", False)]
  assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                if path.is_file()) == [
      "2_Normalize/a.json", "latemask.json", "model.safetensors"]


def test_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
  folder = _export(tmp_path / "out")
  link = tmp_path / "link"
  link.symlink_to(folder)
  for fails in ("body", "rename", None):
    with contextlib.ExitStack() as stack:
      if fails:
        stack.enter_context(pytest.raises(OSError, match="no more room"))
      if fails == "rename":
        patch = stack.enter_context(monkeypatch.context())
        real = pathlib.Path.rename
        def rename(self, target, real=real):
          if self.suffix == ".part":
            raise OSError("no more room")
          return real(self, target)
        patch.setattr(pathlib.Path, "rename", rename)
      part = stack.enter_context(files.replacing(link, "latemask.json"))
      # Until the new one is whole, the old one stands.
      assert (folder / "config.json").read_text() == "old"
      (part / "config.json").write_text("new")
      if fails == "body":
        raise OSError("no more room")
    assert (folder / "config.json").read_text() == (
        "old" if fails else "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "out"]
  assert link.is_symlink()


def test_a_read_only_disk_is_no_bad_input(tmp_path, monkeypatch):
  """As a disk that is full: exit code 5."""
  real = os.statvfs
  monkeypatch.setattr(os, "statvfs", lambda path: types.SimpleNamespace(
      f_flag=real(path).f_flag | os.ST_RDONLY))
  with pytest.raises(errors.SaveError, match="Read-only file system.*new"):
    files.check_writable(tmp_path / "new")
