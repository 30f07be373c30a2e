"""People's own files: what is found in them, what is refused and named."""

import json
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import finetune
from latemask import errors
from latemask.finetune.tasks import entities
from latemask.finetune.tasks import kinds
from latemask.finetune.tasks import metrics
from latemask.finetune.tasks import own
from latemask.finetune.tasks import tables
from latemask.finetune.tasks import task


def _write(path, rows):
  """Writes rows, a list of dicts, in the format of the ending."""
  columns = list(rows[0]) if rows else []
  if path.suffix == ".parquet":
    pq.write_table(pa.Table.from_pylist(rows), path)
  elif path.suffix == ".jsonl":
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  else:
    parted = {".csv": ",", ".tsv": "\t"}[path.suffix]
    path.write_text("\n".join(
        parted.join('"' + str(cell).replace('"', '""') + '"' for cell in cells)
        for cells in [columns, *(row.values() for row in rows)]) + "\n")
  return str(path)


def _config(folder, kind, train, dev=None, ending=".jsonl", **data):
  config = finetune.get_config()
  config.task.kind = kind
  for split, rows in (("train", train), ("dev", dev or train)):
    config.data[split] = _write(folder / f"{split}{ending}", rows)
  config.data.update(data)
  return config


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_classes(tmp_path, ending):
  rows = [{"text": 'He said "no",\tand left', "id": 1, "label": "10"},
          {"text": "2", "id": 2, "label": "9"}]
  found, splits = own.read(_config(tmp_path, "classes", rows, ending=ending))
  assert found.labels == ("9", "10")  # Numbers by what they are.
  assert found.metrics == ("accuracy", "macro_f1", "matthews")
  assert splits["train"].texts == ([rows[0]["text"], "2"],)
  assert splits["dev"].labels.tolist() == [1, 0]


def test_pairs_and_labels_that_are_given(tmp_path):
  rows = [{"a": "x", "b": "y", "kind": "no"}, {"a": "z", "b": "w", "kind": "no"}]
  found, splits = own.read(_config(
      tmp_path, "classes", rows, text=("b", "a"), label="kind",
      labels=("yes", "no", "perhaps")))
  assert found.labels == ("yes", "no", "perhaps")
  assert splits["train"].texts == (["y", "w"], ["x", "z"])
  assert splits["train"].labels.tolist() == [1, 1]
  assert "matthews" not in found.metrics


def test_labels_of_several_kinds(tmp_path):
  rows = [{"text": "a", "label": "x, y"}, {"text": "b", "label": ""}]
  found, splits = own.read(_config(tmp_path, "multilabel", rows, ending=".csv"))
  assert found.labels == ("x", "y")
  assert splits["train"].labels.tolist() == [[1, 1], [0, 0]]
  rows = [{"text": "a", "label": ["x"]}, {"text": "b", "label": ["y", "x"]}]
  found, splits = own.read(_config(tmp_path, "multilabel", rows))
  assert splits["train"].labels.tolist() == [[1, 0], [1, 1]]
  rows = [{"text": "a", "label": 100}, {"text": "b", "label": "300"}]
  found, splits = own.read(_config(tmp_path, "number", rows))
  assert (found.shift, found.scale) == (200, 100)
  # What is learned in units of the deviation comes out as it is.
  logits = np.float32([[-1], [1]])
  assert kinds.KINDS["number"].answers(found, logits).tolist() == [100, 300]
  head = {"out_kernel": np.ones((4, 1)), "out_bias": np.zeros(1)}
  plain = kinds.unscaled(found, head)
  np.testing.assert_allclose(
      np.full(4, 0.25) @ plain["out_kernel"] + plain["out_bias"], [300])


_CONLL = """-DOCSTART- -X- O O

He PRP O
saw VBD O
Old NNP B-PER
Time NNP I-PER

It PRP O
"""


