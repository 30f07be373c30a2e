"""Sweeps: every point builds; every run is done, once, whatever is killed."""

import hashlib
import importlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid

import jax
import pytest

from configs import base
from configs import sweeps
from latemask.config import keys
from latemask.config import spec as spec_lib
from latemask.data.tokenizers import specials
from latemask.report import reading
from latemask.report import workdirs
from latemask.runtime import claims
from latemask import errors
from latemask.sweep import costs
from latemask.sweep import points as points_lib
from latemask.sweep import runner
from latemask.tools import sweep
from latemask.train import step as step_lib
from tests import conftest

ROOT = conftest.ROOT
NAMES = sorted(p.stem for p in (ROOT / "configs" / "sweeps").glob("[a-z]*.py"))
STUDY = sorted(
    {p.stem for p in (ROOT / "configs/sweeps/study").glob("[a-z]*.py")}
    - {"downstream"})
TINY = '''
from configs import base

def get_config(size="tiny"):
  config = base.get_config(size)
  config.model.update(dict(
      width=16, heads=2, mlp=32, dtype="float32", max_length=64))
  config.data.update(dict(
      source="text:{corpus}/*.txt", vocab_size=320, length=32, workers=1,
      shards=1, eval_fraction=0.1))
  config.train.batch_size = 8
  config.train.num_steps = 12
  config.optimizer.warmup_fraction = 0.05
  config.eval.rates = ()
  config.metrics.every_steps = 1
  return config

def sweep(config):
  yield from {points}

def columns():
  return ["seed"]
'''
GOOD = [{"seed": 1}, {"seed": 2}, {"seed": 3}]
# All that can be checked ahead is in order; the devices are not as many.
BAD = {"mesh.data": 7}
BAD_NAME = "mesh.data=7"


@pytest.fixture
def write(tmp_path, corpus):
  """Writes a sweep of some points; returns its path."""
  def write(points):
    path = tmp_path / "tiny.py"
    path.write_text(TINY.format(corpus=corpus, points=points))
    return str(path)
  return write


def _main(monkeypatch, *arguments):
  """Runs the command in this process; returns its exit code."""
  monkeypatch.setattr(sys, "argv", ["sweep", *map(str, arguments)])
  with pytest.raises(SystemExit) as ended:
    sweep.main()
  return ended.value.code


def _files(folder):
  return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_older_sweeps_stay_done_and_keep_their_rows(write, tmp_path):
  """A key that came later, with the value that means as before."""
  point, = points_lib.read(write(GOOD[:1]), tmp_path / "out")[0]
  older = {k: v for k, v in point.wanted.items() if k not in keys.BEFORE}
  assert older != point.wanted
  older["optimizer.warmup_steps"] = 3
  del older["optimizer.warmup_fraction"]
  point.path.parent.mkdir()
  point.file("done").write_text(json.dumps({"config": older}))
  assert point.done
  packed = {k[5:]: v for k, v in older.items() if k.startswith("data.")
            and not keys.PRETRAINING[k].free}
  digest = hashlib.sha256(json.dumps(packed, sort_keys=True).encode())
  assert point.config.data.dir.endswith(f"/{digest.hexdigest()[:8]}")


def test_a_run_is_done_whatever_it_told_meanwhile(write, tmp_path):
  """How often it is evaluated changes no run; a learning rate does."""
  point, = points_lib.read(write(GOOD[:1]), tmp_path / "out")[0]
  point.path.parent.mkdir()
  for changes, done in (({"eval.every_steps": 7, "metrics.every_steps": 3}, 1),
                        ({"optimizer.learning_rate": 0.5}, 0)):
    point.file("done").write_text(json.dumps(
        {"config": point.wanted | changes}))
    assert bool(point.done) == done


