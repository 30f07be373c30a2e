"""The labels of people's own rows: cells -> numbers, by kind.

A row of `READERS` each: made of the training rows, (where, texts, cell), it
knows the names, and reads the cells of any split.
"""

import json
import math

import numpy as np

from latemask import errors
from latemask.finetune.tasks import entities
from latemask.finetune.tasks import task as task_lib

_QUOTES = ("'", '"')


class _Classes:
  """Labels of classes: reads one as a number."""

  def __init__(self, rows, names, data):
    """Finds the names in the training rows, unless they are given."""
    self.is_given = bool(names)
    self.names = names or _sorted({
        _name(where, data.label, cell) for where, _, cell in rows})
    self._column = data.label
    self._numbers = {name: i for i, name in enumerate(self.names)}
    if len(self.names) < 2:
      raise errors.InputError(
          (f"data.labels names {self.names[0]!r} alone" if self.is_given else
           f"{data.train}: all rows have the label {self.names[0]!r} in "
           f"{data.label}") + "; there must be two classes at least")

  def __call__(self, where, texts, cell):
    del texts
    return self.number(where, _name(where, self._column, cell))

  def number(self, where, name):
    if name not in self._numbers:
      known = ", ".join(self.names[:10]) + ", ..." * (len(self.names) > 10)
      raise errors.InputError(
          f"{where}: the label {name!r:.40} is none of "
          + ("data.labels" if self.is_given else "those of the training file")
          + f" ({known})")
    return self._numbers[name]

  @staticmethod
  def array(labels):
    return np.array(labels, np.int32)

  def fields(self, labels):
    """Returns what a `Task` has besides, from the training labels."""
    del labels
    return {}


class _Multilabel(_Classes):
  """Any number of labels a row: a list, or names parted by a separator."""

  def __init__(self, rows, names, data):
    self.is_given, self._column = bool(names), data.label
    self._separator = data.label_separator
    self.names = names or _sorted({
        name for where, _, cell in rows for name in self._cells(where, cell)})
    self._numbers = {name: i for i, name in enumerate(self.names)}
    if not self.names:
      raise errors.InputError(
          f"{data.train}: no row has a label in {data.label}")

  def _cells(self, where, cell):
    if isinstance(cell, str):
      found = _as_list(where, self._column, cell)
      cell = found if found is not None else [
          name.strip() for name in cell.split(self._separator)
          if name.strip()]
    if not isinstance(cell, list):
      cell = [] if cell is None else [cell]
    return [_name(where, self._column, name) for name in cell]

  def __call__(self, where, texts, cell):
    found = np.zeros(len(self.names), np.float32)
    for name in self._cells(where, cell):
      found[self.number(where, name)] = 1
    return found

  array = staticmethod(np.array)

  def fields(self, labels):
    del labels
    return {"separator": self._separator}


class _Number:
  """Numbers, which are learned in units of their deviation."""

  names = ()

  def __init__(self, rows, names, data):
    del rows
    self._column = data.label
    if names:
      raise errors.InputError("data.labels names classes; numbers have none")

  def __call__(self, where, texts, cell):
    del texts
    try:
      number = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
      number = math.nan
    if not abs(number) <= float(np.finfo(np.float32).max):
      raise errors.InputError(
          f"{where}: {self._column} is {cell!r:.40}; it must be a number")
    return number

  @staticmethod
  def array(labels):
    return np.array(labels, np.float32)

  def fields(self, labels):
    with np.errstate(over="ignore", invalid="ignore"):
      shift, scale = float(np.mean(labels)), float(np.std(labels))
    # Squares of large and of tiny numbers are none in float32.
    if not (math.isfinite(shift) and 0 < scale < math.inf):
      shift = float(np.mean(labels, dtype=np.float64))
      scale = float(np.std(labels, dtype=np.float64))
    if not np.ptp(labels):  # That of equal numbers is 0 to rounding alone.
      raise errors.InputError(
          f"all rows have the number {labels[0]:g} in {self._column}; there is "
          "nothing to learn")
    return {"shift": shift, "scale": scale}


class _Tags(_Classes):
  """A tag a word."""

  def __init__(self, rows, names, data):
    self.is_given, self._column = bool(names), data.label
    found = {}  # Tag -> where it stands first.
    for where, _, cell in () if names else rows:
      for tag in self._tags(where, cell):
        found.setdefault(tag, where)
    if odd := entities.odd(found):
      raise errors.InputError(
          f"{found[odd]}: the tag {odd!r:.40} is none of O, B-TYPE and I-TYPE, "
          "as others are; if it is meant so, name all tags in data.labels")
    self.names = names or _sorted(found)
    self._numbers = {name: i for i, name in enumerate(self.names)}
    if len(self.names) < 2:
      raise errors.InputError(
          f"{data.train}: all words have the same tag, or none, in "
          f"{data.label}; there must be two at least")
    self._are_bio = entities.are_bio(self.names)

  def _tags(self, where, cell):
    return [_name(where, self._column, tag)
            for tag in listed(where, self._column, cell)]

  def __call__(self, where, texts, cell):
    (words,), tags = texts, self._tags(where, cell)
    if len(tags) != len(words):
      raise errors.InputError(
          f"{where}: it has {len(words)} words and {len(tags)} tags")
    if self._are_bio and (wrong := entities.wrong(tags)):
      raise errors.InputError(f"{where}: {wrong}")
    return np.array([self.number(where, tag) for tag in tags], np.int32)

  array = staticmethod(list)


