"""Padding, learning, resuming, choosing, submitting; what is refused."""

import dataclasses
import hashlib
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import glue as glue_config
from latemask.checkpoint import checkpoints as checkpoints_lib
from latemask.data import packed_set
from latemask import errors
from latemask.finetune import batches
from latemask.finetune import cell as cell_lib
from latemask.finetune import data as data_lib
from latemask.finetune import grid as grid_lib
from latemask.finetune import run as finetune_run
from latemask.finetune import step as finetune_step
from latemask.hub import pretrained
from latemask.model import cut
from latemask.model import heads
from latemask.runtime import claims
from latemask.train import step as step_lib
from tests import conftest

pytestmark = pytest.mark.usefixtures("few_devices")

ROOT = conftest.ROOT


@pytest.fixture(scope="module")
def run(tmp_path_factory, packed_dir, corpus):
  """A pre-training run before its first step."""
  config = conftest.tiny_config(f"text:{corpus}/*.txt")
  packed = packed_set.load(config, packed_dir)
  program = step_lib.build(config, packed.tokenizer.vocabulary(
      config.masking.word_starts))
  workdir = tmp_path_factory.mktemp("run")
  checkpoints = checkpoints_lib.Checkpoints(workdir, config, packed)
  checkpoints.save(0, checkpoints_lib.Progress(program.init_state()))
  checkpoints.close()
  return workdir


def _cola(num_rows, seed, wrong="0"):
  """Rows that are acceptable exactly if they begin with `she`."""
  rng = np.random.default_rng(seed)
  return "".join(
      f"x\t{'1' if good else wrong}\t\t{'she' if good else 'old'} "
      f"{rng.choice(['time', 'had', 'on'])}\n"
      for good in rng.integers(0, 2, num_rows))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """A folder with a CoLA and an STS-B that can be learned at once."""
  folder = tmp_path_factory.mktemp("glue")
  (folder / "CoLA").mkdir()
  (folder / "CoLA" / "train.tsv").write_text(_cola(100, 0))
  (folder / "CoLA" / "dev.tsv").write_text(_cola(37, 1))
  (folder / "CoLA" / "test.tsv").write_text(
      "index\tsentence\n0\tshe had\n1\told time\n2\tshe on\n")
  (folder / "STS-B").mkdir()
  rng = np.random.default_rng(0)
  for split in ("train", "dev"):
    (folder / "STS-B" / f"{split}.tsv").write_text(
        "sentence1\tsentence2\tscore\n" + "".join(
            f"he\t{('old', 'she')[s]}\t{5 * s}\n"
            for s in rng.integers(0, 2, 60)))
  return folder


@pytest.fixture
def config(run, data_dir):
  """Two cells that learn the task."""
  config = glue_config.get_config()
  config.task = "cola"
  config.init_from = str(run)
  config.data_dir = str(data_dir)
  config.dropout = 0.0
  config.grid.learning_rates = (1e-2,)
  config.grid.batch_sizes = (16,)
  config.grid.seeds = (0, 1)
  config.grid.num_epochs = 8
  return config.lock()


def _files(directory):
  return {str(p): p.read_bytes() if p.is_file() else None
          for p in pathlib.Path(directory).rglob("*")}


@pytest.mark.long
def test_bfloat16_learns_too(config, tmp_path):
  config.dtype = "bfloat16"
  config.grid.seeds = (0,)
  results = finetune_run.finetune(config, tmp_path)
  assert results["cola"][0]["score"] > 0.9


def test_a_workdir_has_one_program(config, tmp_path, monkeypatch):
  """A second is refused; one that is taken over keeps no result."""
  path = claims.inside(tmp_path / "tuned")
  with claims.held(path):
    with pytest.raises(claims.HeldError, match="tuned belongs to a program"):
      finetune_run.finetune(config, path.parent)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
  def train(*_, **__):
    path.write_text('{"token": "other", "host": "far"}')
    return {}, None
  monkeypatch.setattr(cell_lib, "train", train)
  with pytest.raises(claims.HeldError, match="but of host far"):
    finetune_run.finetune(config, path.parent)
  assert not list(tmp_path.rglob("cells"))


