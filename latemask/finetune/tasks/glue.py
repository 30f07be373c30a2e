"""The GLUE tasks: their files, labels, official metrics and submissions.

Text and labels come from the official TSV files (DATA_DIR/CoLA/train.tsv,
...) or from TFDS (`glue/cola`, ...); from here on both are the same `Rows`.
Source of tasks and metrics: GLUE (arXiv 1804.07461) and its leaderboard,
gluebenchmark.com.
"""

import dataclasses
import warnings

from etils import epath
import numpy as np

from latemask.data.sources import tfds as tfds_source
from latemask import errors
from latemask.runtime import files


class NotThere(errors.InputError):
  """A task of which there is no data at all."""


@dataclasses.dataclass(frozen=True)
class Task:
  """A row of `TASKS`.

  Fields:
    folder: of the official files; names the submission, too.
    texts: columns of the TSV files with the one or two texts.
    features: the same in TFDS.
    label: column of the TSV files.
    labels: what stands there, by class; () for a score of 0 to 5.
    names: what the classes are called, where the labels are mere numbers.
    metrics: official ones, keys of `METRICS`.
    num_epochs: 10 for the small tasks, 3 for the large.
    columns: of train and dev files that have no header.
    parts: suffixes of dev and test files, by what they add to a name.
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

  @property
  def class_names(self):
    """What the classes are called; () for a score."""
    return self.names or self.labels

  @property
  def num_outputs(self):
    """Outputs of the head."""
    return max(len(self.labels), 1)


_YES_NO = ("0", "1")
_TWO = ("sentence1", "sentence2")
_ENTAILED = ("entailment", "not_entailment")

# By the name that TFDS gives them, and in its order of labels.
TASKS = {
    "cola": Task(
        "CoLA", ("sentence",), ("sentence",), "label", _YES_NO, ("matthews",),
        10, columns=("source", "label", "star", "sentence"),
        names=("unacceptable", "acceptable")),
    "sst2": Task("SST-2", ("sentence",), ("sentence",), "label", _YES_NO,
                 ("accuracy",), 3, names=("negative", "positive")),
    "mrpc": Task("MRPC", ("#1 String", "#2 String"), _TWO, "Quality", _YES_NO,
                 ("accuracy", "f1"), 10,
                 names=("not_equivalent", "equivalent")),
    "stsb": Task("STS-B", _TWO, _TWO, "score", (), ("pearson", "spearman"),
                 10),
    "qqp": Task("QQP", ("question1", "question2"), ("question1", "question2"),
                "is_duplicate", _YES_NO, ("accuracy", "f1"), 3,
                names=("not_duplicate", "duplicate")),
    "mnli": Task("MNLI", _TWO, ("premise", "hypothesis"), "gold_label",
                 ("entailment", "neutral", "contradiction"), ("accuracy",), 3,
                 parts=("_matched", "_mismatched")),
    "qnli": Task("QNLI", ("question", "sentence"), ("question", "sentence"),
                 "label", _ENTAILED, ("accuracy",), 3),
    "rte": Task("RTE", _TWO, _TWO, "label", _ENTAILED, ("accuracy",), 10),
}


def _of_classes(name, **options):
  """Returns a metric of scikit-learn, whose import takes seconds."""
  def metric(labels, found):
    from sklearn import metrics
    return getattr(metrics, name)(labels, found, **options)
  return metric


def _of_scores(name):
  """Returns a correlation of SciPy, whose import takes seconds."""
  def metric(labels, found):
    from scipy import stats
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", stats.ConstantInputWarning)
      return getattr(stats, name)(labels, found).statistic
  return metric


# (labels, predictions) -> number; f1 is that of class 1.
METRICS = {
    "matthews": _of_classes("matthews_corrcoef"),
    "accuracy": _of_classes("accuracy_score"),
    "f1": _of_classes("f1_score", zero_division=0),
    "pearson": _of_scores("pearsonr"), "spearman": _of_scores("spearmanr"),
}

# What the leaderboard calls the two test sets of MNLI.
_SUBMITTED = {"": "", "_matched": "-m", "_mismatched": "-mm"}


@dataclasses.dataclass(frozen=True)
class Rows:
  """A split.

  Fields:
    texts: a list of strings for each text of a row.
    labels_R: int32 classes or float32 scores; None where they are secret.
    num_dropped: broken lines of a training file.
  """

  texts: tuple[list[str], ...]
  labels_R: np.ndarray | None
  num_dropped: int = 0

  def __len__(self):
    return len(self.texts[0])


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
  task = TASKS[name]
  path = data_dir / task.folder / f"{split}.tsv"
  if not path.parent.is_dir():
    raise NotThere(
        f"there is no folder {path.parent}; data_dir must hold the official "
        "GLUE folders, or be None for TFDS")
  if not path.is_file():
    raise errors.InputError(f"{name}: there is no file {path}")
  has_labels = not split.startswith("test")
  numbered = _numbered_cells(path)
  header = task.columns if has_labels else None
  if not header:
    if not numbered:
      raise errors.InputError(f"{path} is empty")
    header, numbered = numbered[0][1], numbered[1:]
  wanted = task.texts + ((task.label,) if has_labels else ())
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
  rows = [[cells[place] for place in places[:len(task.texts)]]
          for _, cells in whole]
  labels = [_label(task, cells[places[-1]], f"{path}: line {number}")
            for number, cells in whole] if has_labels else None
  return _rows(task, rows, labels, len(numbered) - len(whole))


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


def _label(task, word, where):
  """Returns the class or score that a cell names."""
  if task.labels:
    if word not in task.labels:
      raise errors.InputError(
          f"{where}: the label {word!r} is none of {', '.join(task.labels)}")
    return task.labels.index(word)
  try:
    score = float(word)
  except ValueError:
    score = np.nan
  if not 0 <= score <= 5:
    raise errors.InputError(
        f"{where}: the score {word!r} is no number from 0 to 5")
  return score


def _rows(task, rows, labels, num_dropped=0):
  texts = tuple(list(column) for column in zip(*rows)) or ([],)
  if labels is not None:
    labels = np.array(labels, np.int32 if task.labels else np.float32)
  return Rows(texts, labels, num_dropped)


def _read_tfds(name, split, tfds_dir):
  """Reads `glue/NAME`, downloading and preparing it where it must be."""
  task = TASKS[name]
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
  rows = [[example[feature].decode() for feature in task.features]
          for example in examples]
  if split.startswith("test"):
    return _rows(task, rows, None)
  # Classes are numbers here: looked up, so that one outside is found.
  words = [(task.labels + ("-1",))[int(e["label"])] if task.labels
           else str(float(e["label"])) for e in examples]
  return _rows(task, rows, [
      _label(task, word, f"glue/{name}, {split}") for word in words])


def predictions(name, logits_RxC):
  """Returns classes, or scores of 0 to 5."""
  if TASKS[name].labels:
    return np.argmax(logits_RxC, axis=-1)
  return np.clip(logits_RxC[:, 0], 0, 5)


def one_answer(name, logits_RxC):
  """Returns the answer that was given to all rows, in words.

  None where there are several, or a single row.
  """
  found_R = predictions(name, logits_RxC)
  if len(found_R) < 2 or len(np.unique(found_R)) > 1:
    return None
  names = TASKS[name].class_names
  return names[found_R[0]] if names else f"{found_R[0]:.2f}"


def about(name, labels_R):
  """Returns in words how labels are spread, such as "31.0% negative, ..."."""
  names = TASKS[name].class_names
  if not names:
    return f"scores of 0 to 5, {np.mean(labels_R):.2f} on average"
  shares = np.bincount(labels_R, minlength=len(names)) / len(labels_R)
  return ", ".join(f"{share:.1%} {label}"
                   for share, label in zip(shares, names))


def score(name, part, labels_R, logits_RxC):
  """Returns the task's metrics of a dev split, {name: 0 to 1}.

  All are NaN where a logit is not finite: that is no prediction.
  """
  suffix = part.replace("_", "/")
  if not np.isfinite(logits_RxC).all():
    return dict.fromkeys(
        (metric + suffix for metric in TASKS[name].metrics), np.nan)
  found_R = predictions(name, logits_RxC)
  # Predictions that are all the same correlate with nothing: NaN, here 0.
  return {metric + suffix: float(np.nan_to_num(
      METRICS[metric](labels_R, found_R)))
          for metric in TASKS[name].metrics}


def write_submission(name, part, logits_RxC, folder):
  """Writes FOLDER/CoLA.tsv or the like as the leaderboard wants it."""
  task = TASKS[name]
  found_R = predictions(name, logits_RxC)
  words = ([task.labels[c] for c in found_R] if task.labels
           else [f"{s:.3f}" for s in found_R])
  path = folder / f"{task.folder}{_SUBMITTED[part]}.tsv"
  files.make(folder)
  with files.writing(path) as unfinished:
    unfinished.write_text("index\tprediction\n" + "".join(
        f"{index}\t{word}\n" for index, word in enumerate(words)))
  return path