class _Answers:
  """Answers that stand in their context; none, for some."""

  names = ()

  def __init__(self, rows, names, data):
    del rows
    self._column = data.label
    if names:
      raise errors.InputError("data.labels names classes; spans have none")

  def __call__(self, where, texts, cell):
    _, context = texts
    if isinstance(cell, str):  # In a cell of .csv.
      try:
        cell = json.loads(cell or "[]")
      except ValueError:
        cell = "?"
    if isinstance(cell, dict) and isinstance(cell.get("text"), str):
      cell = [cell]
    try:
      if isinstance(cell, dict):  # As in `datasets`: a list of each.
        cell = [{"text": text, "answer_start": start} for text, start in zip(
            cell["text"], cell["answer_start"], strict=True)]
      answers = tuple(
          task_lib.Answer(_whole(a["answer_start"]), _text(a["text"]))
          for a in cell or () if a["text"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
      raise errors.InputError(
          f"{where}: {self._column} is {cell!r:.60}; it must be a list of "
          'objects such as {"text": "...", "answer_start": 0}') from error
    for answer in answers:
      if not context.startswith(answer.text, answer.start) or answer.start < 0:
        raise errors.InputError(
            f"{where}: the answer {answer.text!r:.40} does not stand at "
            f"character {answer.start} of its context")
    return answers

  array = staticmethod(list)

  def fields(self, labels):
    return {"has_no_answers": not all(labels)}


# Kind -> what reads its labels.
READERS = {"classes": _Classes, "multilabel": _Multilabel, "number": _Number,
           "tokens": _Tags, "span": _Answers}


def is_plain(cell):
  """Whether a cell is a text or a number: a gap in a table is NaN."""
  return isinstance(cell, (str, int)) or (
      isinstance(cell, float) and math.isfinite(cell))


def _name(where, column, cell):
  """Returns a label as text; numbers are names, too."""
  if isinstance(cell, float) and cell.is_integer():
    cell = int(cell)
  if not is_plain(cell) or not str(cell).strip():
    raise errors.InputError(
        f"{where}: {column} is {cell!r:.40}; it must be a label")
  check_characters(where, column, str(cell))
  return str(cell).strip()


def check_characters(where, column, text):
  """Refuses half of a character that JSON has escaped in two."""
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise errors.InputError(
        f"{where}: {column} has {text[error.start]!r}, which is half of a "
        "character") from error


def _text(text):
  """Returns a text.

  Raises:
    TypeError: it is none.
  """
  if not isinstance(text, str):
    raise TypeError(text)
  return text


def _whole(number):
  """Returns a whole number, also one that is written as 3.0.

  Raises:
    ValueError: it is none.
  """
  if int(number) != float(number):
    raise ValueError(number)
  return int(number)


def _sorted(names):
  """Returns names in order, numbers by what they are."""
  names = sorted(names)  # "1" before "1.0", whatever order they came in.
  try:
    numbers = {name: float(name) for name in names}
  except ValueError:
    return tuple(names)
  if any(map(math.isnan, numbers.values())):
    return tuple(names)
  return tuple(sorted(names, key=numbers.get))


def listed(where, column, cell):
  """Returns a cell of words: a list, or words parted by spaces.

  Raises:
    InputError: what stands in a list is no word, and no number; see
      `_as_list`, too.
  """
  if isinstance(cell, str):
    check_characters(where, column, cell)
    found = _as_list(where, column, cell)
    # "[ 12 ]" is three words.
    if not found or not all(isinstance(word, str) for word in found):
      return cell.split()
    cell = found
  words = cell if isinstance(cell, list) else []
  for word in words:
    if not is_plain(word):
      raise errors.InputError(
          f"{where}: {column} has {word!r:.40}, which is no word")
    check_characters(where, column, str(word))
  return [str(word) for word in words]


def _as_list(where, column, cell):
  """Returns the JSON list that a text is, as in .jsonl; None: it is none.

  Raises:
    InputError: it is a list of quoted words, and not as JSON writes one:
      pandas writes that of a column of lists so.
  """
  cell = cell.strip()
  if not (cell.startswith("[") and cell.endswith("]")):
    return None
  try:
    return json.loads(cell)
  except ValueError as error:
    inner = cell[1:-1].strip()
    if inner[:1] in _QUOTES and inner[-1:] in _QUOTES:
      raise errors.InputError(
          f"{where}: {column} is {cell!r:.40}; a list is written as JSON, "
          'such as ["a", "b"]') from error
    return None  # A name may begin so.