def test_other_rows_of_ones_own_are_another_fine_tuning(tmp_path):
  one, two = points_lib.read(
      "configs/finetune.py,data.dev=dev.csv", tmp_path, ["runs/mine"],
      {"data.train": ["a.csv", "b.csv"]})[0]
  for point in (one, two):
    point.path.parent.mkdir(parents=True, exist_ok=True)
    point.file("done").write_text(json.dumps({"config": one.wanted}))
  assert one.done and not two.done


# ---- Configs


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    # The points of mask_rate_x_insertion, in another size.
    pytest.param(name, marks=pytest.mark.long) if name == "two_cores" else name
    for name in NAMES])
def test_every_point_builds(name, tmp_path):
  """At the size that is its default, and on paths that are not there."""
  spec = f"configs/sweeps/{name}.py"
  is_finetuning = name == "glue"
  if not is_finetuning:
    spec += ",data.source=builtin"
  points, columns = points_lib.read(
      spec, tmp_path / "out", ["runs/a", "runs/b"] if is_finetuning else [])
  assert len({p.path for p in points}) == len(points) > 1
  # A second seed builds what the first does.
  points = costs.check(
      [p for p in points if p.overrides.get("seed", 1) == 1])
  assert not list(tmp_path.iterdir())
  for column in columns:
    assert len({p.wanted[column] if column in p.wanted
                else p.overrides[column] for p in points}) > 1, column
  if is_finetuning:
    assert [p.name for p in points] == ["a/glue", "b/glue"]
    return
  steps_flops = {p.name: p.flops for p in points}
  # At equal compute, all but a step of the budget is spent.
  budget = points[0].config.train.total_flops
  assert (budget is None) == (name == "lr")
  for point in points:
    assert point.num_steps > (250 if name == "demo" else 1000)
    if budget:
      spent = steps_flops[point.name]
      assert 0 <= budget - spent < spent / point.num_steps


@pytest.mark.parametrize("name", STUDY)
def test_the_study_knows_its_runs(name, tmp_path):
  """Every point can be; what has been run is known to be done."""
  results = ROOT / "configs/sweeps/study/results" / name
  path = f"configs/sweeps/study/{name}.py"
  costs.check(points_lib.read(f"{path},data.source=builtin", tmp_path)[0][:1])
  points, _ = points_lib.read(
      f"{path},data.source=text:train.txt,data.eval_source=text:eval.txt",
      results)
  done = {point.name for point in points if point.done}
  assert done == {
      path.name.removesuffix(".done") for path in results.glob("*.done")}
  assert done


def test_the_study_fine_tunes_its_ends(tmp_path):
  """Each on three tasks, at a rate that is one of those MRPC chooses from."""
  points, _ = points_lib.read(
      "configs/sweeps/study/downstream.py", tmp_path, ["runs/a", "runs/b"])
  assert len({str(point.path) for point in points}) == len(points) == 6
  for run in "ab":
    mrpc, *others = (p.config for p in points if p.name.startswith(f"{run}/"))
    assert mrpc.task == "mrpc" and len(mrpc.grid.learning_rates) == 2
    assert [c.task for c in others] == ["stsb", "sst2"]
    for config in others:
      rate, = config.grid.learning_rates
      assert rate in mrpc.grid.learning_rates


@pytest.mark.slow
def test_budgets_are_those_of_base():
  for size, budget in sweeps.TOTAL_FLOPS.items():
    config = base.get_config(size)
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"),
                         devices=jax.devices()[:1])
    program = step_lib.build(config, specials.trained(config.data.vocab_size), mesh=mesh)
    assert budget == pytest.approx(
        program.step_flops * config.train.num_steps, rel=0.01)


@pytest.mark.parametrize("size, places", [
    ("base", [(12, 0), (12, 3), (12, 6), (12, 9), (14, 12)]),
    ("small", [(6, 0), (6, 1), (6, 3), (6, 4), (8, 6)]),
    ("tiny", [(2, 0), (2, 1), (4, 2)])])
