"""Answers and labels as they may be: by hand, kind by kind."""

import types

import numpy as np
import pytest

from latemask import errors
from latemask.finetune.tasks import kinds
from latemask.finetune.tasks import labels
from latemask.finetune.tasks import metrics
from latemask.finetune.tasks import task as task_lib

_TAGS = task_lib.Task("mine", "tokens", ("NOUN", "VERB"), (), 1)


def _task(kind, *names, **fields):
  return task_lib.Task(kind, kind, names, (), 1, **fields)


def test_what_was_cut_off_is_no_tag_of_its_own():
  wanted = [np.array([0, 0, 0, 1, 1, 0])]
  found = [np.array([0, 0, 0, 1, 1, -1])]
  assert metrics.METRICS["word_macro_f1"](_TAGS, wanted, found) == (
      pytest.approx((6 / 7 + 1) / 2))


@pytest.mark.parametrize("task, found, same", [
    (_task("number"), [0.001, 0.002, 0.004], None),
    (_task("number"), [0.5, 0.5], "0.5"),
    # The same tags at other places.
    (_TAGS, [np.array([0, 1]), np.array([1, 0])], None),
    (_TAGS, [np.array([0, 0]), np.array([0])], "NOUN"),
    (_task("multilabel", "a", "b"), [np.array([1, 0])] * 2, "a"),
    (_task("classes", "a", "b"), [1], None)])
def test_one_answer_to_all(task, found, same):
  assert kinds.one_answer(task, found) == same


@pytest.mark.parametrize("names, separator, cell", [
    (("red", "dark"), ",", "red,dark"), (("red", "dark"), ";", "red;dark"),
    (("red, light", "dark"), ";", "red, light;dark"),
    (("red, light", "dark"), ",", '["red, light", "dark"]')])
def test_labels_can_be_read_again(names, separator, cell):
  task = _task("multilabel", *names, separator=separator)
  assert kinds.plain(task, np.array([1, 1])) == cell
  data = types.SimpleNamespace(
      label="label", label_separator=separator, train="train.csv")
  read = labels._Multilabel([("row 1", (), cell)], (), data)
  assert set(read.names) == set(names)


def test_names_of_classes():
  assert labels._sorted({"10", "9", "1.0", "1"}) == ("1", "1.0", "9", "10")
  assert labels._sorted({"nan", "2", "10"}) == ("10", "2", "nan")
  assert labels._name("row 1", "label", 2.0) == "2"
  for cell in (None, "", " ", float("nan"), []):
    with pytest.raises(errors.InputError, match="it must be a label"):
      labels._name("row 1", "label", cell)


@pytest.mark.parametrize("cell, found", [
    ({"text": "Paris", "answer_start": 3}, (task_lib.Answer(3, "Paris"),)),
    ({"text": ["Paris"], "answer_start": [3]}, (task_lib.Answer(3, "Paris"),)),
    ({"text": [], "answer_start": []}, ()), (None, ()), ([], ()),
    ({"text": "Paris"}, None), ([{"text": 42, "answer_start": 3}], None),
    ({"text": ["Paris"], "answer_start": 3}, None), (7, None)])
def test_answers_as_they_may_be_written(cell, found):
  read = labels._Answers(None, (), types.SimpleNamespace(label="answers"))
  if found is not None:
    assert read("row 1", ("where?", "in Paris"), cell) == found
    return
  with pytest.raises(errors.InputError, match="row 1: answers is"):
    read("row 1", ("where?", "in Paris"), cell)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e20, 1e38])
def test_units_of_large_and_tiny_numbers(unit):
  read = labels._Number(None, (), types.SimpleNamespace(label="score"))
  fields = read.fields(read.array([unit * n for n in (1, 2, 3)]))
  assert fields["shift"] == pytest.approx(2 * unit, rel=1e-6)
  assert fields["scale"] == pytest.approx((2 / 3)**0.5 * unit, rel=1e-6)


def test_numbers_that_are_all_the_same():
  read = labels._Number(None, (), types.SimpleNamespace(label="score"))
  assert float(np.std(read.array([0.1] * 100))) > 0  # To rounding.
  with pytest.raises(errors.InputError, match="all rows have the number 0.1"):
    read.fields(read.array([0.1] * 100))
  assert kinds.score(_task("number"), "", read.array([1.0]), np.ones(1)) == {}
  assert np.isnan(metrics.METRICS["pearson"](None, np.ones(1), np.ones(1)))
