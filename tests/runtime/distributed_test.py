"""Several processes: who is there, and the same run on any number of them."""

import concurrent.futures
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from latemask.data import loader as loader_lib
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.masking import selection
from latemask.runtime import distributed
from latemask.train import run as run_lib
from latemask.train import step as step_lib
from tests import conftest
from tests.finetune import run_test


def _port():
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def _call(present, num_processes, secs=2, names=(), expected=None):
  """Calls the roll in threads; returns hosts or error of each."""
  port = _port()
  def one(process_id):
    team = distributed.Team(
        "127.0.0.1", port, (expected or {}).get(process_id, num_processes),
        process_id, names)
    try:
      return distributed.roll_call(team, secs)
    except errors.MissingError as error:
      assert error.code == 4
      return str(error)
  with concurrent.futures.ThreadPoolExecutor(len(present)) as pool:
    return list(pool.map(one, present))


def test_all_are_there():
  found = _call((2, 0, 1), 3, secs=20)
  assert found == [[socket.gethostname()] * 3] * 3


def test_the_missing_are_named_to_everybody():
  found = _call((3, 0), 4, names=("a", "b", "c", "d"))
  assert found == [
      "2 of 4 processes are here; missing: 1 (b), 2 (c)"] * 2
  found = _call((1, 2), 3, secs=1)
  for text, process in zip(found, (1, 2)):
    assert "process 0 at 127.0.0.1:" in text and "is missing" in text
    assert f"process {process} of 3 could not reach it" in text


def test_a_number_twice_and_another_count():
  assert all("two processes have the number 1" in text
             for text in _call((0, 1, 1), 3, secs=5))
  found = _call((0, 1), 2, secs=5, expected={1: 4})
  assert all("process 1 on" in text and "expects 4 processes, process 0 2"
             in text for text in found)


def test_a_port_that_another_has_is_waited_for():
  with socket.create_server(("", 0)) as taken:
    team = distributed.Team("127.0.0.1", taken.getsockname()[1], 1, 0)
    with pytest.raises(errors.MissingError, match=f"port {team.port} of this"):
      distributed.roll_call(team, 0.3)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      called = pool.submit(distributed.roll_call, team, 20)
      time.sleep(0.3)
      taken.close()
      assert called.result() == [socket.gethostname()]


def test_strangers_at_the_port_do_no_harm():
  port = _port()
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    zero = pool.submit(distributed.roll_call, distributed.Team(
        "127.0.0.1", port, 2, 0), 20)
    time.sleep(0.3)
    for text in (b"GET / HTTP/1.1\r\n\r\n", b"", b"[1]\n"):
      with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(text)
    distributed.roll_call(distributed.Team("127.0.0.1", port, 2, 1), 20)
    assert len(zero.result()) == 2


@pytest.mark.parametrize("environment, team", [
    ({"TPU_WORKER_HOSTNAMES": "t-0,t-1", "TPU_WORKER_ID": "1"},
     distributed.Team("t-0", 8476, 2, 1, ("t-0", "t-1"))),
    ({"TPU_WORKER_HOSTNAMES": "t-0,t-1", "TPU_WORKER_ID": "0",
      "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2",
      "MEGASCALE_COORDINATOR_ADDRESS": "first:8080"},
     distributed.Team("first", 8476, 6, 4)),
])
def test_team_of_gke(monkeypatch, environment, team):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert distributed._team("tpu", None, None) == team


@pytest.mark.parametrize("endpoints", ["10.0.0.1,10.0.0.2",
                                       "x:0:10.0.0.1,x:1:10.0.0.2"])
def test_team_of_a_tpu_vm(monkeypatch, endpoints):
  monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
  answers = {"attributes/worker-network-endpoints": endpoints,
             "attributes/agent-worker-number": "1"}
  monkeypatch.setattr(distributed, "_metadata", answers.__getitem__)
  assert distributed._team("tpu", None, None) == distributed.Team(
      "10.0.0.1", 8476, 2, 1, ("10.0.0.1", "10.0.0.2"))