def test_mask_rate_x_insertion(size, places):
  module = importlib.import_module("configs.sweeps.mask_rate_x_insertion")
  points = list(module.sweep(module.get_config(size).lock()))
  assert {(p["masking.rate"], p["model.layers"], p["model.insertion_layer"],
           p["seed"]) for p in points} == {
               (rate, *place, seed) for rate in (0.15, 0.3, 0.5, 0.7)
               for place in places for seed in (1, 2)}
  assert len(points) == 8 * len(places)


def test_kernels_of_other_platforms_are_checked_here(write, tmp_path):
  """The sweep itself runs on a CPU; the runs will not."""
  bad = {"model.attention": "cudnn", "model.attention_dropout": 0.1}
  spec = write([{"model.attention": kind, "model.attention_dropout": 0.0}
                for kind in ("cudnn", "splash")]) + ",model.dtype=bfloat16"
  points = costs.check(points_lib.read(spec, tmp_path / "out")[0])
  assert [point.config.model.attention for point in points] == [
      "cudnn", "splash"]
  with pytest.raises(errors.InputError, match="cudnn cannot drop attention"):
    costs.check(points_lib.read(write([bad]) + ",model.dtype=bfloat16",
                                tmp_path / "out")[0])


def test_changes_reach_points_and_flags(tmp_path):
  points, _ = points_lib.read(
      "configs/sweeps/predict_rate.py:tiny,train.batch_size=32,"
      "data.dir=/rows,eval.rates=(),model.remat=None", tmp_path)
  first, last = points[0], points[-1]
  assert first.flags == (
      "--config=configs/sweeps/predict_rate.py:tiny", "--config.data.dir=/rows",
      "--config.eval.rates=()", "--config.model.remat=None", "--config.seed=1",
      "--config.train.batch_size=32")
  assert last.flags[3] == "--config.masking.predict_rate=0.15"
  assert last.config.train.total_flops == sweeps.TOTAL_FLOPS["tiny"]


def test_rows_that_are_the_same_are_shared(write, tmp_path):
  points, _ = points_lib.read(write([
      {"data.max_bad_documents": 1}, {"data.max_bad_documents": 2},
      {"data.length": 16}]), tmp_path / "out")
  one, same, other = (point.config.data.dir for point in points)
  assert one == same != other


def test_rows_of_another_fit_are_others(write, tmp_path):
  path = write([{"data.fit": fit} for fit in ("best", "next")])
  def directories():
    return [pathlib.Path(point.config.data.dir)
            for point in points_lib.read(path, tmp_path / "out")[0]]
  best, other = directories()
  assert best != other
  # Rows that were packed before there was the key go with both.
  best.mkdir(parents=True)
  (best / "manifest.json").write_text('{"settings": {}, "split": null}')
  assert directories() == [best, best]
  (best / "manifest.json").write_text(
      '{"settings": {"fit": "best"}, "split": null}')
  assert directories() == [best, other]


def test_rows_do_not_depend_on_shares(write, tmp_path):
  points, _ = points_lib.read(write([
      {"data.source": source} for source in (
          "text:a@0.3,text:b@0.7", "text:a@0.5,text:b@0.5", "text:a,text:b",
          "text:a@0.5,text:c@0.5")]), tmp_path / "out")
  one, same, *others = (point.config.data.dir for point in points)
  assert one == same and len({one, *others}) == 3


def test_names():
  config = spec_lib.load(
      "configs/base.py:tiny,data.source=text:/a b/ü*.txt")
  name = points_lib.name_of
  assert name(config, {"seed": 0, "masking.rate": 1}) == (
      "masking.rate=0.5_seed=0")
  assert name(config, {}) == "default"
  odd = name(config, {"data.source": 0})
  assert re.fullmatch(r"data.source=text--a-b---.txt-[0-9a-f]{8}", odd)
  other = spec_lib.load("configs/base.py:tiny,data.source=text:/a/b/ü*.txt")
  assert name(other, {"data.source": 0}) != odd
  other.data.source = "x" * 500
  assert len(name(other, {"data.source": 0})) < 200


# ---- The command, with runs that only pretend

