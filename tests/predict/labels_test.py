"""Where a model to label with lies; own_stock_test.py compares what it says."""

import io
import json
import types

from etils import epath
import numpy as np
import pytest

from latemask import errors
from latemask.finetune.tasks import kinds
from latemask.finetune.tasks import metrics
from latemask.finetune.tasks import task as task_lib
from latemask.hub import stock_config
from latemask.predict import labels
from latemask.predict import texts
from latemask.tools import predict


def _export(workdir, name, file="config.json"):
  folder = workdir / "export" / name
  folder.mkdir(parents=True)
  (workdir / "cells").mkdir(exist_ok=True)
  (folder / file).write_text("{}")
  return folder


def test_a_workdir_is_its_one_model(tmp_path):
  folder = _export(tmp_path, "classes")
  # Of programs that were killed as they wrote it.
  _export(tmp_path, "classes.1a2b3c4d.part")
  _export(tmp_path, "classes.1a2b3c4d.before")
  assert labels.find(tmp_path) == labels.find(folder) == folder
  _export(tmp_path, "span")
  with pytest.raises(errors.InputError, match="with the models .*; name one"):
    labels.find(tmp_path)


def test_a_workdir_without_a_model(tmp_path):
  (tmp_path / "cells").mkdir()
  with pytest.raises(errors.InputError, match="--config.export=true makes one"):
    labels.find(tmp_path)


@pytest.mark.parametrize("inner", ["", "export/classes"])
def test_an_adapter_is_to_be_merged(tmp_path, inner):
  folder = _export(tmp_path, "classes", "latemask_adapter.json")
  with pytest.raises(errors.InputError) as found:
    labels.find(tmp_path / inner)
  assert f"latemask.tools.merge --adapter {folder} --out DIR" in str(
      found.value)


def test_a_run_that_was_pre_trained(tmp_path):
  (tmp_path / "config.json").write_text('{"model": {}}')
  with pytest.raises(errors.InputError, match="is no fine-tuned model"):
    labels.task_of(epath.Path(tmp_path))


@pytest.mark.parametrize("kind, problem, found", [
    ("multilabel", "multi_label_classification", "multilabel"),
    ("number", "regression", "number"), (None, None, "number")])
def test_one_label_is_no_number(tmp_path, kind, problem, found):
  said = stock_config.of_labels(["toxic"], kind and {"kind": kind})
  if kind:
    assert said["problem_type"] == problem
  (tmp_path / "config.json").write_text(json.dumps({
      "architectures": ["BertForSequenceClassification"],
      "id2label": {"0": "toxic"}, "problem_type": problem}))
  assert labels.task_of(epath.Path(tmp_path))[0].kind == found


def test_f1_of_one_label_is_its_own():
  """Nine of ten rows lack it, and a model that finds none is not right."""
  right_Rx1 = np.eye(10, 1, dtype=np.float32)
  for name in ("micro_f1", "macro_f1"):
    metric = metrics.METRICS[name]
    assert metric(None, right_Rx1, 0 * right_Rx1) == 0
    assert metric(None, right_Rx1, right_Rx1) == 1
    assert metric(None, right_Rx1, right_Rx1 ** 0) == pytest.approx(2 / 11)
    assert metric(None, np.repeat(right_Rx1, 2, 1), np.repeat(
        0 * right_Rx1, 2, 1)) == 0


def test_words_that_no_window_holds_have_no_tag():
  task = task_lib.Task("tokens", "tokens", ("NOUN", "VERB"), (), 0)
  encoded = types.SimpleNamespace(
      rows=task_lib.Rows(([["a", "b", "c"]],), None), row_W=[0],
      spots=[np.array([[1, 0], [2, 1]])])
  logits = [np.array([[0, 0], [1, 0], [0, 1]], np.float32)]
  said, = labels._say_tags(task, encoded, logits)
  assert said == {"words": ["a", "b", "c"], "tags": ["NOUN", "VERB", None]}
  answer, = kinds.answers(task, encoded, logits)
  assert kinds.plain(task, answer) == "NOUN VERB _"


def test_spans_that_cannot_be_have_no_score():
  task = task_lib.Task("span", "span", (), (), 0)
  encoded = types.SimpleNamespace(
      rows=task_lib.Rows((["who?"], ["me"]), None), row_W=[0],
      spots=[np.zeros((0, 3), int)])
  said, = labels._say_span(task, encoded, [np.zeros((3, 2), np.float32)])
  assert json.dumps(said, allow_nan=False) and said["score"] is None


def test_standard_input_that_is_no_utf_8(monkeypatch):
  """With a mark at its beginning, and a line that is of another encoding."""
  labeller = types.SimpleNamespace(
      task=types.SimpleNamespace(kind="classes", text=("text",)))
  monkeypatch.setattr("sys.stdin", types.SimpleNamespace(
      buffer=io.BytesIO("\ufeffgut\n".encode() + "für\n".encode("latin-1"))))
  rows = predict._rows(
      predict._parser().parse_args(["--init_from", "tuned"]), labeller)
  assert next(rows) == ["gut"]
  with pytest.raises(errors.InputError, match="standard input, line 2: .utf"):
    next(rows)


def test_the_folder_of_out_is_made(tmp_path):
  path = tmp_path / "some" / "where.jsonl"
  with texts.writer(path) as write:
    write("{}")
  assert path.read_text() == "{}\n" and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("kind, trained, argv, message", [
    ("classes", ("a", "b"), [], "trained on a, b; a line of text is one"),
    ("classes", ("a", "b"), ["--input", "rows.txt"], "a line of text is one"),
    ("classes", ("a", "b"), ["--input", "rows.csv", "--text", "a"],
     "trained on a, b; --text names a"),
    ("span", (), [], "trained on question, context"),
    ("tokens", (), ["--input", "rows.csv", "--text", "a", "b"],
     "trained on tokens; --text names a, b")])
def test_as_many_columns_as_it_was_trained_on(kind, trained, argv, message):
  labeller = types.SimpleNamespace(
      task=types.SimpleNamespace(kind=kind, text=trained))
  args = predict._parser().parse_args(["--init_from", "tuned", *argv])
  with pytest.raises(errors.InputError, match=message):
    next(predict._rows(args, labeller))


def test_of_a_published_model_no_one_knows_the_columns(tmp_path):
  labeller = types.SimpleNamespace(
      task=types.SimpleNamespace(kind="classes", text=()))
  rows = tmp_path / "rows.jsonl"
  rows.write_text(json.dumps({"a": "one", "b": "two", "text": "three"}))
  for argv, wanted in ((["--text", "a", "b"], ["one", "two"]), ([], ["three"])):
    args = predict._parser().parse_args(
        ["--init_from", "tuned", "--input", str(rows), *argv])
    assert list(predict._rows(args, labeller)) == [wanted]
