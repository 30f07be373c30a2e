"""The command line: exit codes, one line, nothing on disk touched."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask import errors
from latemask.runtime import files
from latemask.train import run
from tests import conftest
from tests.config.spec_test import BROKEN

ROOT = conftest.ROOT


def _main(*arguments):
  return subprocess.run(
      [sys.executable, "-m", "latemask.main", *arguments], cwd=ROOT,
      capture_output=True, text=True, timeout=300)


def _files(directory):
  return {str(p): p.read_bytes() if p.is_file() else None
          for p in pathlib.Path(directory).rglob("*")}


def test_help():
  done = _main("--help")
  assert done.returncode == 0
  assert "--workdir DIR" in done.stdout


@pytest.mark.parametrize("arguments, message", [
    ([], "--config is missing"),
    (["--config", "configs/demo.py"], "--workdir is missing"),
    (["--config", "configs/none.py", "--workdir", "w"], "configs/none.py"),
    (["--config", "configs/base.py:huge"], "tiny, small, base, large"),
    (["--config", "configs/demo.py:tiny"], "demo.py"),
    (["--config", "configs/continue.py"], "continue.py:FOLDER"),
    (["--config", "configs/continue.py:nowhere"], "nowhere/config.json"),
    (["--config", "configs/demo.py", "--config.model.widht=3"],
     "unknown config key --config.model.widht=3; "),
    (["--config", "configs/demo.py", "--config.model.width=wide"], "wide"),
    (["--config", "configs/demo.py", "--lr=3"], "lr"),
    (["--config", "configs/demo.py,model.widht=3"],
     "unknown config key --config.model.widht=3; "),
    (["--config=configs/base.py:tiny,model.width=wide,data.length=8"], "wide"),
    # What stands later counts.
    (["--config", "configs/demo.py,model.layers=3", "--config.model.layers=9",
      "--config.model.insertion_layer=11", "--workdir", "w"], "9"),
    (["--config", "configs/demo.py", "--workdir", "w", "extra"], "extra"),
    (["--config", "BROKEN:key"], "BROKEN:key: KeyError: model"),
    (["--config", "BROKEN:zero"], "ZeroDivisionError: division by zero"),
    (["--config", "BROKEN:name"], "NameError: name 'undefined' is not"),
])
def test_flags_that_cannot_be(arguments, message, tmp_path):
  """Found while flags are parsed, before JAX is even imported."""
  broken = str(tmp_path / "broken.py")
  (tmp_path / "broken.py").write_text(BROKEN)
  arguments, message = [a.replace("BROKEN", broken) for a in arguments], (
      message.replace("BROKEN", broken))
  done = _main(*arguments)
  assert done.returncode == 2, done.stderr
  assert len(done.stderr.splitlines()) == 1
  assert done.stderr.startswith("latemask: ") and message in done.stderr
  assert "Traceback" not in done.stderr and "\\n" not in done.stderr


@pytest.mark.parametrize("command", [
    ("main", "--config", "configs/demo.py", "--workdir", "w"),
    ("tools.prepare", "--config", "configs/demo.py", "--out", "w"),
    ("tools.report", ".")])
def test_a_signal_while_modules_are_imported(command, tmp_path):
  """Of every program: one line and 130, from its first import on."""
  with subprocess.Popen(
      [sys.executable, "-m", f"latemask.{command[0]}", *command[1:]],
      cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env=os.environ | {"PYTHONPATH": str(ROOT)}) as program:
    status = pathlib.Path(f"/proc/{program.pid}/status")
    # Python itself does not catch SIGTERM.
    while not (int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16)
               >> signal.SIGTERM - 1 & 1):
      assert program.poll() is None
      time.sleep(0.001)
    program.send_signal(signal.SIGINT)
    out, told = program.communicate(timeout=60)
  assert program.returncode == 130 and not out
  assert told == ("latemask: stopped by SIGINT; the same command goes on from "
                  "what is done\n")
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_config_that_cannot_be_and_a_run(tmp_path, corpus, monkeypatch):
  monkeypatch.delenv("PYTHONPATH")  # With TensorFlow.
  workdir = tmp_path / "run"
  flags = ["--config", "configs/base.py:tiny", "--workdir", str(workdir),
           f"--config.data.source=text:{corpus}/*.txt",
           "--config.data.vocab_size=320", "--config.data.length=32",
           "--config.train.num_steps=4", "--config.optimizer.warmup_fraction=0.25",
           "--config.model.width=16", "--config.model.mlp=32",
           "--config.model.layers=2", "--config.model.insertion_layer=1",
           "--config.eval.rates=()", "--config.data.workers=2"]
  done = _main(*flags, "--config.masking.rate=1.5")
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1
  assert "masking.rate is 1.5; it must be a float32 number in (0, 1)" in done.stderr
  assert not workdir.exists()
  done = _main(*flags)
  assert done.returncode == 0, done.stderr
  assert "packed 400 documents" in done.stdout
  assert "step 4: eval loss" in done.stdout
  before = _files(workdir)
  done = _main(*flags, "--config.seed=1")
  assert done.returncode == 2
  assert "seed 0 (now 1)" in done.stderr
  assert _files(workdir) == before


@pytest.mark.parametrize("flag, message", [
    ("model.heads=0", "model.heads is 0; it must be a whole number from 1"),
    ("model.heads=7", "model.heads 7 does not divide model.width 64"),
    ("model.heads=None", "model.heads is None; it must be a whole number"),
    ("model.remat=None', '--config.model.heads=0", "model.heads is 0"),
    # What stands later counts.
    ("model.heads=None', '--config.model.heads=7", "model.heads 7 does not"),
    ("model.heads=None', '--config.model.heads', '7", "model.heads 7 does not"),
    ("model.heads=7', '--config.model.heads=None", "model.heads is None; it"),
    ("model.hats=None", "unknown config key --config.model.hats=None")])
def test_a_refused_config_waits_for_nothing(flag, message, monkeypatch):
  """What takes seconds to import is imported for a run alone."""
  monkeypatch.delenv("PYTHONPATH")  # With TensorFlow.
  program = (
      "import runpy, sys\n"
      "sys.argv[1:] = ['--config=configs/base.py:tiny', '--workdir=w', "
      f"'--config.{flag}']\n"
      "try:\n"
      "  runpy.run_module('latemask.main', run_name='__main__')\n"
      "except SystemExit as end:\n"
      "  print(end.code, {'jax', 'flax', 'scipy', 'tensorflow'} & "
      "set(sys.modules))\n")
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT,
                        capture_output=True, text=True, check=True)
  assert done.stdout == "2 set()\n"
  assert done.stderr.startswith(f"latemask: {message}")


_LOCAL = {"model.architecture": "modern", "model.global_every": 3,
          "model.local_window": 8}
# Every one is found before anything is written, by `train.train` itself.
BAD = [
    ({"masking.rate": 0.0}, "masking.rate is 0.0; it must be .*in .0, 1"),
    ({"masking.unit": "letter"}, "token, word, span"),
    ({"eval.rates": (0.15, 1.2)}, "eval.rates is"),
    ({"model.insertion_layer": 4}, "insertion_layer"),
    ({"model.heads": 5}, "heads 5 does not divide"),
    ({"model.architecture": "gpt"}, "roberta_prenorm"),
    ({"model.global_every": 0}, "model.global_every is 0; it must be a whole"),
    ({"model.local_window": 7}, "model.local_window is 7; it must be an even"),
    ({"model.global_every": 3}, "roberta_prenorm has no local layers"),
    (_LOCAL | {"model.local_window": 66}, "66 is larger than the positions, model.max_l"),
    (_LOCAL | {"model.layers": 7}, "layer 4 is late .*insertion scatter"),
    (_LOCAL | {"model.layers": 7, "model.decoder": "cross"},
     "layer 4 is late .*decoder cross needs"),
    ({"model.vocab_size": 64}, "smaller than the tokenizer"),
    ({"train.batch_size": 12}, "not divisible"),
    ({"train.accumulation": 5}, "not divisible"),
    ({"eval.batch_size": 3}, "not divisible"),
    ({"eval.max_rows": 0}, "eval.max_rows"),
    ({"eval.every_steps": 0}, "eval.every_steps"),
    ({"checkpoint.every_steps": 0}, "checkpoint.every_steps"),
    ({"checkpoint.keep": 0}, "checkpoint.keep"),
    ({"metrics.every_steps": -1}, "metrics.every_steps"),
    ({"seed": -1}, "seed"),
    ({"data.length": 128}, "longer than model.max_length 64"),
    ({"data.source": "text:/nowhere/*.txt"}, "matches no file"),
    ({"data.source": "wiki"}, "text, files, parquet, arrow, tfds, builtin"),
    ({"data.packing": "rows"}, "documents, stream"),
    ({"data.tokenizer": "/nowhere.model"}, "is not there"),
    ({"data.eval_fraction": 1.0}, "eval_fraction"),
    ({"data.vocab_size": 100}, "at least 262"),
    ({"data.shards": 0}, "data.shards"),
    ({"data.workers": 0}, "data.workers"),
    ({"optimizer.schedule": "flat"}, "linear, cosine, inverse_sqrt"),
    ({"mesh.data": 3}, "does not fit 8 devices"),
    ({"mesh.fsdp": 3, "mesh.data": None}, "does not fit 8 devices"),
    ({"train.on_nonfinite": "retry"}, "stop, rollback"),
    ({"train.max_rollbacks": -1}, "train.max_rollbacks is -1"),
    ({"train.init_from": "/nowhere"}, "/nowhere is no run"),
    ({"train.dropout_rng": "dice"}, "hash, threefry2x32"),
    ({"checkpoint.max_failed_saves": -1}, "checkpoint.max_failed_saves"),
    ({"data.max_bad_documents": -1}, "data.max_bad_documents is -1"),
    ({"data.source": ""}, "data.source is ''"),
    ({"data.source": "builtin:all"}, "builtin takes no argument"),
    ({"data.length": 9}, "whole number from 10 to"),
    ({"data.dir": "/dev/null/rows"}, "/dev/null is a file"),
    ({"data.dir": "/proc/rows"}, "/proc/rows cannot be made"),
    ({"masking.predict_rate": 0.9}, "predict_rate"),
    ({"masking.random_rate": -0.1}, "random_rate"),
    ({"masking.unit": "span", "masking.span_length": 0.5}, "span_length"),
    ({"model.decoder": "none"}, "self, cross"),
    ({"model.insertion": "middle"}, "append, scatter"),
    ({"model.remat": "all"}, "elementwise"),
    ({"optimizer.final_learning_rate": 1.0}, "final_learning_rate is 1.0"),
    ({"metrics.profile_step": 20}, "metrics.profile_step is 20"),
    ({"train.total_flops": 1e7}, "train.total_flops is 1e.07; one step takes"),
    ({"train.total_flops": float("inf")}, "train.total_flops is inf"),
    ({"train.total_flops": float("nan")}, "train.total_flops is nan"),
]


@pytest.mark.parametrize("changes, message", BAD)
def test_bad_configs_change_nothing(
    corpus, tmp_path, capsys, changes, message):
  config = conftest.tiny_config(f"text:{corpus}/*.txt")
  config.update_from_flattened_dict(changes)
  with pytest.raises(SystemExit) as ended, errors.one_line_exit():
    run.train(config, tmp_path / "run")
  assert ended.value.code == 2
  line, = capsys.readouterr().err.splitlines()
  assert line.startswith("latemask: ") and re.search(message, line)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make, message", [
    (lambda p: p.write_text("a file"), "cannot be made: .*run is a file"),
    (lambda p: (p.mkdir(), (p / "config.json").write_text("{half")),
     "is not JSON"),
    (lambda p: (p.mkdir(), (p / "config.json").write_bytes(b"\xff{}")),
     "is not JSON"),
    (lambda p: (p.mkdir(), (p / "config.json").write_text("[1]")),
     "holds no object"),
    (lambda p: (p.mkdir(), (p / "config.json").write_text(
        '{"model_type": "bert"}')), "run is a Hugging Face folder, no run"),
    (lambda p: (p.mkdir(), (p / "config.json").write_text('{"task": "cola"}')),
     "begun with a config that fine-tunes, and this is a config that pre-tra"),
    (lambda p: (p.mkdir(), (p / "metrics.jsonl").write_text('{"my": 1}')),
     "holds a metrics.jsonl and no config.json"),
    (lambda p: (p.mkdir(), (p / "config.json").write_text('{"seed": 3}')),
     "was begun with"),
])
def test_workdirs_that_cannot_be(tiny_run, tmp_path, capsys, make, message):
  make(tmp_path / "run")
  before = _files(tmp_path)
  with pytest.raises(SystemExit) as ended, errors.one_line_exit():
    run.train(tiny_run, tmp_path / "run")
  assert ended.value.code == 2
  line, = capsys.readouterr().err.splitlines()
  assert re.search(message, line)
  assert _files(tmp_path) == before


def test_workdir_on_a_read_only_disk(tiny_run, tmp_path, monkeypatch):
  # The superuser may write where modes forbid it: only the call can be had.
  monkeypatch.setattr(files.os, "access", lambda path, mode: (
      path != tmp_path))
  for workdir in (tmp_path, tmp_path / "a" / "run"):
    with pytest.raises(errors.InputError, match=f"{tmp_path} is read-only"):
      run.train(tiny_run, workdir)
  assert not list(tmp_path.iterdir())


def test_tokenizer_larger_than_the_vocabulary(tiny_run, tmp_path, packed_dir):
  before = _files(packed_dir)
  tiny_run.data.tokenizer = str(packed_dir / "tokenizer.model")
  tiny_run.model.vocab_size = 200
  with pytest.raises(errors.InputError, match="model.vocab_size 200 is smal"):
    run.train(tiny_run, tmp_path / "run")
  other = tokenizer_lib.train(conftest.make_text(99, seed=3).splitlines(), 300)
  (tmp_path / "other.model").write_bytes(other.proto)
  tiny_run.model.vocab_size = None
  tiny_run.data.tokenizer = str(tmp_path / "other.model")
  with pytest.raises(errors.InputError, match="another tokenizer"):
    run.train(tiny_run, tmp_path / "run")
  assert _files(packed_dir) == before
  assert not (tmp_path / "run").exists()