# By seed: 7 fails; 9 sleeps until a signal; 8 is held by another at first; and
# meanwhile, elsewhere, 7 failed once more for 3.
STUB = '''
import os, signal, sys, time
workdir = sys.argv[-1].split("=", 1)[1]
seed = next(a.split("=")[1] for a in sys.argv if "seed=" in a and "-c" in a)
os.makedirs(workdir, exist_ok=True)
print("begun", seed, flush=True)
if seed == "8" and not os.path.exists(workdir + "/held"):
  open(workdir + "/held", "w")
  print("another's")
  sys.exit(int(os.environ["LATEMASK_HELD_CODE"]))
if seed == "3":
  with open(workdir.replace("seed=3", "seed=7.failed"), "w") as failed:
    failed.write('{"reason": "elsewhere"}')
with open(workdir + "/metrics.jsonl", "w") as metrics:
  metrics.write('{"step": 12, "eval/loss": 4.25}')
if seed == "9":
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  open(workdir + "/ready", "w")
  time.sleep(60)
print("the last line" if seed == "7" else "fine")
sys.exit(3 if seed == "7" else 0)
'''


@pytest.fixture
def stub(monkeypatch):
  monkeypatch.setattr(runner, "_MAIN", ("-c", STUB))
  monkeypatch.setattr(runner, "_POLL_SECS", 0.02)
  monkeypatch.setattr(runner, "_LOOK_SECS", 0.05)


def _starts(out):
  return {p.stem: p.read_text().count("--- start") for p in
          out.glob("*.log")}


@pytest.mark.slow
def test_failed_runs_stop_no_other(write, tmp_path, monkeypatch, capsys, stub):
  out = tmp_path / "out"
  spec = write([{"seed": seed} for seed in (7, 1, 2)])
  command = "--config", spec, "--out", out, "--parallel", 2
  assert _main(monkeypatch, *command) == 1
  told = capsys.readouterr()
  assert "latemask: seed=7: exit code 3: the last line" in told.err
  assert "1 of 3 runs failed" in told.err
  assert re.search(r"\[3/3\] seed=\d: .*; 0:00 left", told.out)
  assert f"seed=1: begins; what it prints is in {out}/seed=1.log" in told.out
  assert len(re.findall(
      r"\] seed=[12]: done in 0:\d\d, held-out loss 4.250; ", told.out)) == 2
  assert told.out.endswith(
      f"2 of 3 runs are finished, in {out}\n"
      f"next: python -m latemask.tools.report {out}\n")
  assert _starts(out) == {"seed=7": 1, "seed=1": 1, "seed=2": 1}
  assert len(list(out.glob("data/*/manifest.json"))) == 1
  record = json.loads((out / "sweep.json").read_text())
  assert record["columns"] == ["seed"]
  assert record["points"]["seed=1"] == {"seed": 1}
  assert reading._columns(out / "sweep.json") == ["seed"]
  # Again: what is done is left, what failed is tried.
  assert _main(monkeypatch, *command) == 1
  assert _starts(out) == {"seed=7": 2, "seed=1": 1, "seed=2": 1}
  # More points: only they are run, and one that another machine sees fail
  # meanwhile is not tried by this one.
  write([{"seed": seed} for seed in (3, 1, 2, 7)])
  capsys.readouterr()
  assert _main(monkeypatch, *command[:-1], 1) == 1
  assert _starts(out) == {"seed=7": 2, "seed=1": 1, "seed=2": 1, "seed=3": 1}
  assert "latemask: seed=7: elsewhere" in capsys.readouterr().err
  assert not list(out.glob("*.claim"))
  # A key that changes the result is another run, and stale no more.
  assert json.loads((out / "seed=1.done").read_text())["config"]["seed"] == 1


