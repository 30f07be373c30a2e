"""The loop: resume is exact, signals save, NaN stops, nothing is damaged."""

import json
import os
import pathlib
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from latemask.checkpoint import checkpoints as checkpoints_lib
from latemask.data import loader as loader_lib
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.report import workdirs
from latemask.runtime import mesh
from latemask.runtime import signals as signals_lib
from latemask.train import loop
from latemask.train import metrics
from latemask.train import schedule
from latemask.train import run as run_lib
from latemask.train import step as step_lib
from tests import conftest


pytestmark = pytest.mark.usefixtures("few_devices")


def _lines(workdir):
  records = [json.loads(line) for line in
             (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()]
  return [{k: v for k, v in r.items() if k not in metrics.TIMES} for r in records]


def _files(directory):
  return {str(p): p.read_bytes() for p in pathlib.Path(directory).rglob("*")
          if p.is_file()}


def _stop_at(monkeypatch, step, signum=signal.SIGTERM):
  """Sends a signal to this process once `step` updates are done."""
  calls = []
  real = loop._report
  def report(config, done, *rest):
    if done == step and not calls:
      calls.append(step)
      os.kill(os.getpid(), signum)
    return real(config, done, *rest)
  monkeypatch.setattr(loop, "_report", report)


@pytest.mark.parametrize("changes", [
    {}, pytest.param({"optimizer.name": "muon", "train.average_share": 0.3,
                      "masking.phases": ((0.5, 0.5), (0.15, 0.5, 0.1))},
                     marks=pytest.mark.slow),
    pytest.param(conftest.LONG_ROWS, marks=pytest.mark.long)])
def test_stopped_and_resumed_is_unbroken(
    tiny_run, tmp_path, monkeypatch, capsys, changes):
  """20 steps = some, SIGTERM, the rest: bit for bit, rows and lines too."""
  tiny_run.update_from_flattened_dict(changes)
  tiny_run.model.dropout = tiny_run.model.attention_dropout = 0.1
  tiny_run.checkpoint.every_steps = 8
  unbroken, evaluation = run_lib.train(tiny_run, tmp_path / "unbroken")
  capsys.readouterr()

  with monkeypatch.context() as patch:
    _stop_at(patch, 11)
    with pytest.raises(signals_lib.Stopped) as stopped:
      run_lib.train(tiny_run, tmp_path / "broken")
  assert stopped.value.code == 143
  saved = {int(n) for n in os.listdir(tmp_path / "broken" / "checkpoints")}
  assert saved == {8, 12}
  # A line beyond the checkpoint, as a kill would leave it, and half a line.
  with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 19, "loss": 1.0}\n{"step": 20, "lo')
  resumed, evaluation_resumed = run_lib.train(tiny_run, tmp_path / "broken")

  jax.tree.map(np.testing.assert_array_equal, jax.device_get(unbroken),
               jax.device_get(resumed))
  assert evaluation == evaluation_resumed
  assert _lines(tmp_path / "unbroken") == _lines(tmp_path / "broken")
  steps = [r["step"] for r in _lines(tmp_path / "broken") if "loss" in r]
  assert steps == list(range(1, 21))
  # Ten steps teach it nothing, and it is told so once.
  assert capsys.readouterr().out.count("step 10: warning: after a third") == 1


@pytest.mark.slow
def test_finished_run_is_left_as_it_is(tiny_run, tmp_path, capsys):
  tiny_run.train.num_steps = 4
  _, first = run_lib.train(tiny_run, tmp_path)
  before = {k: v for k, v in _files(tmp_path).items()
            if "events.out" not in k}
  told = capsys.readouterr().out
  assert "step 4: warning: after a third" in told
  assert "already finished" not in told
  last = (f"saved in {tmp_path}; try: python -m latemask.tools.fill_mask "
          f"--workdir {tmp_path} 'It can <mask> used.'")
  assert told.splitlines()[-1] == last
  _, again = run_lib.train(tiny_run, tmp_path)
  assert first == again
  after = {k: v for k, v in _files(tmp_path).items() if "events.out" not in k}
  assert before == after
  out = capsys.readouterr().out
  assert "eval loss" in out and "warning" not in out
  assert "this run is already finished" in out
  assert out.splitlines()[-1] == last


# Of tiny_config, by hand: width 16, MLP 32, 16 of 32 tokens kept. An early
# layer multiplies 81,920 (attention 32,768 + 16,384, MLP 32,768), the late
# one for its targets 114,688, the head 8,192 + 196,608 (384 padded ids).
TINY_STEP_FLOPS = 16 * (
    3 * (3 * 81_920 + 114_688 + 204_800) + 2 * 16 * 384)


@pytest.mark.parametrize("budget_flops, num_steps, warmup_steps", [
    (12 * TINY_STEP_FLOPS, 12, 1), (13 * TINY_STEP_FLOPS - 1, 12, 1),
    (16 * TINY_STEP_FLOPS, 16, 2), (TINY_STEP_FLOPS, 1, 0),
    (1e12, int(1e12) // TINY_STEP_FLOPS, 3659)])
def test_budget_sets_the_steps(tiny, budget_flops, num_steps, warmup_steps):
  tiny.train.total_flops = float(budget_flops)
  program = step_lib.build(tiny.lock(), specials.trained(320))
  assert program.step_flops == TINY_STEP_FLOPS
  train_config = program.config.train
  assert train_config.num_steps == num_steps
  assert schedule.warmup_steps(program.config) == warmup_steps
  assert program.config.is_locked
  assert tiny.train.num_steps == 20
  end = tiny.optimizer.learning_rate / (num_steps - warmup_steps)
  np.testing.assert_allclose(program.schedule(num_steps - 1), end, rtol=1e-3)


def test_warm_up_is_a_share_of_any_run(tiny):
  """Of a run of before it is what it was: its share, rounded down."""
  tiny.optimizer.warmup_fraction = 0.999
  for num_steps in (1, 2, 20):
    tiny.train.num_steps = num_steps
    assert schedule.warmup_steps(tiny) == num_steps - 1
  tiny.train.num_steps = 20
  with tiny.unlocked():
    del tiny.optimizer["warmup_fraction"]
    tiny.optimizer.warmup_steps = 3
  assert schedule.warmup_steps(tiny) == 3
  tiny.train.total_flops = float(13 * TINY_STEP_FLOPS)
  program = step_lib.build(tiny, specials.trained(320))
  assert schedule.warmup_steps(program.config) == 13 * 3 // 20
  tiny.optimizer.warmup_steps = 20
  tiny.train.total_flops = None
  with pytest.raises(errors.InputError, match="less than train.num_steps 20"):
    step_lib.build(tiny, specials.trained(320))


@pytest.mark.slow
def test_run_of_a_budget(tiny_run, tmp_path, monkeypatch):
  """It ends within its last step, whichever way it came there."""
  tiny_run.train.total_flops = 12.5 * TINY_STEP_FLOPS
  tiny_run.metrics.every_steps = 5
  with monkeypatch.context() as patch:
    _stop_at(patch, 7)
    with pytest.raises(signals_lib.Stopped):
      run_lib.train(tiny_run, tmp_path)
  state, _ = run_lib.train(tiny_run, tmp_path)
  assert int(state.step) == 12
  last = [r for r in _lines(tmp_path) if "loss" in r][-1]
  assert last["step"] == 12
  assert (last["flops"] <= tiny_run.train.total_flops
          < last["flops"] + TINY_STEP_FLOPS)
  given = json.loads((tmp_path / "config.json").read_text())
  assert given["train"]["num_steps"] == 20
  assert given["train"]["total_flops"] == tiny_run.train.total_flops
  run = workdirs.read_run(tmp_path)
  assert run.num_steps == 12 and run.is_finished
  tiny_run.train.total_flops = 13 * TINY_STEP_FLOPS
  with pytest.raises(errors.InputError, match="train.total_flops"):
    run_lib.train(tiny_run, tmp_path)


@pytest.mark.slow
def test_files_of_a_run(tiny_run, tmp_path, capsys):
  tiny_run.metrics.profile_step = 9  # The window is still open at the end.
  tiny_run.train.num_steps = 12
  tiny_run.checkpoint.every_steps = 3
  tiny_run.checkpoint.keep = 2
  tiny_run.eval.rates = (0.15,)
  _, evaluation = run_lib.train(tiny_run, tmp_path)
  names = {p.name for p in tmp_path.iterdir()}
  assert {"config.json", "metrics.jsonl", "checkpoints", "plugins"} <= names
  assert any(n.startswith("events.out.tfevents") for n in names)
  assert sorted(os.listdir(tmp_path / "checkpoints"), key=int) == ["9", "12"]
  lines = [json.loads(line) for line in
           (tmp_path / "metrics.jsonl").read_text().splitlines()]
  trained = [r for r in lines if "loss" in r]
  assert [r["step"] for r in trained] == list(range(1, 13))
  assert {"accuracy", "grad_norm", "learning_rate", "flops",
          "learning_rate"} <= set(trained[0])
  assert set(metrics.TIMES[:3]) <= set(trained[4])
  assert all(0 <= r["data_wait_fraction"] <= 1
             for r in trained if "data_wait_fraction" in r)
  evaluated = [r for r in lines if "eval/loss" in r]
  assert [r["step"] for r in evaluated] == [0, 10, 12]
  assert {"eval/loss", "eval/accuracy", "eval/unigram_entropy",
          "eval/rate_0.15/loss"} <= set(evaluated[0])
  assert evaluated[-1] == {"step": 12} | evaluation
  # Few documents: the entropy of the held-out targets is below that of the
  # vocabulary, and the loss of the untrained model is at it.
  assert evaluated[0]["eval/unigram_entropy"] < np.log(320)
  assert abs(evaluated[0]["eval/loss"] - np.log(320)) < 0.3
  out = capsys.readouterr().out
  assert "left" in out and "guessing by word frequency" in out


@pytest.mark.slow
def test_it_learns(tmp_path):
  """Counting up to twelve, from any number: context says all."""
  words = ("one two three four five six seven eight nine ten eleven "
           "twelve").split()
  (tmp_path / "text.txt").write_text("".join(
      " ".join(words[(start + i) % 12] for i in range(28)) + "\n"
      for start in np.random.default_rng(0).integers(0, 12, 300)))
  config = conftest.tiny_config(f"text:{tmp_path}/text.txt")
  config.model.update(dict(architecture="modern", width=32, mlp=64))
  config.optimizer.learning_rate = 3e-3
  config.train.num_steps = config.metrics.every_steps = 200
  config.eval.every_steps = config.checkpoint.every_steps = 200
  _, evaluation = run_lib.train(config, tmp_path / "run")
  assert evaluation["eval/unigram_entropy"] > 2.4
  assert evaluation["eval/loss"] < 1.8


@pytest.mark.slow
def test_a_save_holds_the_state_of_its_step(tiny_run, tmp_path, monkeypatch):
  """Training goes on, in the same buffers, while a save is written."""
  tiny_run.model.update(dict(width=128, mlp=1024))
  tiny_run.checkpoint.every_steps = 3
  tiny_run.checkpoint.keep = 10
  seen = {}
  save = checkpoints_lib.Checkpoints.save
  def record(self, step, progress):
    seen[step] = jax.tree.map(np.array, jax.device_get(progress.state))
    save(self, step, progress)
  monkeypatch.setattr(checkpoints_lib.Checkpoints, "save", record)
  run_lib.train(tiny_run, tmp_path)
  assert sorted(seen) == [3, 6, 9, 12, 15, 18, 20]
  for step, state in seen.items():
    tree = checkpoints_lib._tree(state)
    with ocp.StandardCheckpointer() as checkpointer:
      found = checkpointer.restore(
          tmp_path / "checkpoints" / str(step) / "state", tree)
    jax.tree.map(np.testing.assert_array_equal, tree, found)


@pytest.mark.slow
def test_nan_stops_and_keeps_the_last_good_checkpoint(
    tiny_run, tmp_path, monkeypatch):
  tiny_run.checkpoint.every_steps = 4
  original = loader_lib.Loader.train_batches

  def poisoned(self, *args):
    batches = original(self, *args)
    for step, batch in enumerate(batches):
      # No row of real tokens has an id outside the table: the lookup of one
      # is NaN.
      yield batch if step != 7 else batch * 0 + 10**6
  monkeypatch.setattr(loader_lib.Loader, "train_batches", poisoned)
  with pytest.raises(loop.NonFiniteError, match="step 8: loss"):
    run_lib.train(tiny_run, tmp_path)
  # Step 8 would have been saved.
  assert os.listdir(tmp_path / "checkpoints") == ["4"]
  last = json.loads(
      (tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
  assert last["step"] == 8 and last["loss"] in ("nan", "inf")


@pytest.mark.slow
def test_signal_in_an_evaluation_gives_it_up(tiny_run, tmp_path, monkeypatch):
  tiny_run.train.num_steps = 12
  real = metrics.Writer.has_eval
  def has_eval(self, step):
    if step == 10:
      os.kill(os.getpid(), signal.SIGTERM)
    return real(self, step)
  with monkeypatch.context() as patch:
    patch.setattr(metrics.Writer, "has_eval", has_eval)
    with pytest.raises(signals_lib.Stopped):
      run_lib.train(tiny_run, tmp_path)
  assert [r["step"] for r in _lines(tmp_path) if "eval/loss" in r] == [0]
  run_lib.train(tiny_run, tmp_path)
  assert [r["step"] for r in _lines(tmp_path) if "eval/loss" in r] == [
      0, 10, 12]


@pytest.mark.slow
def test_another_config_is_refused_by_key(tiny_run, tmp_path):
  tiny_run.train.num_steps = 4
  run_lib.train(tiny_run, tmp_path)
  before = _files(tmp_path)
  tiny_run.model.width = 32
  tiny_run.seed = 7
  with pytest.raises(errors.InputError) as error:
    run_lib.train(tiny_run, tmp_path)
  assert "model.width 16 (now 32), seed 0 (now 7)" in str(error.value)
  assert _files(tmp_path) == before
  tiny_run.model.width, tiny_run.seed = 16, 0
  tiny_run.metrics.every_steps = 2
  tiny_run.mesh.fsdp = 2
  run_lib.train(tiny_run, tmp_path)


@pytest.mark.slow
def test_checkpoint_of_other_rows_is_refused(tiny_run, tmp_path):
  tiny_run.train.num_steps = 4
  run_lib.train(tiny_run, tmp_path / "run")
  (tmp_path / "text.txt").write_text(conftest.make_text(100, seed=5))
  shutil.rmtree(tmp_path / "run" / "data", ignore_errors=True)
  other = conftest.tiny_config(tiny_run.data.source)
  other.data.shards = 2
  with pytest.raises(errors.InputError, match="shards"):
    # Found by the config first...
    other.train.num_steps = 4
    run_lib.train(other, tmp_path / "run")
  # ... and by the checkpoint where the config would do.
  from latemask.data import prepare as prepare_lib
  packed = prepare_lib.prepare(other, tmp_path / "other")
  program = step_lib.build(tiny_run, specials.trained(packed.tokenizer.vocab_size))
  checkpoints = checkpoints_lib.Checkpoints(tmp_path / "run", tiny_run, packed)
  with pytest.raises(errors.InputError, match="other packed rows"):
    checkpoints.restore(program.state_shapes)
  # Grain would shuffle otherwise.
  probe = checkpoints._run["order"]
  checkpoints._run |= {
      "order": probe | {"sha256": "0"}, "manifest": prepare_lib.prepare(
          tiny_run, tiny_run.data.dir).digest}
  with pytest.raises(errors.InputError, match="checkpoint 4 of .* another ord"):
    checkpoints.restore(program.state_shapes)
  checkpoints.close()


@pytest.mark.slow
def test_resume_on_another_mesh_has_the_same_losses(tiny_run, tmp_path):
  tiny_run.train.num_steps = 8
  tiny_run.checkpoint.every_steps = 4
  run_lib.train(tiny_run, tmp_path / "data")
  shutil.copytree(tmp_path / "data", tmp_path / "split")
  shutil.rmtree(tmp_path / "split" / "checkpoints" / "8")
  tiny_run.mesh.fsdp, tiny_run.mesh.data = 2, 1
  state, _ = run_lib.train(tiny_run, tmp_path / "split")
  kernel = state.params["early"]["layers"]["mlp"]["in_kernel"]
  assert kernel.addressable_shards[0].data.shape == (3, 1, 8, 32)
  one, two = ([r["loss"] for r in _lines(tmp_path / d) if "loss" in r]
              for d in ("data", "split"))
  assert len(one) == len(two) == 8
  np.testing.assert_allclose(one, two, rtol=1e-5)
  assert mesh.num_batch_shards() == 1


def test_all_processes_know_what_was_evaluated(tmp_path, monkeypatch):
  """An evaluation is a collective: none may skip it alone."""
  (tmp_path / "metrics.jsonl").write_text(
      '{"step": 4, "eval/loss": 1.0}\n{"step": 8, "eval/loss": 1.0}\n')
  for process in (1, 0):
    monkeypatch.setattr(jax, "process_index", lambda: process)
    writer = metrics.Writer(tmp_path, 4)
    assert [writer.has_eval(s) for s in (0, 4, 8)] == [False, True, False]
    writer.write(5, {"loss": 1.0})
    writer.close()
  assert [r["step"] for r in _lines(tmp_path)] == [4, 5]


def test_rollbacks_stay_on_record_and_no_step_stands_twice(tmp_path):
  writer = metrics.Writer(tmp_path, -1)
  for turn in range(2):
    writer.write(0, {"eval/loss": 2.0})
    for step in (1, 2):
      writer.write(step, {"loss": 1.0 + turn})
    writer.cut(1)
    writer.write(1, {"rollback": turn + 1})
    if not turn:
      writer.cut(-1)  # From the initial state.
  writer.write(2, {"loss": 3.0})
  writer.close()
  assert _lines(tmp_path) == [
      {"step": 1, "rollback": 1}, {"step": 0, "eval/loss": 2.0},
      {"step": 1, "loss": 2.0}, {"step": 1, "rollback": 2},
      {"step": 2, "loss": 3.0}]


@pytest.mark.parametrize("damage", [
    b"\xff", b'{"step": "x"}', b'{"step": 2, "rollback": null}', b"[" * 200_000,
    b"7", b'{"step": 2', b'{"loss": 1.0}'])
def test_damaged_lines_are_taken_off_the_record(tmp_path, damage):
  path = tmp_path / "metrics.jsonl"
  good = b'{"step": 1, "loss": 2.0}\n'
  path.write_bytes(good + damage + b"\n")
  metrics.Writer(tmp_path, 4).close()
  assert path.read_bytes() == good


def test_a_rollback_that_is_to_come_once_more_is_off_the_record(tmp_path):
  """A run was killed behind it, and before the next checkpoint."""
  for num_rollbacks, kept in ((2, [1, 2]), (1, [1]), (0, [])):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "rollback": 1}\n{"step": 1, "rollback": 2}\n')
    metrics.Writer(tmp_path, 1, num_rollbacks).close()
    assert [line["rollback"] for line in _lines(tmp_path)] == kept


def test_tensorboard_shows_one_stretch_of_every_step(tmp_path):
  """After a kill, what was cut off the record is off the curves, too."""
  pytest.importorskip("tensorflow")
  # What TensorBoard itself reads with.
  from tensorboard.backend.event_processing import plugin_event_accumulator
  from tensorboard.util import tensor_util
  for start, stop in ((-1, 9), (4, 7)):
    writer = metrics.Writer(tmp_path, start)
    for step in range(max(start, 0) + 1, stop):
      writer.write(step, {"loss": float(stop)})
    if start < 0:
      time.sleep(1.1)  # Files are in order by the second.
      writer._file.close()  # Killed: nothing else is closed.
  found = plugin_event_accumulator.EventAccumulator(
      str(tmp_path), tensor_size_guidance={"scalars": 0}).Reload()
  tag, = found.Tags()["tensors"]
  events = found.Tensors(tag)
  assert [(e.step, float(tensor_util.make_ndarray(e.tensor_proto)))
          for e in events] == [(n, 9.0 if n < 5 else 7.0) for n in range(1, 7)]


def test_the_first_line_comes_soon(monkeypatch):
  """Once, however many steps there are between lines."""
  now = [0.0]
  monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
  clock = metrics.Clock(100, None)
  due = []
  for _ in range(9):
    now[0] += 3
    clock.stepped(1e9)
    due.append(clock.is_due())
  assert due == [False] * 3 + [True] + [False] * 5
  assert clock.lap()["step_ms"] == 3000  # The early line took nothing away.


def test_clock_takes_pauses_out(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
  clock = metrics.Clock(100, 1e10, {"devices": 8})
  for _ in range(5):
    with clock.wait():
      now[0] += 0.2
    with clock.pause():
      now[0] += 7
    now[0] += 1.8
    clock.stepped(1e9)
  expected = {"tokens_per_sec": 50, "step_ms": 2000,
              "data_wait_fraction": 0.1, "mfu": 0.05, "devices": 8}
  rates = clock.lap()
  assert rates == pytest.approx(expected)
