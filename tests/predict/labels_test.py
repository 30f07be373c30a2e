"""Where a model to label with lies; own_stock_test.py compares what it says."""

import json
import types

from etils import epath
import pytest

from latemask import errors
from latemask.predict import labels
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


def test_the_folder_of_out_is_made(tmp_path):
  path = tmp_path / "some" / "where.jsonl"
  with predict._writer(path) as write:
    write("{}")
  assert path.read_text() == "{}" and len(list(path.parent.iterdir())) == 1


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