@pytest.mark.slow
def test_learns_resumes_grows_and_submits(config, tmp_path, monkeypatch,
                                          data_dir, capsys):
  trained, stops = [], []
  train = cell_lib.train
  monkeypatch.setattr(
      cell_lib, "train", lambda config, program, data, cell, *a, **k:
      trained.append(cell) or stops.append(k.get("stop_after"))
      or train(config, program, data, cell, *a, **k))
  results = finetune_run.finetune(config, tmp_path)
  told = capsys.readouterr().out
  assert re.search(r"cola: 100 rows to train on; 37 dev rows: \d\d\.\d% "
                   r"unacceptable, \d\d\.\d% acceptable\n", told)
  assert "compiling: the first epochs take longer\n" in told
  assert re.search(r"epoch 1/8 .* s  \(\d+\.\d s compiling\)  \d+:\d\d left",
                   told)
  assert f"saved in {tmp_path / 'results.md'}\n" in told
  assert "no model: the same command with --config.export=true" in (
      told.splitlines()[-1])
  # Chance is 0.
  assert all(r["score"] > 0.9 for r in results["cola"])
  assert [cell.seed for cell in trained] == [0, 1]
  losses = [e["loss"] for e in results["cola"][0]["epochs"]]
  assert losses[-1] < 0.3 < 0.5 < losses[0] < 1.0
  before = _files(tmp_path)

  # The same command: nothing to do, the same table.
  finetune_run.finetune(config, tmp_path)
  assert len(trained) == 2 and _files(tmp_path) == before
  told = capsys.readouterr().out
  assert "already finished: every cell has its result\n" in told
  assert "compiling" not in told

  # One cell lost and one asked for anew: these alone, the lost one the same.
  lost = tmp_path / "cells" / "cola" / "lr0.01-batch16-seed1.json"
  was = json.loads(lost.read_text())
  lost.unlink()
  config.grid.seeds = (0, 1, 2)
  config.predict_test = config.export = True
  finetune_run.finetune(config, tmp_path)
  assert [cell.seed for cell in trained[2:4]] == [1, 2]
  now = json.loads(lost.read_text())
  assert [e["loss"] for e in now["epochs"]] == [
      e["loss"] for e in was["epochs"]]
  assert (now["metrics"], now["best_epoch"]) == (
      was["metrics"], was["best_epoch"])

  # The best one was trained anew for its predictions, once.
  assert len(trained) == 5
  exported = json.loads(
      (tmp_path / "export" / "cola" / "config.json").read_text())
  assert exported["id2label"] == {"0": "unacceptable", "1": "acceptable"}
  assert capsys.readouterr().out.splitlines()[-1].startswith(
      f"the best model of each task is in {tmp_path}/export/TASK")
  assert exported["architectures"][0].endswith("ForSequenceClassification")
  assert (tmp_path / "test" / "CoLA.tsv").read_text().splitlines() == [
      "index\tprediction", "0\t1", "1\t0", "2\t1"]
  finetune_run.finetune(config, tmp_path)
  assert len(trained) == 5
  # The best is the one with the best score, up to its best epoch.
  lost.write_text(json.dumps(now | {"score": 1.5, "best_epoch": 2}))
  finetune_run.finetune(config, tmp_path)
  assert (trained[5:], stops[5:]) == ([trained[2]], [2])

  # Another config, or other data, is another workdir.
  before = _files(tmp_path)
  config.dropout = 0.1
  with pytest.raises(errors.InputError, match=r"dropout 0.0 \(now 0.1\)"):
    finetune_run.finetune(config, tmp_path)
  config.dropout = 0.0
  other = tmp_path.parent / f"{tmp_path.name}-glue" / "CoLA"
  other.mkdir(parents=True)
  for path in (data_dir / "CoLA").iterdir():
    (other / path.name).write_bytes(path.read_bytes())
  (other / "train.tsv").write_text(_cola(100, 7))
  config.data_dir = str(other.parent)
  with pytest.raises(errors.InputError, match="initial values, rows or lab"):
    finetune_run.finetune(config, tmp_path)
  assert _files(tmp_path) == before