def test_tags(tmp_path):
  for split in ("train", "dev"):
    (tmp_path / f"{split}.conll").write_text(_CONLL)
  config = finetune.get_config()
  config.task.kind, config.data.text = "tokens", ("tokens",)
  config.data.label = "tags"
  config.data.train, config.data.dev = (
      str(tmp_path / f"{split}.conll") for split in ("train", "dev"))
  found, splits = own.read(config)
  assert found.labels == ("B-PER", "I-PER", "O")
  assert found.metrics == ("entity_f1",)
  assert splits["train"].texts == ([["He", "saw", "Old", "Time"], ["It"]],)
  rows = [{"tokens": "He saw", "tags": "PRP VBD"}]
  again, splits = own.read(_config(
      tmp_path, "tokens", rows, ending=".csv", text=("tokens",), label="tags"))
  assert again.metrics == ("word_accuracy", "word_macro_f1")
  assert [t.tolist() for t in splits["dev"].labels] == [[0, 1]]


@pytest.mark.parametrize("words, tags", [
    ('["He", "saw it"]', '["O", "B-X"]'), ("[ 12 ]", "O B-X O"),
    ("[] B", "O B-X"), ("[ 'tis ]", "O B-X O")])
def test_lists_in_cells_are_those_of_json(tmp_path, words, tags):
  """And words in brackets are words; one with a space in it is none."""
  config = _config(tmp_path, "tokens", [{"t": words, "g": tags}],
                   ending=".tsv", text=("t",), label="g")
  if "saw it" in words:
    with pytest.raises(errors.InputError, match="'saw it' in t is no word"):
      own.read(config)
  else:
    found, splits = own.read(config)
    assert splits["train"].texts == ([words.split()],)
    assert found.labels == ("B-X", "O")


def test_lists_of_labels_in_cells(tmp_path):
  """An empty one is no label; what only begins as a list is a name."""
  rows = [{"text": "a", "label": '["x", "y"]'}, {"text": "b", "label": "[]"},
          {"text": "c", "label": "[y"}]
  found, splits = own.read(_config(
      tmp_path, "multilabel", rows, ending=".tsv"))
  assert found.labels == ("[y", "x", "y")
  assert splits["train"].labels.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_other_schemes_of_tags_are_read(tmp_path):
  rows = [{"t": ["a", "b", "c"], "g": ["B-X", "E-X", "S-Y"]}]
  found, _ = own.read(_config(tmp_path, "tokens", rows, text=("t",), label="g"))
  assert found.metrics[0] == "word_accuracy"
  rows[0]["g"] = ["B_X", "B-X", "O"]
  found, _ = own.read(_config(tmp_path, "tokens", rows, text=("t",), label="g",
                              labels=("B_X", "B-X", "O")))
  assert found.labels == ("B_X", "B-X", "O")


def test_answers_to_test_rows_are_a_line_each(tmp_path):
  """Whatever names of labels hold, a reader finds them again."""
  odd = task.Task("classes", "classes", ("a\nb", "c\td", "e f"), (), 3)
  lines = own.write(odd, [0, 1, 2], tmp_path).read_text().splitlines()
  assert [line.split("\t", 1)[1] for line in lines] == [
      "prediction", r'"a\nb"', r'"c\td"', "e f"]
  tags = task.Task("tokens", "tokens", ("B-job title", "O"), (), 3)
  line = own.write(tags, [np.array([1, 0])], tmp_path).read_text().splitlines()[1]
  assert json.loads(line.split("\t")[1]) == ["O", "B-job title"]


_SQUAD = {"data": [{"paragraphs": [{"context": "It was old Time.", "qas": [
    {"id": "a", "question": "Who was it?", "answers": [
        {"answer_start": 7, "text": "old Time"},
        {"answer_start": 11, "text": "Time"}]},
    {"id": "b", "question": "Why?", "answers": [], "is_impossible": True}]}]}]}


