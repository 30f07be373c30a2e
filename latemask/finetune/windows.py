"""Texts of a task as ids: each a row, or several windows of a long one.

A window is what the tokenizer's template makes of one text or two, such as
`<s> a </s>` and `<s> a </s></s> b </s>`. A text that is too long is cut; or,
with a stride, becomes windows which overlap by so many tokens.
"""

import dataclasses

import numpy as np

from latemask import errors
from latemask.finetune.tasks import kinds
from latemask.finetune.tasks import task as task_lib


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A split as ids. W windows, in the order of the rows.

  Fields:
    rows: what they come from.
    ids: an int32 array a window.
    types: of each id, see `tokenizer.Template`.
    pad: the id that fills windows up.
    lengths_W: their lengths.
    row_W: the row that each is of.
    targets: of each window what its loss reads, an array [W, ...]; of tags
      an int32 array a window; None where labels are secret.
    spots: of each window an int32 array of its tokens that count: (place in
      the window, number of the word) for tags; for spans (place, first
      character in the context, the one behind). None for other kinds.
    num_cut: rows that were longer than allowed.
  """

  rows: task_lib.Rows
  ids: list[np.ndarray]
  types: list[np.ndarray]
  pad: int
  lengths_W: np.ndarray
  row_W: np.ndarray
  targets: np.ndarray | list | None
  spots: list | None
  num_cut: int

  def __len__(self):
    return len(self.ids)


def encode(tokenizer, task, rows, max_length):
  """Returns `Encoded`.

  Args:
    task: its `stride` is the tokens that two windows of a text share; None: no
      windows, where two texts are too long, the longer one is cut.

  Raises:
    InputError: windows of a text would not move on, or hold nothing of it;
      see `Template.check_pairs`, too.
  """
  texts_of, spots_of, target_of = _BY_KIND.get(task.kind, _OF_TEXTS)
  template = tokenizer.template
  if len(rows.texts) == 2:
    template.check_pairs()
  check_length(tokenizer, len(rows.texts), max_length)
  found, row_W, spots, num_cut = [], [], [], 0
  for number, (texts, marks) in enumerate(texts_of(tokenizer, rows)):
    room = max_length - template.num_specials(len(texts))
    is_cut = False
    # Of the last text windows hold all, if there are any.
    once = texts if task.stride is None else texts[:-1]
    for kept, first in _windows(texts, room, task.stride):
      is_cut |= any(len(some) < len(text) for some, text in zip(kept, once))
      place = template.starts([len(text) for text in kept])[-1]
      found.append(template.row(kept))
      row_W.append(number)
      spots.append(spots_of(marks, first, len(kept[-1]), place))
    num_cut += is_cut
  ids, types = ([row[i] for row in found] for i in range(2))
  return Encoded(
      rows, ids, types, tokenizer.specials.pad,
      np.array([len(i) for i in ids]), np.array(row_W, np.int32),
      None if rows.labels is None else target_of(
          task, rows, row_W, spots, ids),
      spots if task.kind in _BY_KIND else None, num_cut)


def check_length(tokenizer, num_texts, max_length, called="max_length"):
  """Raises InputError where a window has no room for a token of each text."""
  least = min_length(tokenizer, num_texts)
  if max_length < least:
    raise errors.InputError(
        f"{called} is {max_length}; {('a text', 'a pair')[num_texts - 1]} "
        f"takes {least} at least")


def min_length(tokenizer, num_texts=2):
  """Returns the least `max_length`: a pair needs a token of either text."""
  return tokenizer.template.num_specials(num_texts) + num_texts


def _windows(texts, room, stride):
  """Yields (texts that fit, first token of the last of them)."""
  if stride is None or sum(map(len, texts)) <= room:
    yield _cut(texts, room), 0
    return
  # The other of two texts is whole in each window, up to half of the room, or
  # to what a short last one leaves.
  *others, long = texts
  others = [other[:max(room // 2, room - len(long))] for other in others]
  size = room - sum(map(len, others))
  if len(long) <= size:
    yield (*others, long), 0
    return
  if stride >= size:
    raise errors.InputError(
        f"data.stride is {stride}, and a window has room for {size} tokens of "
        "a long text: the next one would not move on")
  for first in range(0, max(len(long) - stride, 1), size - stride):
    yield (*others, long[first:first + size]), first


def _cut(texts, room):
  """Cuts a text, or the longer of two first, to so many tokens in all.

  As stock's `longest_first`: of an odd token the longer text, or the second of
  two as long, has it.
  """
  if len(texts) == 1:
    return [texts[0][:room]]
  first, second = texts
  short = min(len(first), len(second), room // 2)
  first_room = room - short if len(first) > len(second) else short
  return [first[:first_room], second[:room - first_room]]


# What kinds differ in, as three functions each:
#   (tokenizer, rows) -> yields (texts as ids, marks of the last one's tokens)
#   (marks, first token in the window, how many, place of it) -> spots
#   (task, rows, row_W, spots, ids) -> targets


def _texts(tokenizer, rows):
  for texts in zip(*(tokenizer.encode(column) for column in rows.texts)):
    yield texts, None


def _no_spots(marks, first, size, place):
  del marks, first, size, place


def _labels(task, rows, row_W, spots, ids):
  del spots, ids
  labels = rows.labels[np.array(row_W, int)]
  if task.kind == "number":
    labels = (labels - np.float32(task.shift)) / np.float32(task.scale)
  return labels


def _tagged(tokenizer, rows):
  for words in rows.texts[0]:
    ids, words = tokenizer.encode_words(words)
    words = np.array(words, np.int32)
    # The first token of a word stands for it, as in stock.
    is_first = np.diff(words, prepend=-1) > 0
    yield (ids,), np.where(is_first, words, -1)[:, None]


def _questions(tokenizer, rows):
  questions, contexts = rows.texts
  for question, context in zip(tokenizer.encode(questions), contexts):
    ids, *places = tokenizer.encode_with_places(context)
    yield (question, ids), np.array(places, np.int32).reshape(2, -1).T


def _spots(marks, first, size, place):
  spots = marks[first:first + size]
  spots = np.insert(spots, 0, place + np.arange(len(spots)), axis=1)
  return spots[spots[:, 1] >= 0]


def _tags(task, rows, row_W, spots, ids):
  del task
  targets = [np.full(len(window), kinds.NO_TARGET, np.int32) for window in ids]
  for target, row, found in zip(targets, row_W, spots):
    target[found[:, 0]] = rows.labels[row][found[:, 1]]
  return targets


def _ends(task, rows, row_W, spots, ids):
  """Returns the tokens in which answers begin and end, int32 [W, 2].

  The first token of a window, where its text does not hold the answer.
  """
  del task, ids
  targets_Wx2 = np.zeros((len(row_W), 2), np.int32)
  for target, row, found in zip(targets_Wx2, row_W, spots):
    if not rows.labels[row] or not len(found):
      continue
    answer, = rows.labels[row][:1]  # Of several the first, as in stock.
    stop = answer.start + len(answer.text)
    if found[0, 1] <= answer.start and stop <= found[-1, 2]:
      # The token that holds the first character, and that of the last.
      target[:] = (
          found[np.searchsorted(found[:, 2], answer.start, side="right"), 0],
          found[np.searchsorted(found[:, 2], stop - 1, side="right"), 0])
  return targets_Wx2


_OF_TEXTS = _texts, _no_spots, _labels
_BY_KIND = {"tokens": (_tagged, _spots, _tags),
            "span": (_questions, _spots, _ends)}