@pytest.mark.slow
def test_all_tasks_regression_and_scratch(config, tmp_path, capsys):
  """The tasks without a folder are left out; fresh weights learn, too."""
  config.task = "all"
  config.from_scratch = True
  config.keep_layers = 1
  config.grid.seeds = (0,)
  results = finetune_run.finetune(config, tmp_path)
  assert list(results) == ["cola", "stsb"]
  out = capsys.readouterr().out
  assert "rte is left out" in out and "1 layer of width 16" in out
  stsb, = results["stsb"]
  assert min(stsb["metrics"].values()) > 0.9
  # Squared error in points of 0 to 5: answering 0 gives 12.5.
  assert stsb["epochs"][-1]["loss"] < 9 < stsb["epochs"][0]["loss"] < 14
  table = (tmp_path / "results.md").read_text()
  assert table in out
  assert [line.split("|")[2].strip() for line in table.splitlines()[2:]] == [
      "matthews", "pearson", "spearman", ""]


def _program(config):
  config.keep_layers = 2
  model, params, tokenizer, length = finetune_run.load(config)
  data, = data_lib.read(config, params, tokenizer, length)
  return finetune_step.make_program(
      config, model, jax.tree.map(jax.numpy.asarray, params),
      tokenizer.specials, *data.program), data


@pytest.mark.slow
@pytest.mark.parametrize("width, from_scratch, is_as_before", [
    (768, False, True), (768, True, False), (16, False, False)])
def test_cells_that_began_otherwise_are_others(
    config, width, from_scratch, is_as_before):
  """Against the digest of the time when all kernels began with 0.02."""
  with config.unlocked():
    config.from_scratch = from_scratch
  encoder = {"embedding": np.zeros((8, width), np.float32)}
  _, _, tokenizer, length = finetune_run.load(config)
  data, = data_lib.read(
      config, {"encoder": encoder, "head": {}}, tokenizer, length)
  before = hashlib.sha256(tokenizer.digest.encode())
  before.update(encoder["embedding"])
  for rows in (data.train, data.dev[""]):
    for array in (*rows.ids, rows.rows.labels):
      before.update(array)
  assert (data.digest == before.hexdigest()) == is_as_before


def test_rows_are_as_long_as_those_of_training(config, tmp_path, capsys):
  """32 of 64 positions, unless told otherwise."""
  (tmp_path / "CoLA").mkdir()
  for split in ("train", "dev"):
    (tmp_path / "CoLA" / f"{split}.tsv").write_text(
        "x\t1\t\t" + "she had " * 50 + "\n")
  config.data_dir = str(tmp_path)
  for max_length, found in ((None, 32), (64, 64), (20, 20)):
    config.max_length = max_length
    _, params, tokenizer, length = finetune_run.load(config)
    data, = data_lib.read(config, params, tokenizer, length)
    assert data.train.lengths_W.max() == found
    out = capsys.readouterr().out
    assert ("trained on rows of at most 32: positions behind that are as they "
            "were initialised" in out) == (found == 64)


@pytest.mark.slow
def test_padding_and_filler_rows_change_nothing(config):
  program, data = _program(config)
  params = program.init_state(np.uint32(0)).params
  rows = np.arange(5)
  expected = program.logits(params, batches.pad(data.train, rows, 5, [16]))
  assert np.std(expected) > 1e-4
  found = program.logits(params, batches.pad(data.train, rows, 8, [40]))[:5]
  np.testing.assert_allclose(found, expected, atol=1e-6)
  # A short batch trains as the same rows without filler.
  losses = []
  for batch_size in (5, 8):
    state, loss = program.train_step(
        program.init_state(np.uint32(0)),
        batches.collate(data.train, rows, batch_size, [16]),
        np.float32(1e-2), np.uint32(0))
    losses.append((loss, state.params["head"]["out_kernel"]))
  np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-5)
  # Adam's first step is the rate times the gradient's sign, nearly.
  np.testing.assert_allclose(losses[0][1], losses[1][1], atol=1e-5)


@pytest.mark.slow
def test_logits_are_those_of_the_whole_encoder(config):
  """The last layer computes the state of <s> alone, and exactly that."""
  program, data = _program(config)
  params = program.init_state(np.uint32(0)).params
  rows = batches.pad(data.train, np.arange(4), 4, [16])
  hidden_BxSxD = cut.encode(
      program.model, params["encoder"], rows[0], program.specials)
  expected = heads.ClassificationHead(program.model, 2).apply(
      {"params": params["head"]}, hidden_BxSxD[:, 0])
  np.testing.assert_allclose(
      program.logits(params, rows), expected, atol=1e-6)


