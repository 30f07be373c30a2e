"""The GLUE tasks: their files, labels, official metrics and submissions.

Text and labels come from the official TSV files (DATA_DIR/CoLA/train.tsv,
...) or from TFDS (`glue/cola`, ...); from here on both are the same `Rows`.
Source of tasks and metrics: GLUE (arXiv 1804.07461) and its leaderboard,
gluebenchmark.com.
"""

import dataclasses

from etils import epath
import numpy as np

from latemask.data.sources import tfds as tfds_source
from latemask import errors
from latemask.finetune.tasks import task as task_lib
from latemask.runtime import files


class NotThere(errors.InputError):
  """A task of which there is no data at all."""


@dataclasses.dataclass(frozen=True)
class Official:
  """A row of `TASKS`.

  Fields:
    folder: of the official files; names the submission, too.
    texts: columns of the TSV files with the one or two texts.
    features: the same in TFDS.
    label: column of the TSV files.
    labels: what stands there, by class; () for a score of 0 to 5.
    names: what the classes are called, where the labels are mere numbers.
    metrics: official ones, keys of `metrics.METRICS`.
    num_epochs: 10 for the small tasks, 3 for the large.
    columns: of train and dev files that have no header.
    parts: suffixes of dev and test files, by what they add to a name.
    tests: test sets besides, which need not be there.
  """

  folder: str
  texts: tuple[str, ...]
  features: tuple[str, ...]
  label: str
  labels: tuple[str, ...]
  metrics: tuple[str, ...]
  num_epochs: int
  columns: tuple[str, ...] = ()
  parts: tuple[str, ...] = ("",)
  names: tuple[str, ...] = ()
  tests: tuple[str, ...] = ()


_YES_NO = ("0", "1")
_TWO = ("sentence1", "sentence2")
_SIDES = ("premise", "hypothesis")
_ENTAILED = ("entailment", "not_entailment")
# The diagnostic set: a test set that the model of MNLI answers, too.
AX = "_ax"

# By the name that TFDS gives them, and in its order of labels.
TASKS = {
    "cola": Official(
        "CoLA", ("sentence",), ("sentence",), "label", _YES_NO, ("matthews",),
        10, columns=("source", "label", "star", "sentence"),
        names=("unacceptable", "acceptable")),
    "sst2": Official(
        "SST-2", ("sentence",), ("sentence",), "label", _YES_NO,
        ("accuracy",), 3, names=("negative", "positive")),
    "mrpc": Official(
        "MRPC", ("#1 String", "#2 String"), _TWO, "Quality", _YES_NO,
        ("accuracy", "f1"), 10, names=("not_equivalent", "equivalent")),
    "stsb": Official(
        "STS-B", _TWO, _TWO, "score", (), ("pearson", "spearman"), 10),
    "qqp": Official(
        "QQP", ("question1", "question2"), ("question1", "question2"),
        "is_duplicate", _YES_NO, ("accuracy", "f1"), 3,
        names=("not_duplicate", "duplicate")),
    "mnli": Official(
        "MNLI", _TWO, _SIDES, "gold_label",
        ("entailment", "neutral", "contradiction"), ("accuracy",), 3,
        parts=("_matched", "_mismatched"), tests=(AX,)),
    "qnli": Official(
        "QNLI", ("question", "sentence"), ("question", "sentence"), "label",
        _ENTAILED, ("accuracy",), 3),
    "rte": Official(
        "RTE", _TWO, _TWO, "label", _ENTAILED, ("accuracy",), 10),
    "wnli": Official(
        "WNLI", _TWO, _TWO, "label", _YES_NO, ("accuracy",), 10,
        names=_ENTAILED[::-1]),
}
# WNLI's dev set was drawn against its train set, so that averages leave it out
# (arXiv 1810.04805, section 4.1).
NOT_AVERAGED = ("wnli",)

# Part -> what the leaderboard calls its file; {} is the task's folder.
_SUBMITTED = {"": "{}", "_matched": "{}-m", "_mismatched": "{}-mm", AX: "AX"}
# Split -> its file and its name in TFDS, where these are not the task's own.
_ELSEWHERE = {f"test{AX}": ("diagnostic/diagnostic.tsv", "ax")}


def task(name):
  """Returns the `task.Task` of a key of `TASKS`."""
  official = TASKS[name]
  return task_lib.Task(
      name, "classes" if official.labels else "number",
      official.names or official.labels, official.metrics,
      official.num_epochs, official.parts,
      None if official.labels else (0, 5), text=official.features)


def read(name, split, data_dir, tfds_dir):
  """Reads a split of a task.

  Args:
    name: a key of `TASKS`.
    split: train, dev or test, plus one of the task's parts.
    data_dir: folder of the official folders; None reads TFDS.
    tfds_dir: where TFDS sets lie; None for its default.

  Raises:
    NotThere: no folder of the task, or no TFDS set.
    InputError: a file or column that is not there; a label outside the task;
      text that is not UTF-8.
  """
  rows = (_read_tsv(name, split, epath.Path(data_dir)) if data_dir
          else _read_tfds(name, split, tfds_dir))
  if not len(rows):
    raise errors.InputError(f"{name}: the split {split} has no rows")
  return rows