def test_answers(tmp_path):
  config = finetune.get_config()
  config.task.kind, config.data.text = "span", ("question", "context")
  for split in ("train", "dev"):
    path = tmp_path / f"{split}.json"
    path.write_text(json.dumps(_SQUAD))
    config.data[split] = str(path)
  found, splits = own.read(config)
  assert found.has_no_answers
  assert splits["train"].texts[0] == ["Who was it?", "Why?"]
  first, none = splits["dev"].labels
  assert first[1] == task.Answer(11, "Time") and none == ()
  # As `datasets` has it.
  rows = [{"question": "q", "context": "It was old Time.", "answers": {
      "text": ["Time"], "answer_start": [11]}}]
  found, splits = own.read(_config(
      tmp_path, "span", rows, text=("question", "context"), label="answers"))
  assert splits["train"].labels == [(task.Answer(11, "Time"),)]
  assert not found.has_no_answers


_GOOD = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


@pytest.mark.parametrize("kind, train, dev, data, message", [
    ("classes", [{"words": "a", "label": "x"}], None, {},
     "no column 'text'; it has words, label"),
    ("classes", _GOOD, [{"text": "a", "label": "z"}], {},
     r"dev.*line 1: the label 'z' is none of those of the training file \(x, y"),
    ("classes", _GOOD, None, {"labels": ("x",)}, "data.labels names 'x' alone"),
    ("classes", _GOOD, None, {"labels": ("x", "z")},
     "line 2: the label 'y' is none of data.labels"),
    ("classes", _GOOD + [{"text": " ", "label": "x"}], None, {},
     "train.*line 3: text is empty"),
    ("classes", _GOOD + [{"text": None, "label": "x"}], None, {},
     "text is None; it must be a text"),
    # As json.dumps writes the gaps of a table.
    ("classes", _GOOD + [{"text": math.nan, "label": "x"}], None, {},
     "line 3: text is nan; it must be a text"),
    ("classes", _GOOD + [{"text": "a", "label": None}], None, {},
     "label is None; it must be a label"),
    ("classes", _GOOD + [{"text": "a", "label": "\ud83d"}], None, {},
     "label has .*ud83d', which is half of a character"),
    ("classes", _GOOD[:1], None, {}, "all rows have the label 'x' in label"),
    ("classes", _GOOD, None, {"text": ("text", "label", "x")},
     "names text, label, x; of a task of kind classes it names 1 or 2"),
    ("multilabel", [{"text": "a", "label": []}], None, {}, "no row has a label"),
    ("number", _GOOD, None, {}, "label is 'x'; it must be a number"),
    ("number", [{"text": "a", "label": "nan"}], None, {}, "'nan'; it must be a n"),
    ("number", [{"text": "a", "label": 10**400}], None, {},
     "label is 1000.*; it must be a number"),
    ("number", [{"text": "a", "label": 3}], None, {}, "all rows have the number 3"),
    ("tokens", [{"t": ["a", "b"], "g": ["O"]}, {"t": ["a"], "g": ["B-X"]}], None,
     {"text": ("t",), "label": "g"}, "line 1: it has 2 words and 1 tags"),
    ("tokens", [{"t": ["a", "b"], "g": ["O", "I-X"]}], None,
     {"text": ("t",), "label": "g"}, "line 1: the tag I-X follows O, and goes on"),
    ("tokens", [{"t": ["a", "b"], "g": ["B-Y", "I-X"]}], None,
     {"text": ("t",), "label": "g"}, "the tag I-X follows B-Y"),
    ("tokens", [{"t": ["a", None], "g": ["O", "B-X"]}], None,
     {"text": ("t",), "label": "g"}, "line 1: t has None, which is no word"),
    ("tokens", [{"t": "a \ud800", "g": "O O"}], None,
     {"text": ("t",), "label": "g"}, "line 1: t has .*ud800', which is half of"),
    ("tokens", [{"t": ["a", "b"], "g": ["O", "X\ud800"]}], None,
     {"text": ("t",), "label": "g"}, "line 1: g has .*ud800', which is half of"),
    ("tokens", [{"t": ["a", "b"], "g": ["O", None]}], None,
     {"text": ("t",), "label": "g"}, "line 1: g has None, which is no word"),
    ("tokens", [{"t": [], "g": []}], None, {"text": ("t",), "label": "g"},
     r"t is \[\]; it must be a list of words"),
    ("span", [{"question": "q", "context": "c", "answers": [
        {"text": "d", "answer_start": 0}]}], None,
     {"text": ("question", "context"), "label": "answers"},
     "line 1: the answer 'd' does not stand at character 0"),
    ("span", [{"question": "q", "context": "c", "answers": [3]}], None,
     {"text": ("question", "context"), "label": "answers"}, "answers is"),
    ("span", [{"question": "q", "context": "c", "answers": [
        {"text": "c", "answer_start": math.inf}]}], None,
     {"text": ("question", "context"), "label": "answers"}, "answers is"),
    ("span", _GOOD, None, {}, "kind span it names 2"),
    # Half of a position, and an answer without one.
    ("span", [{"question": "q", "context": "cd", "answers": [
        {"text": "d", "answer_start": 0.5}]}], None,
     {"text": ("question", "context"), "label": "answers"}, "answers is"),
    ("span", [{"question": "q", "context": "cd", "answers": {
        "text": ["c", "d"], "answer_start": [0]}}], None,
     {"text": ("question", "context"), "label": "answers"}, "answers is"),
    ("number", [{"text": "a", "label": 1e39}], None, {}, "it must be a number"),
    # A tag that is misspelt among those of entities; one that is none.
    ("tokens", [{"t": ["a", "b"], "g": ["O", "B-X"]},
                {"t": ["a", "b"], "g": ["B_X", "O"]}], None,
     {"text": ("t",), "label": "g"}, "line 2: the tag 'B_X' is none of O, B-TYPE"),
    ("tokens", [{"t": ["a", "b"], "g": ["O", " "]}], None,
     {"text": ("t",), "label": "g"}, "g is ' '; it must be a label"),
    # As pandas writes a column of lists.
    ("tokens", [{"t": "['a', 'b']", "g": "['O', 'B-X']"}], None,
     {"text": ("t",), "label": "g"}, "a list is written as JSON"),
    ("multilabel", [{"text": "a", "label": "['x', 'y']"}], None, {},
     "a list is written as JSON"),
])
@pytest.mark.filterwarnings("error")
def test_what_cannot_be(tmp_path, kind, train, dev, data, message):
  with pytest.raises(errors.InputError, match=message) as refused:
    own.read(_config(tmp_path, kind, train, dev, **data))
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name, text, message", [
    ("a.csv", "text,label\na\n", "line 2: it has 1 columns, and the header has 2"),
    ("a.csv", 'text,label\n"a,x\n', "line 2 cannot be read"),
    ("a.csv", "", "a.csv is empty"),
    ("a.jsonl", "[1]\n", "line 1: it is no JSON object"),
    ("a.jsonl", "{\n", "line 1: it is no JSON"),
    ("a.csv", "text,label\n", "a.csv has no rows"),
    ("a.parquet", "no", "is no parquet file"),
    ("a.xls", "no", "files of rows end in .csv"),
    ("a.conll", "He\n", "line 1: it has one column"),
])
def test_files_that_cannot_be(tmp_path, name, text, message):
  path = tmp_path / name
  path.write_text(text)
  columns = ("tokens", "tags") if "conll" in name else ("text", "label")
  config = finetune.get_config()
  config.data.train = config.data.dev = str(path)
  config.data.text, config.data.label = columns[:1], columns[1]
  with pytest.raises(errors.InputError, match=message) as refused:
    own.read(config)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("column, message", [
    (pa.array([b"one", b"\xff"]).view(pa.string()),
     "a.parquet, rows 1 to 2: a text is not UTF-8"), (
         None, "a.parquet has 2 columns label")])