def test_only_some(write, tmp_path, monkeypatch, capsys, stub):
  """What was swept is on record whole."""
  spec, out = write(GOOD), tmp_path / "out"
  assert _main(monkeypatch, "--config", spec, "--out", out,
               "--only", "*=2", "seed=3") == 0
  assert sorted(path.name for path in out.glob("*.done")) == [
      "seed=2.done", "seed=3.done"]
  assert "2 of 3 runs are finished" in capsys.readouterr().out
  assert len(json.loads((out / "sweep.json").read_text())["points"]) == 3


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_runs_save(
    write, tmp_path, monkeypatch, capsys, stub, signum):
  out = tmp_path / "out"
  def send():
    while not (out / "seed=9" / "ready").exists():
      time.sleep(0.01)
    os.kill(os.getpid(), signum)
  thread = threading.Thread(target=send)
  thread.start()
  code = _main(monkeypatch, "--config", write([{"seed": 9}, {"seed": 1}]),
               "--out", out)
  thread.join()
  assert code == 128 + signum
  assert not list(out.glob("*.done")) and not list(out.glob("*.failed"))
  assert "seed=1" not in _starts(out)
  assert "goes on" in capsys.readouterr().out
  assert not list(out.glob("*.claim"))  # Nothing is held any more.


@pytest.mark.slow
def test_held_by_another_is_no_failure(
    write, tmp_path, monkeypatch, capsys, stub):
  """By another sweep of this host, or by a run that is no sweep's."""
  out = tmp_path / "out"
  spec = write([{"seed": seed} for seed in (1, 2, 8)])
  with claims.held(claims.beside(out / "seed=1")) as first:
    second = claims.take(claims.inside(out / "seed=2"))
    def release():
      while not (out / "seed=8.done").exists():
        time.sleep(0.01)
      first.release()
      second.release()
    thread = threading.Thread(target=release)
    thread.start()
    assert _main(monkeypatch, "--config", spec, "--out", out) == 0
    thread.join()
  told = capsys.readouterr().out
  for seed in (1, 2):
    assert f"seed={seed}: held by host" in told
  assert "seed=8: another program holds it; waiting: another's" in told
  assert _starts(out) == {"seed=1": 1, "seed=2": 1, "seed=8": 2}


def test_lost_claim_ends_the_run(write, tmp_path, monkeypatch, heard, stub):
  """Another machine took over while this one slept."""
  out, wait = tmp_path / "out", heard(runner)
  monkeypatch.setattr(claims, "BEAT_SECS", 0.05)
  def steal():
    while not (out / "seed=9" / "ready").exists():
      time.sleep(0.01)
    (out / "seed=9.claim").write_text(json.dumps({
        "token": uuid.uuid4().hex, "host": "far"}))
    wait("took it over")
    os.kill(os.getpid(), signal.SIGTERM)
  thread = threading.Thread(target=steal)
  thread.start()
  code = _main(monkeypatch, "--config", write([{"seed": 9}]), "--out", out)
  thread.join()
  assert code == 143
  assert _starts(out) == {"seed=9": 1}


@pytest.mark.slow
def test_finetuning_of_finished_runs(
    write, tmp_path, monkeypatch, capsys, stub):
  out = tmp_path / "out"
  spec = write([{"seed": 7}, {"seed": 1}, {"seed": 2}])
  assert _main(monkeypatch, "--config", spec, "--out", out) == 1
  stubbed = STUB.replace('a.split("=")[1]', '"1"').replace('seed=" in', '-" in')
  monkeypatch.setattr(runner, "_MAIN", ("-c", stubbed))
  command = ("--config", "configs/sweeps/glue.py,task=cola", "--out", out)
  before = (out / "sweep.json").read_text()
  for _ in range(2):
    assert _main(monkeypatch, *command) == 0
    for seed in (1, 2):
      assert (out / f"seed={seed}" / "glue.log").read_text().count(
          "--- start") == 1
  assert not (out / "seed=7" / "glue.log").exists()
  assert (out / "sweep.json").read_text() == before
  # More to do is not done.
  capsys.readouterr()
  assert _main(monkeypatch, *command[:1], "configs/sweeps/glue.py",
               *command[2:], "--dry_run") == 0
  assert "2 of 2 to do" in capsys.readouterr().out