@pytest.mark.parametrize("spec", ["off", "tpu"])
@pytest.mark.parametrize("flags", [(4, None), (None, 2), (4, 2)])
def test_a_number_without_a_place_to_meet_is_refused(spec, flags):
  """Else each of four hosts would train the whole run by itself."""
  with pytest.raises(errors.InputError, match="belong to --distributed=HOST"):
    with distributed.together(spec, *flags):
      pass


@pytest.mark.parametrize("spec, num_processes, process_id, message", [
    ("on", None, None, "off, tpu or HOST:PORT"),
    ("host:port", 2, 0, "off, tpu or HOST:PORT"),
    ("host:65536", 2, 0, "off, tpu or HOST:PORT"),
    ("host:\N{SUPERSCRIPT TWO}", 2, 0, "off, tpu or HOST:PORT"),
    ("host:80", None, 0, "needs --num_processes and --process_id"),
    ("host:80", 2, 2, "must be one of 0 to 1"),
])
def test_flags_that_cannot_be(spec, num_processes, process_id, message):
  with pytest.raises(errors.InputError, match=message):
    distributed._team(spec, num_processes, process_id)


@pytest.mark.parametrize("ending", [
    SystemExit(143), errors.InputError("no such file")])
def test_exit_code_outlives_a_shutdown_that_fails(monkeypatch, ending):
  """As where the others sit in a collective, and never come to the end."""
  def shutdown():
    raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: barrier timed out")
  monkeypatch.setattr(distributed, "roll_call", lambda *_: ["a", "b"])
  monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
  monkeypatch.setattr(jax.distributed, "shutdown", shutdown)
  with pytest.raises(type(ending)) as raised:
    with distributed.together("host:80", 2, 1):
      raise ending
  assert raised.value is ending


_ENDS_ALONE = """
import sys
from latemask.runtime import distributed
from latemask import errors
distributed._END_SECS = distributed._EARLY_SECS + 2
mine, ending = int(sys.argv[2]), int(sys.argv[3])
with distributed.together("127.0.0.1:" + sys.argv[1], 2, mine, 60), (
    errors.one_line_exit()):
  distributed.everywhere(True)
  if mine == ending:
    raise errors.InputError("no such file")
  distributed.everywhere(True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [0, 1])
def test_one_that_ends_alone_keeps_its_exit_code(ending):
  """The other, in a collective, ends too, and not with 0."""
  port = str(_port())
  two = [subprocess.Popen(
      [sys.executable, "-c", _ENDS_ALONE, port, str(process), str(ending)],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      env=os.environ | {"XLA_FLAGS": ""}) for process in range(2)]
  told = _outputs(two, 100)
  assert two[ending].returncode == 2, told[ending]
  assert "latemask: no such file" in told[ending].splitlines()
  assert two[1 - ending].returncode not in (0, 2), told[1 - ending]


def test_alone_is_everywhere():
  assert distributed.everywhere(True) is True
  assert distributed.everywhere(False) is False


# latemask.main, its batches held up.
_SLOW = """
import sys, time
from latemask.runtime import signals
signals.listen()
from latemask import main
from latemask.data import loader
def slow(name, secs):
  real = getattr(loader.Loader, name)
  def batches(*args):
    for batch in real(*args):
      time.sleep(secs)
      yield batch
  setattr(loader.Loader, name, batches)
