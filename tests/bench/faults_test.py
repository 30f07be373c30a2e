"""Faults: none loses or repeats a row, none begins again in silence.

The fast share of bench/soak.py: what lies on disk is damaged, rows are
poisoned and disks are full within this process; one run is killed for real.
"""

import contextlib
import errno
import itertools
import os
import random
import resource
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from latemask.bench import faults
from latemask.bench import soak
from latemask.checkpoint import checkpoints
from latemask.checkpoint import record as record_lib
from latemask.data import loader as loader_lib
from latemask.data import prepare as prepare_lib
from latemask import errors
from latemask.train import evaluate
from latemask.train import loop
from latemask.train import metrics
from latemask.train import run as run_lib
from tests.train import run_test

pytestmark = pytest.mark.usefixtures("few_devices")
lines = run_test._lines


def _same(one, two):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(one),
               jax.device_get(two))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """{}: the end of the unbroken run, once a test has trained it."""
  return {"workdir": tmp_path_factory.mktemp("unbroken")}


@pytest.fixture
def saved(tiny_run, tmp_path, unbroken):
  """(config, workdir with checkpoints 5 and 10 of 20 steps, unbroken end)."""
  tiny_run.model.dropout = 0.1
  tiny_run.checkpoint.every_steps = 5
  if "state" not in unbroken:
    unbroken["state"], _ = run_lib.train(tiny_run, unbroken["workdir"])
  for name in ("unbroken", "run"):
    shutil.copytree(unbroken["workdir"], tmp_path / name)
  for step in ("15", "20"):
    shutil.rmtree(tmp_path / "run" / "checkpoints" / step)
  return tiny_run, tmp_path / "run", unbroken["state"]


