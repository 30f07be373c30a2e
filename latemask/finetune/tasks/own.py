"""People's own labelled files: what is in them, as a `task.Task` and `Rows`.

Labels are found in the training file, unless `data.labels` names them. Every
row is looked at before anything is trained: what cannot be is named with its
file and line.
"""

import dataclasses
import json

from latemask.config import keys
from latemask import errors
from latemask.data.sources import unpack
from latemask.finetune.tasks import kinds
from latemask.finetune.tasks import labels as labels_lib
from latemask.finetune.tasks import tables
from latemask.finetune.tasks import task as task_lib
from latemask.runtime import files

_NUM_EPOCHS = 3
SPLITS = ("train", "dev", "test")


def is_meant(config):
  """Returns whether a config is that of own files, rather than of GLUE."""
  return keys.table(config) is keys.OWN


def read(config):
  """Reads the files of configs/finetune.py.

  Returns:
    (`Task`, {split: `Rows`} of those that there are).

  Raises:
    InputError: a file, column, label or text that cannot be used, named.
  """
  kind, data = config.task.kind, config.data
  check(config)
  found = {}
  for split in SPLITS:
    if data[split]:
      rows = list(rows_of(data[split], kind, tuple(data.text), (
          data.label if split != "test" else None)))
      if not rows:
        raise errors.InputError(f"{data[split]} has no rows")
      found[split] = rows
  read_label = labels_lib.READERS[kind](
      found["train"], tuple(data.labels), data)
  rows = {}
  for split, there in found.items():
    labels = None if split == "test" else read_label.array(
        [read_label(where, texts, label) for where, texts, label in there])
    rows[split] = task_lib.Rows(
        tuple(list(column) for column in zip(*(r[1] for r in there))), labels)
  task = task_lib.Task(
      kind, kind, read_label.names, (), _NUM_EPOCHS,
      text=tuple(data.text), stride=data.stride,
      **read_label.fields(rows["train"].labels))
  return dataclasses.replace(
      task, metrics=kinds.KINDS[kind].metrics(task)), rows


def check(config):
  """Checks keys that depend on each other.

  Raises:
    InputError: the first thing found that cannot be.
  """
  data = config.data
  for split in ("train", "dev"):
    if not data[split]:
      raise errors.InputError(
          f"data.{split} is missing; name a file of labelled rows, such as "
          f"{split}.csv")
  if config.predict_test and not data.test:
    raise errors.InputError("predict_test is True, and data.test names no file")
  allowed = _COLUMNS[config.task.kind]
  if len(data.text) not in allowed:
    raise errors.InputError(
        f"data.text names {', '.join(data.text)}; of a task of kind "
        f"{config.task.kind} it names {' or '.join(map(str, allowed))}")


# Kind -> how many texts a row may have.
_COLUMNS = {"classes": (1, 2), "multilabel": (1, 2), "number": (1, 2),
            "tokens": (1,), "span": (2,)}


def rows_of(path, kind, text, label=None):
  """Yields (where, texts, label) of the rows of a file, texts checked.

  Args:
    text: columns of the texts, in order; of spans question and context.
    label: column; None where labels are secret, or not there: the label is
      None then.

  Raises:
    InputError: see `tables.read`; or a text that is none, or empty.
  """
  if kind == "span" and unpack.ending(str(path))[0] == ".json":
    rows = _squad(path, with_answers=label is not None)
  else:
    columns = [*text, *([label] if label else [])]
    rows = tables.read(path, columns)
  for where, cells in rows:
    yield (where, texts_of(where, kind, text, cells),
           cells[-1] if label else None)


def texts_of(where, kind, columns, cells):
  """Returns the cells of a row's columns of texts, checked."""
  read_cell = _words if kind == "tokens" else _text
  return [read_cell(where, column, cell)
          for column, cell in zip(columns, cells)]


def _text(where, column, cell):
  if isinstance(cell, bool) or not labels_lib.is_plain(cell):
    raise errors.InputError(
        f"{where}: {column} is {cell!r:.40}; it must be a text")
  if not str(cell).strip():
    raise errors.InputError(f"{where}: {column} is empty")
  labels_lib.check_characters(where, column, str(cell))
  return str(cell)


def _words(where, column, cell):
  words = labels_lib.listed(where, column, cell)
  if not words:
    raise errors.InputError(
        f"{where}: {column} is {cell!r:.40}; it must be a list of words, or "
        "words parted by spaces")
  for word in words:
    if not word.strip() or len(word.split()) > 1:
      raise errors.InputError(
          f"{where}: {word!r:.40} in {column} is no word")
  return words


def _squad(path, with_answers):
  """Yields (where, [question, context, answers]) of SQuAD's own JSON."""
  with unpack.reading(path) as file:
    try:
      articles = json.load(file)["data"]
      for number, article in enumerate(articles):
        for paragraph in article["paragraphs"]:
          for question in paragraph["qas"]:
            yield (f"{path}, question {question.get('id', number)}",
                   [question["question"], paragraph["context"],
                    question["answers"] if with_answers else None])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise errors.InputError(
          f"{path} is no JSON of SQuAD (data, paragraphs, qas): {error!r}"
      ) from error


def _in_a_line(text):
  """Returns a cell; as JSON writes it where it would break the table."""
  if "\t" in text or len(text.splitlines()) > 1:
    return json.dumps(text, ensure_ascii=False)
  return text


def write(task, found, folder):
  """Writes FOLDER/NAME.tsv, the answers to the test file, in its order.

  Args:
    found: of `kinds.answers`.
  """
  path = folder / f"{task.name}.tsv"
  files.make(folder)
  with files.writing(path) as unfinished:
    unfinished.write_text("row\tprediction\n" + "".join(
        f"{row}\t{_in_a_line(kinds.plain(task, answer))}\n"
        for row, answer in enumerate(found, 1)), "utf-8")
  return path
