"""What every tokenizer has, whichever library is behind it.

Second stop of the flow, between the sources and the packer. kinds.py loads,
trains and saves one; sentencepiece.py and huggingface.py are the two kinds.
"""

import abc
import dataclasses
import functools

import numpy as np

from latemask.data.tokenizers import specials as specials_lib
from latemask.data.tokenizers import word_starts
from latemask import errors

_BYTES = 256


@dataclasses.dataclass(frozen=True)
class Template:
  """How one text, or two, become a row.

  Fields:
    single, pair: in order, (id, type) of a special token, and (None, type)
      where a text goes. The type says whether it belongs to the second text.
  """

  single: tuple
  pair: tuple

  def _parts(self, num_texts):
    return self.single if num_texts == 1 else self.pair

  def check_pairs(self):
    """Checks that two texts become one document.

    Raises:
      InputError: a row of two has no beginning, or two.
    """
    (bos, _), *_ = self.single
    first, *others = [index for index, _ in self.pair]
    if first != bos or bos in others:
      raise errors.InputError(
          "its post-processor does not put two texts behind one beginning, as "
          "rows of pairs here have them")

  def num_specials(self, num_texts):
    """Returns how many ids a row has besides those of its texts."""
    return len(self._parts(num_texts)) - num_texts

  def row(self, texts):
    """Returns (ids, types) of the ids of one text or two, int32 arrays."""
    left, ids, types = iter(texts), [], []
    for index, kind in self._parts(len(texts)):
      part = next(left) if index is None else [index]
      ids.append(np.asarray(part, np.int32))
      types.append(np.full(len(part), kind, np.int32))
    return np.concatenate(ids), np.concatenate(types)

  def starts(self, lengths):
    """Returns where in a row each of its texts begins, of so many ids."""
    left, place, found = iter(lengths), 0, []
    for index, _ in self._parts(len(lengths)):
      if index is None:
        found.append(place)
      place += next(left) if index is None else 1
    return found


def roberta_template(specials):
  """Returns `<s> a </s>` and `<s> a </s></s> b </s>`, all of one type."""
  bos, eos, text = (specials.bos, 0), (specials.eos, 0), (None, 0)
  return Template((bos, text, eos), (bos, text, eos, eos, text, eos))


def check_vocab_size(vocab_size):
  """Checks that a vocabulary to be trained holds special tokens and bytes.

  Raises:
    InputError: it does not.
  """
  least = len(specials_lib.NAMES) + _BYTES + 1
  if vocab_size < least:
    raise errors.InputError(
        f"data.vocab_size is {vocab_size}; special tokens and bytes alone "
        f"take {least - 1}, so at least {least} is needed")


def words_at(places, words, spaces_are_behind=False):
  """Returns the number of the word of each id.

  Args:
    places: where each id's text ends in the words joined by spaces, ascending:
      a piece may be, or have, the space before its word. Where it has the one
      behind: where it begins.
    words: these.
    spaces_are_behind: which of the two it is.
  """
  last = np.cumsum([len(word) + 1 for word in words]) - 1
  side = "right" if spaces_are_behind else "left"
  return np.searchsorted(last + spaces_are_behind, places, side).tolist()


class Tokenizer(abc.ABC):
  """Texts -> ids, and what masking has to know of the ids.

  Attributes:
    files: {name: bytes}, all that it is made of.
    digest: 64 hexadecimal digits; equal ones are equal tokenizers.
    vocab_size: number of ids, special ones included.
    specials: the `Specials`.
    special_N: see `specials.Vocabulary`.
    pieces: the ids as text; \u2581 stands for a space, <0x0A> for a byte that
      is no character.
    is_no_word_V: bool, the id is special or a single byte.
    spaces_are_behind: whether a piece that ends a word has the space, not one
      that begins.
    names: {role: special token}.
    mask_token: the text that stands for a hidden token.
    template: the `Template`.
  """

  spaces_are_behind = False

  @abc.abstractmethod
  def encode(self, texts):
    """Returns one int32 id array per text, without special tokens.

    Names of special tokens in a text are text: no special id comes of them.
    """

  @abc.abstractmethod
  def encode_masked(self, text):
    """Returns the ids of a text in which `mask_token` hides a token.

    A list of ints without special tokens but the mask. What stands around it
    is cut up as in running text.
    """

  @abc.abstractmethod
  def encode_with_places(self, text):
    """Returns (ids of a text, where in it each begins, where it ends).

    Lists; a piece may take in the space before it.
    """

  def encode_words(self, words):
    """Returns (ids, the number of each id's word) of words of one text.

    They are cut up as they stand in running text, with spaces between: a word
    alone and behind a space may be other pieces.
    """
    ids, begins, ends = self.encode_with_places(" ".join(words))
    return ids, words_at(begins if self.spaces_are_behind else ends, words,
                         self.spaces_are_behind)

  @abc.abstractmethod
  def decode(self, ids):
    """Returns the text of a sequence of ids; special tokens vanish."""

  @functools.cached_property
  def _is_special_V(self):
    return specials_lib.is_special(
        np.arange(self.vocab_size), self.special_N)

  @property
  def first_word_differs(self):
    """Whether a word that begins a text is not cut up as behind a space."""
    alone, behind = self.encode(["time", "the time"])
    return behind[-len(alone):].tolist() != alone.tolist()

  def is_special(self, ids):
    """Returns which of some ids, a NumPy array, are special."""
    return self._is_special_V[ids]

  def word_start_V(self, rule):
    """Returns bool [V]: the id begins a word. Special tokens always do.

    Args:
      rule: a row of `WORD_STARTS`.
    """
    begins = word_starts.WORD_STARTS[rule]
    return self._is_special_V | np.array(
        [bool(piece) and begins(piece) for piece in self.pieces])

  def marks_words(self, rule):
    """Returns whether any ordinary id begins a word; see `word_start_V`."""
    return bool((self.word_start_V(rule) & ~self._is_special_V).any())

  def vocabulary(self, rule):
    """Returns the `specials.Vocabulary`; `rule` as in `word_start_V`."""
    return specials_lib.Vocabulary(
        self.vocab_size, self.specials, self.special_N,
        self.word_start_V(rule))