def _result(rate, seed, score):
  return {"learning_rate": rate, "batch_size": 16, "seed": seed,
          "score": score, "metrics": {"accuracy": score}}


def test_the_choice_is_the_median_over_seeds():
  steady = [_result(1e-5, s, 0.7 + s / 100) for s in range(3)]
  lucky = [_result(2e-5, s, v) for s, v in enumerate((0.99, 0.5, 0.4))]
  lonely = [_result(3e-5, 0, 0.9)]
  assert grid_lib.choose(lucky + steady + lonely) == steady
  table = grid_lib.tabulate({"rte": lucky + steady + lonely})
  rte, average = (
      [c.strip() for c in line.split("|")[1:-1]]
      for line in table.splitlines()[2:])
  assert rte == ["rte", "accuracy", "71.00", "1.00", "72.00", "1e-05", "16",
                 "3", "7"]
  assert average[:5] == ["average", "", "71.00", "", "72.00"]


def test_one_answer_for_all_rows_is_told():
  bad, good = ({**_result(1e-5, seed, 0.7), "best_epoch": 2, "epochs": [
      {"loss": 0.4, "score": 0.6, "one_answer": None},
      {"loss": 0.4, "score": 0.7, "one_answer": answer}]}
               for seed, answer in ((3, "acceptable"), (4, None)))
  table = grid_lib.tabulate({"cola": [bad, good]})
  assert "One answer was given to all rows" in table
  assert "- cola, seed 3: acceptable\n" in table and "seed 4" not in table
  assert "One answer" not in grid_lib.tabulate({"cola": [good]})
  assert cell_lib._in_words(
      {"metrics": {"accuracy": 0.7}, "one_answer": "acceptable"}) == (
          "accuracy 70.00 (all dev rows got one answer: acceptable)")
  # Cells of before say nothing of it.
  assert "One answer" not in grid_lib.tabulate({"cola": [_result(1, 0, 0.7)]})