step_secs, eval_secs = map(float, sys.argv.pop(1).split(","))
slow("train_batches", step_secs)
slow("eval_batches", eval_secs)
main.app.run(main.main, flags_parser=main.parse)
"""


def _start(workdir, corpus, data, process, num_processes, port, *flags,
           slow=None):
  devices = 4 // num_processes
  program = ["-c", _SLOW, slow] if slow else ["-m", "latemask.main"]
  several = _several(process, num_processes, port)
  config = conftest.tiny_config(f"text:{corpus}/*.txt").to_dict()
  config["data"]["dir"] = str(data)
  config["model"]["dropout"] = 0.1
  config["train"]["num_steps"] = 12
  config["checkpoint"]["every_steps"] = 4
  overrides = [f"--config.{group}.{key}={value}"
               for group, keys in config.items() if isinstance(keys, dict)
               for key, value in keys.items() if value is not None]
  return subprocess.Popen(
      [sys.executable, *program, "--config=configs/base.py:tiny",
       f"--workdir={workdir}", *overrides,
       *(several if num_processes > 1 else []), *flags],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      env=_environment(devices))


def _several(process, num_processes, port):
  return [f"--distributed=127.0.0.1:{port}", "--start_secs=60",
          f"--num_processes={num_processes}", f"--process_id={process}"]


def _environment(devices):
  return os.environ | {"XLA_FLAGS": conftest.ONE_DEVICE + (
      f" --xla_force_host_platform_device_count={devices}")}


def _outputs(processes, timeout=200):
  """Returns what processes have printed, when they have ended.

  Side by side: who waits for another must not wait for a full pipe.
  """
  with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
    return list(pool.map(
        lambda process: process.communicate(timeout=timeout)[0], processes))


def _run(workdir, corpus, data, num_processes, *flags):
  """Runs all processes to their end; returns [(exit code, output)]."""
  port = _port()
  started = [_start(workdir, corpus, data, process, num_processes, port,
                    *flags) for process in range(num_processes)]
  outputs = _outputs(started)
  return [(process.returncode, output)
          for process, output in zip(started, outputs)]


def _losses(workdir):
  records = [json.loads(line) for line in
             (workdir / "metrics.jsonl").read_text().splitlines()]
  return {(r["step"], key): r[key] for r in records
          for key in ("loss", "grad_norm", "eval/loss") if key in r}


@pytest.mark.long
@pytest.mark.parametrize("counts, goes_on", [
    pytest.param((1, 2), (("2", 1),), marks=pytest.mark.ci),
    ((1, 2, 4), (("1", 2), ("4", 1)))])
def test_same_run_on_several_processes(
    corpus, packed_dir, tmp_path, counts, goes_on):
  """Four devices, fsdp and tensor among them; and on with another number."""
  mesh = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
  # Several: the first one packs the rows, and the others wait for them.
  data = {count: packed_dir if count == 1 else tmp_path / "rows"
          for count in counts}
  for count in counts:
    ended = _run(tmp_path / str(count), corpus, data[count], count, *mesh)
    assert [code for code, _ in ended] == [0] * count, ended[0][1][-3000:]
    if count > 1:
      assert "packed 400 documents" in ended[0][1] or count == 4
      assert all("packed 400" not in text for _, text in ended[1:])
      assert f"{count} of {count} processes are here" in ended[0][1]
      assert all("eval loss" not in text for _, text in ended[1:])
  one = _losses(tmp_path / "1")
  assert len(one) == 12 * 2 + 3
  _assert_close(one, *(_losses(tmp_path / str(n)) for n in counts[1:]))
  # What the last process alone reads, and therefore it alone finds damaged.
  count = counts[-1]
  for path in (tmp_path / str(count) / "checkpoints/12/state").rglob(
      f"ocdbt.process_{count - 1}/d/*"):
    path.write_bytes(path.read_bytes()[:100])
  ended = _run(tmp_path / str(count), corpus, data[count], count, *mesh)
  assert [code for code, _ in ended] == [0] * count, ended[0][1][-3000:]
  assert "checkpoint 12 of" in ended[-1][1] and "damaged" in ended[0][1]
  assert not any("Traceback" in text for _, text in ended)
  assert "going on from the checkpoint at step 8" in ended[0][1]
  _assert_close(one, _losses(tmp_path / str(count)))
  for name, count in goes_on:
    for step in ("8", "12"):
      shutil.rmtree(tmp_path / name / "checkpoints" / step)
    ended = _run(tmp_path / name, corpus, data[int(name)], count, *mesh)
    assert [code for code, _ in ended] == [0] * count, ended[0][1][-3000:]
    assert "going on from the checkpoint at step 4" in ended[0][1]
    _assert_close(one, _losses(tmp_path / name))


def _assert_close(one, *others):
  for other in others:
    assert other.keys() == one.keys()
    np.testing.assert_allclose(list(one.values()), list(other.values()),
                               rtol=1e-5)


def _start_several(count, workdir, corpus, packed_dir, *flags, slow=None):
  """Starts processes; returns them once a checkpoint is there."""
  before = {p.name for p in workdir.glob("checkpoints/*")}
  port = _port()
  started = [_start(workdir, corpus, packed_dir, process, count, port,
                    "--config.train.num_steps=100000", *flags, slow=slow)
             for process in range(count)]
  deadline = time.monotonic() + 300
  while {p.name for p in workdir.glob("checkpoints/*")
         if p.name.isdigit()} <= before:
    if time.monotonic() > deadline or started[0].poll() is not None:
      for process in started:
        process.kill()
      pytest.fail(started[0].communicate()[0][-3000:])
    time.sleep(0.05)
  return started


@pytest.mark.long
@pytest.mark.parametrize("count, slow", [(2, "2,0"), (4, "2,0"), (2, "0,2")])
def test_one_of_several_is_told_to_stop(
    corpus, packed_dir, tmp_path, count, slow):
  """All save the same step, a few on at most, or leave an evaluation."""
  flags = ["--config.eval.every_steps=4", "--config.eval.batch_size=4"]
  several = _start_several(
      count, tmp_path, corpus, packed_dir, *flags, slow=slow)
  saved = max(int(p.name) for p in tmp_path.glob("checkpoints/*")
              if p.name.isdigit())
  several[-1].send_signal(signal.SIGTERM)
  told = _outputs(several, 100)
  assert [process.returncode for process in several] == [143] * count, told
  step, = re.findall(r"step ([\d,]+): saved on SIGTERM", told[0])
  assert int(step) <= saved + 4 and f"step {step}: eval" not in told[0]
  assert (tmp_path / "checkpoints" / step).exists()


@pytest.mark.ci
@pytest.mark.long
def test_one_of_several_is_killed(corpus, packed_dir, tmp_path):
  """The other ends, and not with 0; they go on from the last checkpoint."""
  for start in range(2):
    two = _start_several(2, tmp_path, corpus, packed_dir)
    two[1].send_signal((signal.SIGKILL, signal.SIGTERM)[start])
    told = _outputs(two, 100)
    codes = [process.returncode for process in two]
    if start == 0:
      assert codes[1] == -signal.SIGKILL
      assert codes[0] not in (0, None), told[0][-2000:]
  assert codes == [143, 143], told
  assert "going on from the checkpoint at step" in told[0]


def _finetune(workdir, run, data_dir, process, port, *flags):
  return subprocess.Popen(
      [sys.executable, "-m", "latemask.main", "--config=configs/glue.py",
       f"--workdir={workdir}", f"--config.init_from={run}",
       "--config.task=cola", f"--config.data_dir={data_dir}",
       "--config.grid.learning_rates=(1e-2,)",
       "--config.grid.batch_sizes=(16,)", "--config.grid.seeds=(0,1,2)",
       *_several(process, 2, port), *flags],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      env=_environment(1))


@pytest.fixture(scope="module")
def cola(tmp_path_factory):
  """A folder with a small CoLA."""
  folder = tmp_path_factory.mktemp("glue") / "CoLA"
  folder.mkdir()
  for split, num_rows in (("train", 100), ("dev", 37)):
    (folder / f"{split}.tsv").write_text(run_test._cola(num_rows, 0))
  return folder.parent


@pytest.mark.long
def test_fine_tuning_deals_the_cells_out(run, cola, tmp_path):
  workdir, _ = run
  port = _port()
  two = [_finetune(tmp_path / "out", workdir, cola, process, port,
                   "--config.grid.num_epochs=1") for process in range(2)]
  told = _outputs(two)
  assert [process.returncode for process in two] == [0, 0], told
  # Of three cells process 0 trained two, and tells of them.
  assert re.findall(r"seed(\d): epoch 1/1", told[0]) == ["0", "2"]
  assert "epoch" not in told[1]
  assert len(list((tmp_path / "out/cells/cola").iterdir())) == 3
  assert "| cola" in (tmp_path / "out/results.md").read_text()


@pytest.mark.long
def test_fine_tuning_of_which_one_is_told_to_stop(run, cola, tmp_path):
  workdir, _ = run
  cells = tmp_path / "out" / "cells" / "cola"
  for start in range(2):
    port = _port()
    two = [_finetune(tmp_path / "out", workdir, cola, process, port,
                     "--config.grid.num_epochs=30") for process in range(2)]
    if start == 0:
      while not cells.exists():
        assert two[0].poll() is None and two[1].poll() is None
        time.sleep(0.05)
      two[1].send_signal(signal.SIGINT)
    told = _outputs(two)
    codes = [process.returncode for process in two]
    if start == 0:
      assert codes == [130, 130], told
      assert all("latemask: stopped by SIGINT" in text for text in told)
      before = {p: p.read_bytes() for p in cells.glob("*.json")}
      assert 0 < len(before) < 3
  assert codes == [0, 0], told
  assert len(list(cells.iterdir())) == 3
  assert all(p.read_bytes() == text for p, text in before.items())


def _recorded(config, workdir, num_devices, num_steps=None):
  """Trains on some of the devices; returns (losses, rows and masks by step)."""
  seen = {}
  with pytest.MonkeyPatch.context() as patch:
    devices = jax.devices()[:num_devices]
    build = step_lib.build
    conftest.only_devices(patch, devices)
    real = loader_lib.Loader.train_batches
    def train_batches(self, sharding, batch_size, start, stop):
      program = build(config, specials.trained(320))
      mask = jax.jit(lambda step, ids_BxL: selection.mask_batch(
          program.plan, jax.random.fold_in(program._key(step_lib._MASK), step),
          jax.numpy.arange(batch_size), ids_BxL))
      for step, ids_BxL in enumerate(
          real(self, sharding, batch_size, start, stop), start):
        masked = jax.device_get(mask(step, ids_BxL))
        seen[step] = [np.asarray(ids_BxL), *jax.tree.leaves(masked)]
        yield ids_BxL
        if step + 1 == num_steps:
          raise InterruptedError
    patch.setattr(loader_lib.Loader, "train_batches", train_batches)
    if num_steps:
      with pytest.raises(InterruptedError):
        run_lib.train(config, workdir)
    else:
      run_lib.train(config, workdir)
  return _losses(workdir), seen


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, conftest.LONG_ROWS])
def test_same_run_on_1_2_4_8_devices(tiny_run, tmp_path, changes):
  """Rows and masks bit for bit, losses to rounding; and from 8 on with 2."""
  tiny_run.update_from_flattened_dict(changes)
  tiny_run.model.dropout = 0.1
  tiny_run.train.num_steps = 8
  tiny_run.checkpoint.every_steps = 4
  losses, seen = _recorded(tiny_run, tmp_path / "1", 1)
  assert sorted(seen) == list(range(8))
  for count in (2, 4, 8):
    other, seen_there = _recorded(tiny_run, tmp_path / str(count), count)
    _assert_close(losses, other)
    jax.tree.map(np.testing.assert_array_equal, seen, seen_there)
  for first, second in ((8, 2), (2, 8)):
    workdir = tmp_path / f"{first} then {second}"
    _recorded(tiny_run, workdir, first, num_steps=6)
    other, seen_there = _recorded(tiny_run, workdir, second)
    _assert_close(losses, other)
    assert sorted(seen_there) == [4, 5, 6, 7]
    jax.tree.map(np.testing.assert_array_equal,
                 {step: seen[step] for step in seen_there}, seen_there)