def test_tables_that_cannot_be(tmp_path, column, message):
  labels = pa.array(["x", "y"])
  first = ("label", labels) if column is None else ("text", column)
  names, columns = zip(first, ("label", labels))
  pq.write_table(pa.table(list(columns), list(names)), tmp_path / "a.parquet")
  with pytest.raises(errors.InputError, match=message):
    list(tables.read(tmp_path / "a.parquet", dict.fromkeys(names)))


@pytest.mark.parametrize("questions", [{"question": "q"}, ["q"], [3], 3])
def test_questions_that_are_none(tmp_path, questions):
  path = tmp_path / "a.json"
  path.write_text(json.dumps({"data": [
      {"paragraphs": [{"context": "c", "qas": questions}]}]}))
  with pytest.raises(errors.InputError, match="a.json is no JSON of SQuAD"):
    list(own.rows_of(path, "span", ("question", "context"), "answers"))


def test_files_that_are_missing(tmp_path):
  config = finetune.get_config()
  with pytest.raises(errors.InputError, match="data.train is missing"):
    own.read(config)
  config.data.train = config.data.dev = str(tmp_path / "no.csv")
  with pytest.raises(errors.InputError, match="there is no file .*no.csv"):
    own.read(config)
  config.predict_test = True
  with pytest.raises(errors.InputError, match="data.test names no file"):
    own.read(config)


