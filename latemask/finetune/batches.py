"""Texts of a task as ids, in batches of about equal length.

A row is what the tokenizer's template makes of one text or two, such as
`<s> a </s>` and `<s> a </s></s> b </s>`. The rows of a batch are about
equally long, and padded to one of a few lengths.
"""

import dataclasses

import numpy as np
# Batches are cut from windows of so many batches, sorted by length: there is
# little padding, and batches still differ from epoch to epoch.
_SORTED_BATCHES = 64


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A split as ids.

  Fields:
    ids: an int32 array a row.
    types: of each id, see `tokenizer.Template`.
    pad: the id that fills rows up.
    lengths_R: their lengths.
    labels_R: as in `Rows`.
    num_cut: rows that were longer than allowed.
  """

  ids: list[np.ndarray]
  types: list[np.ndarray]
  pad: int
  lengths_R: np.ndarray
  labels_R: np.ndarray | None
  num_cut: int

  def __len__(self):
    return len(self.ids)


def encode(tokenizer, rows, max_length):
  """Returns `Encoded`; where two texts are too long, the longer one is cut."""
  columns = [tokenizer.encode(column) for column in rows.texts]
  template = tokenizer.template
  found, num_cut = [], 0
  for texts in zip(*columns):
    kept = _cut(texts, max_length - template.num_specials(len(texts)))
    num_cut += sum(map(len, kept)) < sum(map(len, texts))
    found.append(template.row(kept))
  ids, types = ([row[i] for row in found] for i in range(2))
  return Encoded(ids, types, tokenizer.specials.pad,
                 np.array([len(i) for i in ids]), rows.labels_R, num_cut)


def min_length(tokenizer):
  """Returns the least `max_length`: a pair needs a token of either text."""
  return tokenizer.template.num_specials(2) + 2


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


def buckets(max_length, longest):
  """Returns the lengths that rows are padded to, ascending.

  Args:
    max_length: none is longer.
    longest: the longest row; more are not needed.
  """
  # 16, 24, 32, 48, ...: each costs a compile, a third saved is worth one.
  steps = [base * 2**power for power in range(
      max_length.bit_length()) for base in (16, 24)]
  lengths = [s for s in steps if s < max_length] + [max_length]
  return [s for s in lengths if s < longest] + [
      next(s for s in lengths if s >= longest)]


def shuffled(lengths_R, batch_size, seed, epoch):
  """Returns an epoch's batches as arrays of row numbers.

  They depend on the arguments alone. The one short batch, if there is one, is
  of the last window.
  """
  rng = np.random.default_rng((seed, epoch))
  order_R = rng.permutation(len(lengths_R))
  window = _SORTED_BATCHES * batch_size
  batches = []
  for start in range(0, len(order_R), window):
    batches += in_order(order_R[start:start + window], lengths_R, batch_size)
  return [batches[b] for b in rng.permutation(len(batches))]


def in_order(order_R, lengths_R, batch_size):
  """Returns the rows as batches, by length."""
  order_R = order_R[np.argsort(lengths_R[order_R], kind="stable")]
  return np.split(order_R, range(batch_size, len(order_R), batch_size))


def collate(encoded, rows, batch_size, lengths):
  """Returns a batch to train on: (ids_BxS, second_BxS), labels_B, weights_B.

  A short batch is filled with rows of weight 0.
  """
  labels_B = np.zeros(batch_size, encoded.labels_R.dtype)
  labels_B[:len(rows)] = encoded.labels_R[rows]
  weights_B = (np.arange(batch_size) < len(rows)).astype(np.float32)
  return pad(encoded, rows, batch_size, lengths), labels_B, weights_B


def pad(encoded, rows, batch_size, lengths):
  """Returns (ids_BxS, which of them are of the second text, bool).

  S is the least of `lengths` that holds the longest row.
  """
  longest = encoded.lengths_R[rows].max()
  length = next(s for s in lengths if s >= longest)
  ids_BxS = np.full((batch_size, length), encoded.pad, np.int32)
  second_BxS = np.zeros((batch_size, length), bool)
  for place, row in enumerate(rows):
    ids_BxS[place, :encoded.lengths_R[row]] = encoded.ids[row]
    second_BxS[place, :encoded.lengths_R[row]] = encoded.types[row]
  return ids_BxS, second_BxS
