"""Two programs on one folder, as they are run: one has it, and is unharmed."""

import errno
import json
import os
import subprocess
import sys
import threading

import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from latemask.checkpoint import checkpoints
from latemask.checkpoint import record
from latemask.data import loader
from latemask.data import prepare
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.runtime import claims
from latemask.runtime import workdir
from latemask.train import metrics
from latemask.train import run as run_lib
from tests import conftest
from tests.runtime import distributed_test

_FAR = '{"token": "other", "host": "far"}'


def _start(workdir, config):
  """Starts a run with the values of a config, on two devices."""
  flags = [f"--config.{group}.{key}={value}"
           for group, keys in config.to_dict().items()
           if isinstance(keys, dict)
           for key, value in keys.items() if value is not None]
  return subprocess.Popen(
      [sys.executable, "-m", "latemask.main", "--config=configs/base.py:tiny",
       f"--workdir={workdir}", *flags], stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, text=True,
      env=distributed_test._environment(2))


def _result(workdir):
  """Returns (digests of the last state, what is on record but the times)."""
  step = max(record.steps(workdir))
  run = json.loads(
      (workdir / "checkpoints" / str(step) / "run" / "metadata").read_text())
  records = [json.loads(line) for line in
             (workdir / "metrics.jsonl").read_text().splitlines()]
  return run["digests"], [
      {k: v for k, v in record.items() if k not in metrics.TIMES}
      for record in records]


@pytest.mark.slow
def test_two_identical_commands_at_once(run, tiny_run, tmp_path):
  """The second ends with one line; the first as if it had been alone."""
  tiny_run.train.num_steps = 4
  two = [_start(tmp_path, tiny_run) for _ in range(2)]
  told = [process.communicate(timeout=300)[0] for process in two]
  codes = [process.returncode for process in two]
  assert sorted(codes) == [0, 2], told
  first, second = told if codes[0] == 0 else told[::-1]
  line = second.splitlines()[-1]
  assert line.startswith(f"latemask: {tmp_path} belongs to a program that is")
  assert f"process {two[codes.index(0)].pid}, since" in line
  assert "Traceback" not in second and "compiling" not in second
  assert "compiling" in first
  assert _result(tmp_path) == _result(run[0])
  assert not list(tmp_path.rglob("claim*"))


_STUCK = """
import threading, time
from latemask import errors
errors._THREAD_SECS = 0.3
with errors.one_line_exit():
  threading.Thread(target=threading.Event().wait).start()
  raise errors.SaveError("full")
"""


@pytest.mark.slow
def test_a_thread_of_a_failed_save_keeps_no_program(
    tiny_run, tmp_path, monkeypatch, few_devices):
  """Neither when checkpoints are closed nor when Python waits for threads."""
  blocked = threading.Event()
  def save(self, step, **_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(step))
  monkeypatch.setattr(ocp.CheckpointManager, "save", save)
  monkeypatch.setattr(
      ocp.CheckpointManager, "close", lambda self: blocked.wait())
  monkeypatch.setattr(checkpoints, "_CLOSE_SECS", 0.3)
  tiny_run.train.num_steps = 4
  try:
    with pytest.raises(errors.SaveError, match="could not be saved"):
      run_lib.train(tiny_run, tmp_path)
  finally:
    blocked.set()
  assert not (tmp_path / "claim.json").exists()
  ended = subprocess.run(
      [sys.executable, "-c", _STUCK], capture_output=True, text=True,
      timeout=60)
  assert ended.returncode == errors.SaveError.code
  assert ended.stderr == "latemask: full\n"


@pytest.mark.slow
def test_a_run_that_was_taken_over_saves_nothing(
    tiny_run, tmp_path, monkeypatch, few_devices):
  tiny_run.train.num_steps = 4
  real = loader.Loader.train_batches
  def stolen(*args):
    for number, batch in enumerate(real(*args)):
      if number == 2:
        (tmp_path / "claim.json").write_text(_FAR)
      yield batch
  monkeypatch.setattr(loader.Loader, "train_batches", stolen)
  with pytest.raises(claims.HeldError, match="but of host far"):
    run_lib.train(tiny_run, tmp_path)
  assert record.steps(tmp_path) == []
  assert (tmp_path / "claim.json").read_text() == _FAR


