"""The special tokens of a vocabulary, and which of its ids no text has.

Published vocabularies have them at ids of their own ([MASK] 103, <mask>
50264), so whoever needs one is given the `Specials` of the tokenizer.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Specials:
  """The ids of five roles; two of them may share an id, but for bos and eos.

  Fields:
    bos: begins a document, and is what a classifier reads (<s>, [CLS]).
    pad: fills a row up.
    eos: ends a document (</s>, [SEP]).
    unk: stands for what has no ids.
    mask: stands for a hidden token.
  """

  bos: int
  pad: int
  eos: int
  unk: int
  mask: int


# Of a tokenizer that is trained here: names in the order of ids; the first
# four as in RoBERTa.
NAMES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
TRAINED = Specials(*range(len(NAMES)))


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
  """What masking and training know of a tokenizer.

  Fields:
    size: V, ids that exist.
    specials: the `Specials`.
    special_N: ascending ids that are never selected and never random: special
      tokens, and ids without a token.
    word_start_V: bool, the id begins a word.
  """

  size: int
  specials: Specials
  special_N: np.ndarray
  word_start_V: np.ndarray

  @property
  def num_ordinary(self):
    """Ids that text has."""
    return self.size - len(self.special_N)

  def is_special(self, ids):
    """Returns which of some ids are special; NumPy or JAX, any shape."""
    return is_special(ids, self.special_N)

  def ordinary(self, numbers):
    """Returns the n-th ordinary id of each n below `num_ordinary`."""
    before_N = self.special_N - np.arange(len(self.special_N))
    return numbers + (_last(before_N, numbers) <= numbers[..., None]).sum(-1)


def is_special(ids, special_N):
  """Returns which of some ids are among the special ones."""
  # Compared, not looked up: they are few, and a table would be gathered from.
  return (ids[..., None] == _last(special_N, ids)).any(-1)


def _last(values_N, like):
  return values_N.reshape((1,) * like.ndim + (-1,))


def trained(size):
  """Returns the vocabulary of a tokenizer that is still to be trained."""
  return Vocabulary(
      size, TRAINED, np.arange(len(NAMES)), np.ones(size, bool))