def _read_tsv(name, split, data_dir):
  official = TASKS[name]
  path = data_dir / _ELSEWHERE.get(
      split, (f"{official.folder}/{split}.tsv",))[0]
  if not path.parent.is_dir():
    raise NotThere(
        f"there is no folder {path.parent}; data_dir must hold the official "
        "GLUE folders, or be None for TFDS")
  if not path.is_file():
    raise errors.InputError(f"{name}: there is no file {path}")
  has_labels = not split.startswith("test")
  numbered = _numbered_cells(path)
  header = official.columns if has_labels else None
  if not header:
    if not numbered:
      raise errors.InputError(f"{path} is empty")
    header, numbered = numbered[0][1], numbered[1:]
  wanted = official.texts + ((official.label,) if has_labels else ())
  for column in wanted:
    if column not in header:
      raise errors.InputError(
          f"{path} has no column {column!r}; it has {', '.join(header)}")
  places = [header.index(column) for column in wanted]
  # The official train.tsv of QQP has broken lines, which other trainers drop.
  whole = [row for row in numbered if len(row[1]) > max(places)]
  if len(whole) < len(numbered) and split != "train":
    number, cells = next(row for row in numbered if len(row[1]) <= max(places))
    raise errors.InputError(
        f"{path}: line {number} has {len(cells)} cells; "
        f"{max(places) + 1} or more are needed (is it a whole GLUE file?)")
  rows = [[cells[place] for place in places[:len(official.texts)]]
          for _, cells in whole]
  labels = [_label(official, cells[places[-1]], f"{path}: line {number}")
            for number, cells in whole] if has_labels else None
  return _rows(official, rows, labels, len(numbered) - len(whole))


def _numbered_cells(path):
  """Returns [(number of a line, its cells)] of the lines that hold any.

  Tabs part cells and nothing else does: a quote is part of the text, and the
  csv module would end a line at a lone carriage return.
  """
  try:
    # MRPC begins with a byte order mark.
    text = path.read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise errors.InputError(
        f"{path}: byte {error.start} is not UTF-8") from error
  lines = [line.removesuffix("\r").split("\t") for line in text.split("\n")]
  return [(n, line) for n, line in enumerate(lines, 1) if line != [""]]


def _label(official, word, where):
  """Returns the class or score that a cell names."""
  if official.labels:
    if word not in official.labels:
      raise errors.InputError(
          f"{where}: the label {word!r} is none of "
          + ", ".join(official.labels))
    return official.labels.index(word)
  try:
    score = float(word)
  except ValueError:
    score = np.nan
  if not 0 <= score <= 5:
    raise errors.InputError(
        f"{where}: the score {word!r} is no number from 0 to 5")
  return score


def _rows(official, rows, labels, num_dropped=0):
  texts = tuple(list(column) for column in zip(*rows)) or ([],)
  if labels is not None:
    labels = np.array(labels, np.int32 if official.labels else np.float32)
  return task_lib.Rows(texts, labels, num_dropped)


def _read_tfds(name, split, tfds_dir):
  """Reads `glue/NAME`, downloading and preparing it where it must be."""
  official = TASKS[name]
  if split in _ELSEWHERE:
    name, split = _ELSEWHERE[split][1], "test"
  builder = tfds_source.builder(f"glue/{name}", tfds_dir)
  try:
    tfds_source.prepare(builder)
  except tfds_source.NotPrepared as error:
    raise NotThere(f"{error}; name the folder of the official TSV files in "
                   "data_dir") from error
  split = split.replace("dev", "validation")
  examples = list(tfds_source.examples(builder, split))
  # TFDS shuffles when it prepares; a submission is in the official order.
  examples.sort(key=lambda example: int(example["idx"]))
  rows = [[example[feature].decode() for feature in official.features]
          for example in examples]
  if split.startswith("test"):
    return _rows(official, rows, None)
  # Classes are numbers here: looked up, so that one outside is found.
  words = [(official.labels + ("-1",))[int(e["label"])] if official.labels
           else str(float(e["label"])) for e in examples]
  return _rows(official, rows, [
      _label(official, word, f"glue/{name}, {split}") for word in words])


def write_submission(name, part, found_R, folder):
  """Writes FOLDER/CoLA.tsv or the like as the leaderboard wants it.

  Args:
    found_R: of `kinds.answers`.
  """
  official = TASKS[name]
  words = ([official.labels[c] for c in found_R] if official.labels
           else [f"{s:.3f}" for s in found_R])
  path = folder / f"{_SUBMITTED[part].format(official.folder)}.tsv"
  files.make(folder)
  with files.writing(path) as unfinished:
    unfinished.write_text("index\tprediction\n" + "".join(
        f"{index}\t{word}\n" for index, word in enumerate(words)))
  return path
