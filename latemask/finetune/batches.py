"""Windows of texts in batches of about equal length.

The windows of a batch are about equally long, and padded to one of a few
lengths.
"""

import numpy as np

from latemask.finetune.tasks import kinds

# Batches are cut from stretches of so many batches, sorted by length: there is
# little padding, and batches still differ from epoch to epoch.
_SORTED_BATCHES = 64


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


def shuffled(lengths_W, batch_size, seed, epoch):
  """Returns an epoch's batches as arrays of numbers of windows.

  They depend on the arguments alone. The one short batch, if there is one, is
  of the last stretch.
  """
  rng = np.random.default_rng((seed, epoch))
  order_W = rng.permutation(len(lengths_W))
  stretch = _SORTED_BATCHES * batch_size
  batches = []
  for start in range(0, len(order_W), stretch):
    batches += in_order(order_W[start:start + stretch], lengths_W, batch_size)
  return [batches[b] for b in rng.permutation(len(batches))]


def in_order(order_W, lengths_W, batch_size):
  """Returns windows as batches, by length."""
  order_W = order_W[np.argsort(lengths_W[order_W], kind="stable")]
  return np.split(order_W, range(batch_size, len(order_W), batch_size))


def collate(encoded, windows, batch_size, lengths):
  """Returns a batch to train on: (ids_BxS, second_BxS), targets, weights_B.

  Targets are those of `Encoded`, [B, ...]; tags are [B, S]. A short batch is
  filled with windows of weight 0.
  """
  rows = pad(encoded, windows, batch_size, lengths)
  if isinstance(encoded.targets, list):
    targets = np.full(rows[0].shape, kinds.NO_TARGET, np.int32)
    for place, window in enumerate(windows):
      targets[place, :encoded.lengths_W[window]] = encoded.targets[window]
  else:
    targets = np.zeros(
        (batch_size, *encoded.targets.shape[1:]), encoded.targets.dtype)
    targets[:len(windows)] = encoded.targets[windows]
  weights_B = (np.arange(batch_size) < len(windows)).astype(np.float32)
  return rows, targets, weights_B


def pad(encoded, windows, batch_size, lengths):
  """Returns (ids_BxS, which of them are of the second text, bool).

  S is the least of `lengths` that holds the longest window.
  """
  longest = encoded.lengths_W[windows].max()
  length = next(s for s in lengths if s >= longest)
  ids_BxS = np.full((batch_size, length), encoded.pad, np.int32)
  second_BxS = np.zeros((batch_size, length), bool)
  for place, window in enumerate(windows):
    ids_BxS[place, :encoded.lengths_W[window]] = encoded.ids[window]
    second_BxS[place, :encoded.lengths_W[window]] = encoded.types[window]
  return ids_BxS, second_BxS
