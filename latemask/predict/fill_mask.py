"""The words behind each mask of a text, with their probabilities.

The masks enter at the insertion layer, as in training.
"""

import jax
import jax.numpy as jnp
import numpy as np

from latemask.data.tokenizers import word_starts
from latemask import errors
from latemask.masking import masked as masked_lib
from latemask.model import encoder
from latemask.model import parts
from latemask.model import products
from latemask.model import word_embedding
from latemask.predict import length
from latemask.predict import texts

# Of a word that goes on in the piece beside it; and of a space alone.
JOINED, SPACE = "##", "\u2423"
# Lengths, and numbers of masks, are rounded up to these: few compiles.
_LENGTH_MULTIPLE = 32
_MASKS_MULTIPLE = 4


def logits(params, hidden_BxTxD, num_words):
  """Returns those of the tokenizer's words, float32 [B, T, words].

  Args:
    hidden_BxTxD: what the head gives.
    num_words: ids beyond the tokenizer's have no word.
  """
  logits_BxTxV = products.einsum(
      "btd,vd->btv", hidden_BxTxD,
      word_embedding.output(params).astype(hidden_BxTxD.dtype),
      preferred_element_type=jnp.float32)
  return (logits_BxTxV + params["output_bias"][None, None])[..., :num_words]


class Filler:
  """A model ready to fill masks."""

  def __init__(self, loaded, max_length=None):
    """Takes a `pretrained.Pretrained`.

    Args:
      max_length: tokens of the longest text; None for those of the rows that
        it was trained on.

    Raises:
      InputError: it has no head, or not so many positions.
    """
    self._limit = length.longest(loaded, max_length)
    self._tokenizer = loaded.tokenizer
    self._params = jax.tree.map(jnp.asarray, loaded.params)
    self._model = encoder.LateMaskModel(loaded.config)
    self._logits = jax.jit(self._apply)
    self.mask = loaded.tokenizer.mask_token

  def _apply(self, params, masked):
    hidden_BxTxD = self._model.apply({"params": params}, masked)
    return jax.nn.softmax(
        logits(params, hidden_BxTxD, self._tokenizer.vocab_size))

  def ids(self, text, truncate=False):
    """Returns the ids of a text, masks and special tokens included.

    Raises:
      InputError: no mask, or too long and `truncate` is False.
    """
    texts.check(text)
    if self.mask not in text:
      raise errors.InputError(f"no {self.mask} in {text!r}")
    special = self._tokenizer.specials
    ids = [special.bos, *self._tokenizer.encode_masked(text)]
    limit = self._limit
    length.check(len(ids) + 1, limit, truncate)
    ids = ids[:limit - 1]
    if special.mask not in ids:
      raise errors.InputError(
          f"truncation to {limit} tokens cut every {self.mask}")
    return np.array(ids + [special.eos], np.int32)

  def fill(self, text, top=5, truncate=False):
    """Returns, for each mask, the `top` best [(word, probability)].

    Raises:
      InputError: see `ids`.
    """
    ids_S = self.ids(text, truncate)
    num_masks = np.sum(ids_S == self._tokenizer.specials.mask)
    masked = masked_lib.with_masks(
        ids_S, self._tokenizer.specials,
        num_kept=parts.padded(len(ids_S), _LENGTH_MULTIPLE),
        num_slots=parts.padded(num_masks, _MASKS_MULTIPLE))
    probabilities_QxV = self.probabilities(masked)[:num_masks]
    best_QxN = np.argsort(-probabilities_QxV, axis=1, kind="stable")[:, :top]
    return [[(self.word(i), float(probabilities_V[i])) for i in best_N]
            for probabilities_V, best_N in zip(probabilities_QxV, best_QxN)]

  def probabilities(self, masked):
    """Returns those of all words for the targets of the first row, [T, V].

    Special tokens and single bytes have none.
    """
    probabilities_TxV = np.array(self._logits(self._params, masked))[0]
    probabilities_TxV[:, self._tokenizer.is_no_word_V] = 0
    return probabilities_TxV

  def word(self, index):
    """Returns a piece as text, with the marks of which `legend` tells."""
    piece = self._tokenizer.pieces[index]
    word = piece.replace(word_starts.SPACE, " ").strip()
    if not word:
      return SPACE
    if self._tokenizer.spaces_are_behind:
      return word if piece.endswith(word_starts.SPACE) else word + JOINED
    return word if piece.startswith(word_starts.SPACE) else JOINED + word


def legend(words, mask):
  """Yields what the marks mean that stand in some words, a line each.

  Args:
    mask: the text that stands for a hidden word.
  """
  if any(word.startswith(JOINED) for word in words):
    yield (f"{JOINED} in front: no space before it (un{mask} and {JOINED}less "
           "make unless)")
  if any(word.endswith(JOINED) for word in words):
    yield (f"{JOINED} at the end: no space behind it ({mask}less and "
           f"un{JOINED} make unless)")
  if SPACE in words:
    yield (f"{SPACE}: a space alone; the word behind it takes several pieces, "
           "and this guess does not name it")