def test_entities_are_those_of_seqeval():
  seqeval = pytest.importorskip("seqeval.metrics")
  rng = np.random.default_rng(0)
  labels = ("O", "B-X", "I-X", "B-Y", "I-Y")
  wanted, given = ([rng.integers(0, 5, n) for n in range(1, 40)]
                   for _ in range(2))
  names = [[[labels[tag] for tag in tags] for tags in side]
           for side in (wanted, given)]
  about = task.Task("mine", "tokens", labels, ("entity_f1",), 1)
  np.testing.assert_allclose(
      metrics.METRICS["entity_f1"](about, wanted, given),
      seqeval.f1_score(*names))


def test_entities_by_hand():
  assert entities.spans("O B-X I-X I-Y O I-X B-X".split()) == [
      ("X", 1, 3), ("Y", 3, 4), ("X", 5, 6), ("X", 6, 7)]
  about = task.Task("mine", "tokens", ("O", "B-X", "I-X"), (), 1)
  f1 = metrics.METRICS["entity_f1"]
  assert f1(about, [np.array([1, 2, 0])], [np.array([1, 2, 0])]) == 1
  assert f1(about, [np.array([1, 2, 0])], [np.array([1, 0, 0])]) == 0
  assert f1(about, [np.array([1, 2, 0, 1])], [np.array([1, 2, 0, 0])]) == 2 / 3
  assert f1(about, [np.array([0])], [np.array([0])]) == 0


def test_spans_by_hand():
  """As SQuAD's own evaluation normalises and compares them."""
  answers = [(task.Answer(0, "The old Time"), task.Answer(4, "old")), ()]
  exact, f1 = (metrics.METRICS[name] for name in ("exact_match", "span_f1"))
  assert exact(None, answers, ["old, time!", ""]) == 1
  assert exact(None, answers, ["older", "x"]) == 0
  assert f1(None, answers, ["old man", ""]) == (2 / 3 + 1) / 2
  # Of an answer without words nothing is left to find.
  answers = [(), (task.Answer(0, "The"),), (task.Answer(0, "the"),)]
  for metric in exact, f1:
    assert metric(None, answers, ["an", "", "x"]) == 2 / 3


def test_every_kind_reads_scores_and_says():
  for kind, row in kinds.KINDS.items():
    assert all(name in metrics.METRICS for name in row.metrics(
        task.Task("mine", kind, ("O", "B-X"), (), 1)))
  assert not re.search("[A-Z]", "".join(kinds.KINDS))