@pytest.mark.slow
def test_finetuning_of_runs_of_one_name(tmp_path, monkeypatch, capsys, stub):
  """That one fails hides nothing of the other."""
  runs = [tmp_path / folder / "base" for folder in ("first", "other")]
  for run in runs:
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
  monkeypatch.setattr(runner, "_MAIN", ("-c", STUB.replace(
      STUB.splitlines()[3], 'seed = "7" if "first" in workdir else "1"')))
  for times in (1, 2):
    assert _main(monkeypatch, "--config", "configs/sweeps/glue.py,task=cola",
                 "--init_from", *runs) == 1
    told = capsys.readouterr()
    assert f"latemask: {runs[0]}/glue: exit code 3" in told.err
    assert [_starts(run)["glue"] for run in runs] == [times, 1]
  assert (runs[1] / "glue.done").exists()


# ---- What cannot be; what writes nothing


@pytest.mark.slow
def test_dry_run_writes_nothing(write, tmp_path, monkeypatch, capsys):
  spec = write(GOOD)
  before = _files(tmp_path)
  assert _main(monkeypatch, "--config", spec, "--out", tmp_path / "out",
               "--dry_run", "--flops_per_sec", "1e6", "--parallel", "2") == 0
  assert _files(tmp_path) == before
  lines = capsys.readouterr().out.splitlines()
  assert len({len(line) for line in lines}) == 1
  point = costs.check(points_lib.read(spec, tmp_path / "out")[0])[0]
  # So small that PFLOP would say nothing.
  assert lines[0].split("|")[3].strip() == "GFLOP"
  assert re.match(
      rf"\| seed=1 +\| 12 +\| {point.flops / 1e9:.4g} +\|", lines[2])
  minutes, secs = divmod(round(point.flops / 1e6), 60)
  assert f"{minutes}:{secs:02d} " in lines[2]
  assert "3 of 3 to do, 2 at a time" in lines[-1]
  minutes, secs = divmod(round(1.5 * point.flops / 1e6), 60)
  assert f"{minutes}:{secs:02d} " in lines[-1]


@pytest.mark.parametrize("points, changes, flags, message", [
    ([{"sed": 1}], "", "", "sed"),
    ([{"seed": "one"}], "", "", "seed"),
    ([{"seed": 1}, {"seed": -1}], "", "", "seed=-1: seed is -1"),
    ([{"masking.rate": 0.995}], "", "", "masking.rate=0.995: "),
    ([{"seed": 1}, {"seed": 1}], "", "", "is the same run as"),
    ([{"seed": 1}, {}], ",seed=1", "", "default is the same run as seed=1"),
    ([], "", "", "yields no point"),
    (GOOD, ",data.source=text:/nowhere/*", "", "/nowhere"),
    (GOOD, ",train.total_flops=1.0", "", "one step takes"),
    (GOOD, ",train.batch_size=None", "", "train.batch_size"),
    (GOOD, "", "--parallel=0", "argument --parallel: '0'"),
    (GOOD, "", "--only seed=2 *=4", "--only *=4 matches none of 3 runs"),
    (GOOD, "", "--flops_per_sec=0", "argument --flops_per_sec: '0'"),
    (GOOD, "", "--init_from=configs", "--init_from is for fine-tuning"),
    (GOOD, "", "--config=configs/sweeps/glue.py --init_from=runs/no",
     "--init_from runs/no is no folder"),
    (GOOD, "", "--out=/dev/null/x", "/dev/null"),
    (GOOD, "", "--config=configs/base.py:tiny", "has no sweep()"),
    (GOOD, "", "--config=configs/sweeps/glue.py", "no finished run"),
    (GOOD, "", "--config=configs/sweeps/none.py", "no config file"),
])
def test_bad_input_changes_nothing(
    write, tmp_path, monkeypatch, capsys, points, changes, flags, message):
  spec = write(points) + changes
  before = _files(tmp_path)
  code = _main(monkeypatch, "--config", spec, "--out", tmp_path / "out",
               *flags.split())
  assert code == 2
  line, = capsys.readouterr().err.splitlines()
  assert line.startswith("latemask: ") and message in line
  assert _files(tmp_path) == before