def test_the_time_left_leaves_compiling_out(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(cell_lib.time, "monotonic", lambda: now[0])
  with cell_lib.Clock(30) as clock:
    jax.monitoring.record_event_duration_secs(
        "/jax/core/compile/backend_compile_duration", 90.0)
    jax.monitoring.record_event_duration_secs("/of/another/kind", 5.0)
    now[0] = 100.0
    assert clock.done(10) == "(90.0 s compiling)  0:20 left"
    now[0] = 104.0  # Faster than the first.
    assert clock.done(10) == "0:04 left"
  jax.monitoring.record_event_duration_secs(
      "/jax/core/compile/backend_compile_duration", 90.0)
  now[0] = 108.0
  assert clock.done(10) == "0:00 left"


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_has_no_score(
    config, tmp_path, capsys):
  """Two fail, and later two do not; what failed is not trained again."""
  config.grid.learning_rates = (1e30,)
  config.grid.num_epochs = 2
  with pytest.raises(grid_lib.FailedError, match="all cells of cola"):
    finetune_run.finetune(config, tmp_path)
  paths = sorted((tmp_path / "cells" / "cola").iterdir())
  for path in paths:
    result = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (result["score"], result["metrics"], result["best_epoch"]) == (
        None, None, None)
    assert len(result["epochs"]) == 1  # What follows is no number either.
  assert "the cell has failed" in capsys.readouterr().out
  table = (tmp_path / "results.md").read_text()
  assert "| cola | failed |" in " ".join(table.split())
  before = _files(tmp_path / "cells")
  config.export = True
  with pytest.raises(grid_lib.FailedError):
    finetune_run.finetune(config, tmp_path)
  assert _files(tmp_path / "cells") == before
  assert not (tmp_path / "export").exists()

  config.export = False
  config.grid.learning_rates = (1e30, 1e-2)
  results = finetune_run.finetune(config, tmp_path)["cola"]
  assert len(results) == 4 and len(grid_lib.scored(results)) == 2
  assert {r["learning_rate"] for r in grid_lib.choose(results)} == {0.01}
  table = (tmp_path / "results.md").read_text()
  assert "4, 2 failed" in table
  assert "- cola, learning rate 1e+30, batch 16, seed 1: epoch 1" in table


def test_cells_of_before_that_failed_have_no_score():
  """They have that of logits that are no numbers, and a loss of None."""
  good = _result(1e-5, 0, 0.6) | {"epochs": [{"loss": 0.4, "score": 0.6}]}
  bad = _result(2e-5, 0, 0.7) | {"epochs": [
      {"loss": 0.4, "score": 0.7}, {"loss": None, "score": 0.69}]}
  assert grid_lib.choose([good, bad]) == [good]
  assert grid_lib.failed_epoch(bad) == 2
  assert grid_lib.choose([bad]) == []


BAD = [
    ({"task": "snli"}, "task is 'snli'; it must be one of cola, sst2"),
    ({"task": "rte"}, "there is no folder .*RTE"),
    ({"data_dir": "/nowhere", "task": "all"}, "data for none of the tasks"),
    ({"init_from": "/nowhere"}, "/nowhere is no run"),
    ({"init_from": None}, "init_from is missing"),
    ({"init_from": ""}, "init_from is ''"),
    ({"keep_layers": 5}, "keep_layers is 5; the model has 4 layers"),
    ({"keep_layers": 0}, "keep_layers is 0"),
    ({"max_length": 65}, "max_length is 65; .* has 64 positions"),
    ({"max_length": 5}, "max_length is 5"),
    ({"dropout": 1.0}, "dropout is 1.0"),
    ({"dtype": "float16"}, "float32, bfloat16"),
    ({"optimizer.schedule": "flat"}, "linear, cosine"),
    ({"optimizer.warmup_fraction": 1.0}, "warmup_fraction is 1.0"),
    ({"optimizer.b1": 1.0}, "optimizer.b1 is 1.0"),
    ({"grid.learning_rates": (0.0,)}, "grid.learning_rates is .0.0,.; it must"),
    ({"grid.batch_sizes": (0,)}, "grid.batch_sizes is .0,.; it must"),
    ({"grid.seeds": ()}, "grid.seeds is .*1 or more"),
    ({"grid.seeds": (1, 1)}, "none twice"),
    ({"grid.seeds": (-1,)}, "grid.seeds is .-1,.; it must"),
    ({"grid.num_epochs": 0}, "grid.num_epochs is 0"),
]


@pytest.mark.parametrize("changes, message", BAD)
def test_bad_configs_change_nothing(config, tmp_path, changes, message):
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  with pytest.raises(errors.InputError, match=message) as error:
    finetune_run.finetune(config, tmp_path / "run")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


def test_an_export_that_cannot_be_is_refused_before_the_training(
    config, run, tmp_path, monkeypatch):
  loaded = pretrained.load(run)
  other = conftest.spm(conftest.make_text(40).splitlines(), model_type="bpe",
                       vocab_size=loaded.tokenizer.vocab_size)
  monkeypatch.setattr(pretrained, "load", lambda path: dataclasses.replace(
      loaded, tokenizer=other))
  config.export = True
  with pytest.raises(errors.InputError, match="model_type is bpe"):
    finetune_run.finetune(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_bad_labels_change_nothing(config, tmp_path):
  folder = tmp_path / "glue" / "CoLA"
  folder.mkdir(parents=True)
  (folder / "train.tsv").write_text(_cola(9, 0, wrong="2"))
  (folder / "dev.tsv").write_text(_cola(9, 0))
  config.data_dir = str(folder.parent)
  with pytest.raises(errors.InputError, match="'2' is none of 0, 1"):
    finetune_run.finetune(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_long_text_is_cut_and_counted(config, tmp_path, capsys):
  config.max_length = 6
  config.grid.seeds = (0,)
  config.grid.num_epochs = 1
  finetune_run.finetune(config, tmp_path)
  assert "cola, dev: warning: " in (out := capsys.readouterr().out)
  assert "of 37 rows are cut to 6 tokens" in out


@pytest.mark.slow
def test_main_dispatches_by_the_key_task(tmp_path, run, data_dir):
  done = subprocess.run(
      [sys.executable, "-m", "latemask.main", "--config", "configs/glue.py",
       "--config.task=qqp", f"--config.init_from={run}",
       f"--config.data_dir={data_dir}", "--workdir", str(tmp_path / "run"),
       "--config.grid.learning_rates=(3e-05,)",
       "--config.grid.batch_sizes=(16,)", "--config.grid.seeds=(0,)"],
      cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 2, done.stderr
  assert "latemask: there is no folder" in done.stderr.splitlines()[-1]
  assert not (tmp_path / "run").exists()