def test_export_has_one_writer(run, tmp_path, monkeypatch):
  """Another is refused; one that is taken over replaces nothing."""
  out, loaded = tmp_path / "out", pretrained.load(run[0])
  def export():
    hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, out,
              overwrite=True)
  with claims.held(claims.beside(out)):
    with pytest.raises(claims.HeldError, match="out is being written by host"):
      export()
  assert not os.listdir(tmp_path)
  export()
  before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
  real = safetensors.numpy.save
  def save(*args, **options):
    claims.beside(out).write_text(_FAR)
    return real(*args, **options)
  monkeypatch.setattr(safetensors.numpy, "save", save)
  with pytest.raises(claims.HeldError, match="but of host far"):
    export()
  assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
  assert sorted(os.listdir(tmp_path)) == ["out", "out.claim"]


def test_a_workdir_that_not_all_see(tmp_path, monkeypatch):
  """As where each host has a disk of its own."""
  monkeypatch.setattr(workdir, "_SEEN_SECS", 0)
  monkeypatch.setattr(claims.Claim, "is_there", lambda claim: False)
  monkeypatch.setattr(claims.Claim, "_create", lambda claim: True)
  with pytest.raises(errors.InputError, match="must lie where all hosts see"):
    with workdir.owned(tmp_path / "run"):
      pass


_PROCESS = """
import sys
from latemask import errors
from latemask.runtime import distributed, workdir
port, mine, held, free = sys.argv[1:]
with errors.one_line_exit(), distributed.together(
    "127.0.0.1:" + port, 2, int(mine), 60), errors.one_line_exit():
  try:
    with workdir.owned(held):
      print("has", held)
  except errors.Ending as refusal:
    print("refused:", refusal)
  with workdir.owned(free) as claim:
    workdir.check_owned(claim)
    claim.check()
    distributed.everywhere(True)
    if mine == "0":
      claim.path.write_text('{"token": "other", "host": "far"}')
    workdir.check_owned(claim)
    print("kept")
"""


@pytest.mark.slow
def test_all_processes_of_a_run_are_refused(tmp_path):
  """At the start, and where one finds out before a save that it is lost."""
  port = str(distributed_test._port())
  held, free = tmp_path / "held", tmp_path / "free"
  with claims.held(claims.inside(held)):
    two = [subprocess.Popen(
        [sys.executable, "-c", _PROCESS, port, str(process), held, free],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"XLA_FLAGS": "", claims.CODE_VARIABLE: "6"})
           for process in range(2)]
    told = [process.communicate(timeout=100)[0] for process in two]
  assert [process.returncode for process in two] == [6, 6], told
  assert f"refused: {held} belongs to" in told[0]
  assert "refused: process 0 could not have" in told[1]
  assert f"latemask: {free} is not this program's any more (but of" in told[0]
  assert "latemask: process 0 found the workdir another's" in told[1]
  assert "kept" not in told[0] + told[1]
  assert json.loads((free / "claim.json").read_text())["token"] == "other"


def test_rows_that_another_packs_are_waited_for(
    corpus, tmp_path, monkeypatch, heard):
  monkeypatch.setattr(claims, "LOOK_SECS", 0.02)
  wait = heard(claims)
  config = conftest.tiny_config(f"text:{corpus}/*.txt")
  begun, go_on, found = threading.Event(), threading.Event(), []
  def pack_slowly(job):
    begun.set()
    assert go_on.wait(60)
    prepare._pack_here(job)
  def pack_too(job):
    raise AssertionError("both pack")
  threads = [threading.Thread(target=lambda pack=pack: found.append(
      prepare.prepare(config, tmp_path / "rows", pack)))
             for pack in (pack_slowly, pack_too)]
  threads[0].start()
  assert begun.wait(60)
  threads[1].start()
  told = wait("waiting for its end")
  go_on.set()
  for thread in threads:
    thread.join()
  assert "rows belongs to host" in told and str(os.getpid()) in told
  assert found[0].digest == found[1].digest
  assert not list(tmp_path.rglob("packing.json*"))