@pytest.fixture(autouse=True)
def keep_all(tiny_run):
  tiny_run.checkpoint.keep = 10


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    n for n in faults.FAULTS if n.startswith("checkpoint: ")] + ["folders"])
def test_damaged_newest_checkpoint(saved, capsys, name):
  """Found by digests, set aside, and the one before gives the same end."""
  config, workdir, unbroken = saved
  newest = workdir / "checkpoints" / "10"
  if name == "folders":
    shutil.rmtree(newest / "state")
    (newest / "state").mkdir()
  elif name == "checkpoint: byte flipped":
    # One in each file of values. How many there are depends on when they were
    # written; one that holds nothing but an index that a later one replaces
    # may be the largest, and a flip there changes nothing.
    for path in newest.rglob("ocdbt.process_0/d/*"):
      data = bytearray(path.read_bytes())
      data[len(data) // 2] ^= 16
      path.write_bytes(data)
  else:
    faults.damage(name, workdir, random.Random(3))
  state, _ = run_lib.train(config, workdir)
  _same(unbroken, state)
  assert lines(workdir) == lines(workdir.with_name("unbroken"))
  out = capsys.readouterr().out
  if name in ("checkpoint: byte flipped", "checkpoint: cut off", "folders"):
    assert "checkpoint 10 of" in out and "is damaged" in out
    assert "going on from the checkpoint at step 5" in out
    assert (workdir / "checkpoints" / "10.damaged").is_dir()
    assert (workdir / "checkpoints" / "10").is_dir()  # Made anew.
  if name == "checkpoint: marker removed":
    # Every bit is there, and the digests say so.
    assert "going on from the checkpoint at step 10" in out


@pytest.mark.slow
def test_other_bits_that_can_be_read(saved, capsys):
  """A save of another state under this one's digests: only they can tell."""
  config, workdir, unbroken = saved
  shutil.rmtree(workdir / "checkpoints" / "10" / "state")
  shutil.copytree(workdir / "checkpoints" / "5" / "state",
                  workdir / "checkpoints" / "10" / "state")
  state, _ = run_lib.train(config, workdir)
  _same(unbroken, state)
  assert "other bits than were saved in" in capsys.readouterr().out


def test_steps_are_those_of_whole_checkpoints(tmp_path):
  assert record_lib.steps(tmp_path) == []
  for name in ("5", "10", "10.damaged", "15.orbax-checkpoint-tmp", "other"):
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
  (tmp_path / "checkpoints" / "20").write_text("no folder")
  assert sorted(record_lib.steps(tmp_path)) == [5, 10]


@pytest.mark.slow
def test_all_checkpoints_damaged_is_no_new_start(saved):
  config, workdir, _ = saved
  faults.damage("checkpoints: all bad", workdir, random.Random(0))
  before = run_test._files(workdir)
  for _ in range(2):
    with pytest.raises(errors.InputError, match=r"all checkpoints .*10, 5"):
      run_lib.train(config, workdir)
  assert run_test._files(workdir) == before


@pytest.mark.parametrize("dtype", [np.float32, np.int32, "bfloat16", np.uint8])
def test_digests_tell_every_bit_and_place(dtype):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((6, 8)).astype(jax.numpy.dtype(dtype))
  whole = record_lib.digests({"x": x})
  assert record_lib.digests({"x": x.copy()}) == whole
  assert record_lib.digests({"x": jax.device_put(x, jax.sharding.NamedSharding(
      jax.make_mesh((2,), ("d",)), jax.sharding.PartitionSpec("d")))}) == whole
  raw = x.tobytes()
  found = {whole["x"]}
  for bit in range(8 * len(raw)):
    data = bytearray(raw)
    data[bit // 8] ^= 1 << bit % 8
    other = np.frombuffer(bytes(data), x.dtype).reshape(x.shape)
    found.add(record_lib.digests({"x": other})["x"])
  assert len(found) == 8 * len(raw) + 1
  assert record_lib.digests({"x": x[::-1]}) != whole
  assert record_lib.digests({"x": x.reshape(8, 6)}) == whole


def _poison(monkeypatch, bad_steps):
  """Makes the rows of some steps of the training order unusable."""
  real = loader_lib.Loader.train_batches
  def poisoned(self, sharding, batch_size, start, stop):
    for step, ids_BxL in enumerate(
        real(self, sharding, batch_size, start, stop), start):
      # The lookup of an id outside the table is NaN.
      yield ids_BxL * 0 + 10**6 if step in bad_steps else ids_BxL
  monkeypatch.setattr(loader_lib.Loader, "train_batches", poisoned)


@pytest.mark.slow
def test_rollback_skips_the_window(tiny_run, tmp_path, monkeypatch, capsys):
  """As a run that never had the window: bit for bit; a stop changes nothing."""
  tiny_run.checkpoint.every_steps = 4
  tiny_run.train.on_nonfinite = "rollback"
  # Steps 4 to 6 and, counted by rows, 13: in the second half of the run.
  windows = {4, 5, 6}, set(range(11, 14))
  with monkeypatch.context() as patch:
    _poison(patch, {6, 13})
    state, _ = run_lib.train(tiny_run, tmp_path / "run")
    out = capsys.readouterr().out
    real_report = loop._report
    def report(config, step, *rest):
      assert step != 10, "lost power"
      return real_report(config, step, *rest)
    patch.setattr(loop, "_report", report)
    with pytest.raises(AssertionError, match="lost power"):
      run_lib.train(tiny_run, tmp_path / "stopped")
  with monkeypatch.context() as patch:
    _poison(patch, {6, 13})
    resumed, _ = run_lib.train(tiny_run, tmp_path / "stopped")
  _same(state, resumed)
  assert lines(tmp_path / "run") == lines(tmp_path / "stopped")
  assert "rollback 1 of 3" in out and "rollback 2 of 3" in out

  real = loader_lib.Loader.train_batches
  def skipping(self, sharding, batch_size, start, stop):
    batches = real(self, sharding, batch_size, 0, stop + 6)
    kept = (b for s, b in enumerate(batches) if s not in windows[0]
            and s not in windows[1])
    return itertools.islice(kept, start, None)
  monkeypatch.setattr(loader_lib.Loader, "train_batches", skipping)
  expected, _ = run_lib.train(tiny_run, tmp_path / "expected")
  _same(expected, state)
  skips = [r for r in lines(tmp_path / "run") if "rollback" in r]
  assert skips == [
      {"step": 4, "rollback": 1, "skipped_first_row": 64, "skipped_rows": 48},
      {"step": 8, "rollback": 2, "skipped_first_row": 176,
       "skipped_rows": 48}]
  assert [r for r in lines(tmp_path / "run") if "rollback" not in r] == lines(
      tmp_path / "expected")


@pytest.mark.slow
def test_rollbacks_are_bounded(tiny_run, tmp_path, monkeypatch):
  tiny_run.checkpoint.every_steps = 4
  tiny_run.train.on_nonfinite = "rollback"
  tiny_run.train.max_rollbacks = 2
  _poison(monkeypatch, range(6, 100))
  with pytest.raises(loop.NonFiniteError) as error:
    run_lib.train(tiny_run, tmp_path)
  assert error.value.code == 3
  # It failed twice from there, so the second rollback went further back.
  assert os.listdir(tmp_path / "checkpoints") == ["4.failed"]


@pytest.mark.long
def test_a_state_without_a_finite_loss_is_not_saved(
    tiny_run, tmp_path, capsys):
  """Its parameters are finite, about 1e28; what comes of them is not."""
  tiny_run.optimizer.learning_rate = 1e30
  tiny_run.optimizer.warmup_fraction = 0.0
  tiny_run.checkpoint.every_steps = 1
  tiny_run.train.on_nonfinite = "rollback"
  tiny_run.train.max_rollbacks = 2
  with pytest.raises(loop.NonFiniteError, match="step 1: .*held-out rows"):
    run_lib.train(tiny_run, tmp_path)
  assert not list((tmp_path / "checkpoints").iterdir())
  out = capsys.readouterr().out
  assert out.count("on from step 0, without the rows") == 2
  found = lines(tmp_path)
  assert [r["rollback"] for r in found if "rollback" in r] == [1, 2]
  assert [r["skipped_rows"] for r in found if "rollback" in r] == [16, 32]


@pytest.mark.long
def test_what_fails_again_goes_further_back(
    tiny_run, tmp_path, monkeypatch, capsys):
  """From 8 twice, then from 4, then from the initial state; all on record."""
  tiny_run.checkpoint.every_steps = 4
  tiny_run.train.on_nonfinite = "rollback"
  tiny_run.train.max_rollbacks = 6
  real = loader_lib.Loader.train_batches
  starts = []
  def poisoned(self, sharding, batch_size, start, stop):
    starts.append(start)
    for number, ids_BxL in enumerate(
        real(self, sharding, batch_size, start, stop)):
      bad = number == (9 if len(starts) == 1 else 2) and len(starts) < 7
      yield ids_BxL * 0 + 10**6 if bad else ids_BxL
  monkeypatch.setattr(loader_lib.Loader, "train_batches", poisoned)
  state, _ = run_lib.train(tiny_run, tmp_path)
  assert int(state.step) == 20
  found = lines(tmp_path)
  rollbacks = [r for r in found if "rollback" in r]
  assert [r["step"] for r in rollbacks] == [8, 4, 0, 0, 0, 0]
  assert [r["rollback"] for r in rollbacks] == [1, 2, 3, 4, 5, 6]
  names = set(os.listdir(tmp_path / "checkpoints"))
  assert {"8.failed", "4.failed"} <= names
  # No step stands twice, and none is missing.
  for key in ("loss", "eval/loss"):
    steps = [r["step"] for r in found if key in r]
    assert steps == sorted(set(steps))
  assert [r["step"] for r in found if "loss" in r] == list(range(1, 21))


@pytest.mark.slow
def test_an_evaluation_that_is_not_finite_is_a_failure(
    tiny_run, tmp_path, monkeypatch):
  tiny_run.eval.every_steps = 4
  real = evaluate.Evaluator.run
  def run(self, params, *args, **options):
    scalars = real(self, params, *args, **options)
    calls.append(scalars)
    return scalars | {"eval/loss": float("nan")} if len(calls) == 2 else scalars
  monkeypatch.setattr(evaluate.Evaluator, "run", run)
  for action in ("stop", "rollback"):
    calls = []
    tiny_run.train.on_nonfinite = action
    if action == "stop":
      with pytest.raises(loop.NonFiniteError, match="step 4: eval/loss nan"):
        run_lib.train(tiny_run, tmp_path / action)
      assert not list((tmp_path / action / "checkpoints").iterdir())
    else:
      run_lib.train(tiny_run, tmp_path / action)
      assert [r["skipped_rows"] for r in lines(tmp_path / action)
              if "rollback" in r] == [64]


@pytest.mark.slow
def test_rollback_before_the_first_checkpoint(
    tiny_run, tmp_path, monkeypatch):
  tiny_run.train.on_nonfinite = "rollback"
  _poison(monkeypatch, {2})
  run_lib.train(tiny_run, tmp_path)
  found = lines(tmp_path)
  assert [r["skipped_rows"] for r in found if "rollback" in r] == [48]
  assert [r["step"] for r in found if "loss" in r] == list(range(1, 21))


@contextlib.contextmanager
def _small_files(num_bytes):
  """No file may grow beyond so many bytes: what a full disk does."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _fill_disk(monkeypatch, steps):
  real = checkpoints.Checkpoints.save
  def save(self, step, progress):
    self._finish()  # The save before is to succeed.
    with _small_files(4096) if step in steps else contextlib.nullcontext():
      real(self, step, progress)
      # What runs beside training meets the full disk, too.
      while step in steps and self._manager.is_saving_in_progress():
        time.sleep(0.01)
  monkeypatch.setattr(checkpoints.Checkpoints, "save", save)


def _sweep(workdir):
  """Ends when threads of a failed save write no more, as its process would."""
  quiet = 0
  while quiet < 5:
    found = list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    for path in found:
      shutil.rmtree(path, ignore_errors=True)
    quiet = 0 if found else quiet + 1
    time.sleep(0.1)


@pytest.mark.slow
def test_disk_full_while_saving(tiny_run, tmp_path, monkeypatch, capsys):
  """Training goes on, without leaving rubbish; the next save succeeds."""
  tiny_run.checkpoint.every_steps = 5
  tiny_run.checkpoint.keep = 1
  unbroken, _ = run_lib.train(tiny_run, tmp_path / "unbroken")
  with monkeypatch.context() as patch:
    _fill_disk(patch, {10})
    state, _ = run_lib.train(tiny_run, tmp_path / "run")
  _same(unbroken, state)
  assert "step 10: the save failed (1 in a row)" in capsys.readouterr().out
  assert os.listdir(tmp_path / "run" / "checkpoints") == ["20"]


class _Manager:
  """Stands for Orbax's."""

  directory = "checkpoints"
  num_reloads = 0

  def reload(self):
    self.num_reloads += 1

  def all_steps(self):
    return [4, 8][:1 + self.num_reloads]

  def wait_until_finished(self):
    raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out")


@pytest.fixture
def of_two(monkeypatch):
  """What one of two processes has, without the other."""
  monkeypatch.setattr(checkpoints, "_LOOK_SECS", 0)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  found = object.__new__(checkpoints.Checkpoints)
  found._manager, found._claim = _Manager(), None
  found._failed_steps, found._num_failed, found._saving = set(), 0, 8
  monkeypatch.setattr(found, "_sweep", lambda: None)
  return found


def test_processes_wait_until_they_see_the_same(of_two, monkeypatch):
  """Of checkpoints, some of which NFS shows late."""
  monkeypatch.setattr(checkpoints.distributed, "is_same",
                      lambda text: text == "[4, 8]")
  of_two._agree()
  assert of_two._manager.num_reloads == 1
  monkeypatch.setattr(checkpoints.distributed, "is_same", lambda text: False)
  with pytest.raises(errors.InputError, match="see other checkpoints in check"):
    of_two._agree()


def test_a_save_that_fails_on_one_process_ends_the_run(of_two):
  with pytest.raises(errors.SaveError, match=(
      "step 8: a process could not save, .*Barrier timed out.; the same")):
    of_two._finish()


@pytest.mark.slow
def test_disk_full_for_good(tiny_run, tmp_path, monkeypatch):
  """What was saved before stays known, were it the only one to be kept."""
  tiny_run.checkpoint.every_steps = 5
  tiny_run.checkpoint.keep = 1
  tiny_run.checkpoint.max_failed_saves = 1
  unbroken, _ = run_lib.train(tiny_run, tmp_path / "unbroken")
  for steps, message in (
      ({10, 15, 20}, "2 saves in a row .* goes on from step 5"),
      ({20}, "the last state could not be saved.* goes on from step 15")):
    with monkeypatch.context() as patch:
      _fill_disk(patch, steps)
      with pytest.raises(errors.SaveError, match=message) as error:
        run_lib.train(tiny_run, tmp_path / "run")
    assert error.value.code == 5
    _sweep(tmp_path / "run")
  state, _ = run_lib.train(tiny_run, tmp_path / "run")
  _same(unbroken, state)
  assert lines(tmp_path / "run") == lines(tmp_path / "unbroken")


@pytest.mark.long
def test_disk_full_for_metrics(tiny_run, tmp_path, monkeypatch):
  unbroken, _ = run_lib.train(tiny_run, tmp_path / "unbroken")
  real = metrics.Writer.write
  def write(self, step, scalars):
    if step < 13:
      return real(self, step, scalars)
    self._file.write('{"step": 13, "lo')  # As much as there was room for.
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(self, "_file", open("/dev/full", "w"))
      real(self, step, scalars)
  with monkeypatch.context() as patch:
    patch.setattr(metrics.Writer, "write", write)
    with pytest.raises(errors.SaveError, match="No space left on device"):
      run_lib.train(tiny_run, tmp_path / "run")
  state, _ = run_lib.train(tiny_run, tmp_path / "run")
  _same(unbroken, state)
  assert lines(tmp_path / "run") == lines(tmp_path / "unbroken")


@pytest.mark.parametrize("code, told", [
    (errno.ENOSPC, True), (errno.EROFS, True), (errno.EDQUOT, True),
    (errno.ENOENT, False)])
def test_a_disk_that_takes_nothing_is_told_in_a_line(capsys, code, told):
  """Wherever it was met; other errors of the system are bugs of ours."""
  with pytest.raises(SystemExit if told else OSError) as ending:
    with errors.one_line_exit():
      raise OSError(code, os.strerror(code), "runs/x/config.json")
  if told:
    assert ending.value.code == errors.SaveError.code
    line, = capsys.readouterr().err.splitlines()
    assert "runs/x/config.json" in line and os.strerror(code) in line


def test_disk_full_while_packing(tiny, corpus, tmp_path, capsys):
  """A line, wherever it happens; with room it goes on to the same rows."""
  tiny.data.source = f"text:{corpus}/*.txt"
  for num_bytes in (4096, 40_000):  # The tokenizer; then a shard.
    with _small_files(num_bytes), pytest.raises(SystemExit) as ending:
      with errors.one_line_exit():
        prepare_lib.prepare(tiny, tmp_path / "rows")
    assert ending.value.code == errors.SaveError.code
    assert "File too large" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.rglob("*.part"))
  packed = prepare_lib.prepare(tiny, tmp_path / "rows")
  assert packed.digest == prepare_lib.prepare(tiny, tmp_path / "again").digest


@pytest.mark.long
def test_disk_full_for_tensorboard(tiny_run, tmp_path, monkeypatch, capsys):
  """A copy for the eye is given up; the run is not."""
  from clu.metric_writers import summary_writer
  import tensorflow as tf
  def write_scalars(self, step, scalars):
    raise tf.errors.ResourceExhaustedError(None, None, "No space left")
  monkeypatch.setattr(summary_writer.SummaryWriter, "write_scalars",
                      write_scalars)
  tiny_run.train.num_steps = 4
  run_lib.train(tiny_run, tmp_path)
  assert [r["step"] for r in lines(tmp_path) if "loss" in r] == [1, 2, 3, 4]


@pytest.mark.long
@pytest.mark.parametrize("kills", [
    pytest.param((("SIGKILL, save", -signal.SIGKILL),
                  ("SIGKILL, step", -signal.SIGKILL)), marks=pytest.mark.ci),
    (("SIGKILL, compile", -signal.SIGKILL), ("SIGTERM, eval", 143))])
def test_killed_for_real(tmp_path, monkeypatch, kills):
  """One run, killed in each phase; processes of their own, as bench/soak."""
  monkeypatch.setattr(soak, "_HANG_SECS", 120)
  corpus = soak.make_corpus(tmp_path)
  reference = soak.Run(tmp_path / "unbroken", corpus)
  assert not reference.start(None, random.Random(1)) and reference.code == 0
  run = soak.Run(tmp_path / "run", corpus)
  rng = random.Random(0)
  for name, code in kills:
    assert run.start(name, rng) == "", run.log.read_text()[-3000:]
    assert run.code in (code, 0), name
  while run.code:
    assert run.start(None, rng) == ""
  assert run.result() == reference.result()