def test_begun_with_another_config(write, tmp_path, monkeypatch, capsys):
  (tmp_path / "out" / "seed=1").mkdir(parents=True)
  (tmp_path / "out" / "seed=1" / "config.json").write_text('{"seed": 5}')
  spec, before = write(GOOD), _files(tmp_path)
  assert _main(monkeypatch, "--config", spec, "--out", tmp_path / "out") == 2
  assert "seed=1: " in capsys.readouterr().err
  assert _files(tmp_path) == before


# ---- Real runs

_NUM_STEPS = 900


def _command(spec, out, log):
  return subprocess.Popen(
      [sys.executable, "-m", "latemask.tools.sweep", "--config", spec, "--out",
       str(out)], cwd=ROOT, stdout=log.open("a"), stderr=subprocess.STDOUT)


def _wait(condition, secs=120):
  deadline = time.monotonic() + secs
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def _is_training(out, pid):
  """Whether a run of some sweep has taken steps."""
  held = [p for p in out.glob("*.claim")
          if f'"process": {pid},' in p.read_text()]
  logs = [p.with_suffix(".log") for p in held]
  return any(p.exists() and re.search(
      r"\nstep \d+/", p.read_text().split("--- start")[-1])
             for p in logs)


def _kill_and_finish(spec, out, good, rng, max_secs, two):
  """Kills a sweep at random, and while it trains; one may run beside it."""
  log = out.with_name("out.log")
  spec += f",train.num_steps={_NUM_STEPS}"  # Time enough to be killed in.
  beside = _command(spec, out, log) if two else None
  for is_ready in (lambda pid: list(out.glob("*.claim")),
                   lambda pid: _is_training(out, pid)):
    killed = _command(spec, out, log)
    _wait(lambda: is_ready(killed.pid) or killed.poll() is not None)
    time.sleep(rng.uniform(0, max_secs))
    max_secs = min(max_secs, 1)
    killed.kill()
    killed.wait()
  last = _command(spec, out, log)
  for process in filter(None, (beside, last)):
    assert process.wait(1200) == 1, log.read_text()[-3000:]
  told = log.read_text()
  assert f"latemask: {BAD_NAME}: exit code 2: latemask: mesh" in told
  assert "1 of" in told and "Traceback" not in told
  for overrides in good:
    name = f"checkpoint.keep={overrides['checkpoint.keep']}"
    assert (out / f"{name}.done").exists()
    assert (out / name / "checkpoints" / str(_NUM_STEPS)).is_dir()
    # No step was taken twice, by whoever: a run that loses its sweep saves.
    text = (out / f"{name}.log").read_text()
    steps = [int(s) for s in re.findall(r"^step (\d+)/", text, re.M)]
    assert steps == list(range(1, _NUM_STEPS + 1)), text
    run = workdirs.read_run(out / name)
    assert run.is_finished and run.num_damaged == 0
  assert not (out / f"{BAD_NAME}.done").exists()


@pytest.mark.long
def test_killed_twice_beside_another(write, tmp_path):
  # They differ in nothing that is compiled: what one has compiled the other
  # finds, which a seed would not let it.
  good = [{"checkpoint.keep": number} for number in (1, 2)]
  _kill_and_finish(write(good + [BAD]), tmp_path / "out", good,
                   random.Random(), 8, two=True)


@pytest.mark.long
def test_twenty_runs_killed_twice(write, tmp_path):
  good = [{"checkpoint.keep": number} for number in range(1, 21)]
  _kill_and_finish(write(good + [BAD]), tmp_path / "out", good,
                   random.Random(), 60, two=False)
