"""Pseudo-log-likelihoods: what a model makes of a text, token by token.

The score of a text is the sum over its ordinary tokens of log p(token | all
others), each hidden in turn (Salazar et al. 2020, arXiv 1910.14659). The mask
enters at the insertion layer, as in training. `within_word` also hides the
later pieces of the token's word, so that these do not give it away
(PLL-word-l2r, Kauf and Ivanova 2023, arXiv 2305.10588).

A row of a batch is a text with one token hidden: rows of many texts stand in
one batch, of about equal length. All is computed in float32, whatever the
model was trained in: a score is the same whatever stands beside it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from latemask import errors
from latemask.finetune import batches as batches_lib
from latemask.masking import masked as masked_lib
from latemask.model import encoder
from latemask.predict import fill_mask as fill_mask_lib
from latemask.predict import length as length_lib

# Of `within_word`: whatever a run had, so that models can be compared.
_WORD_STARTS = "scripts"


@dataclasses.dataclass(frozen=True)
class Scored:
  """The score of a text.

  Fields:
    ids_S: its ordinary tokens, without <s>, </s> and <unk>.
    log_probabilities_S: float32, of each given all others, in nats.
  """

  ids_S: np.ndarray
  log_probabilities_S: np.ndarray

  @property
  def score(self):
    """The pseudo-log-likelihood, in nats."""
    return float(self.log_probabilities_S.sum(dtype=np.float64))


class Scorer:
  """A model ready to score texts."""

  def __init__(self, loaded, max_length=None, within_word=False):
    """Takes a `pretrained.Pretrained`.

    Args:
      max_length: tokens of the longest text; None for those of the rows that
        it was trained on.
      within_word: hide the later pieces of a token's word, too.

    Raises:
      InputError: it has no head, or not so many positions; or its tokenizer
        does not say where words begin.
    """
    self._limit = length_lib.longest(loaded, max_length)
    self._tokenizer = loaded.tokenizer
    self._params = jax.tree.map(jnp.asarray, loaded.params)
    model = encoder.LateMaskModel(
        dataclasses.replace(loaded.config, dtype="float32"))

    @jax.jit
    def log_probabilities(params, masked, ids_B):
      # The token itself is the first slot: those behind it are of its word.
      hidden_BxD = model.apply({"params": params}, masked)[:, :1]
      logits_BxV = fill_mask_lib.logits(
          params, hidden_BxD, loaded.tokenizer.vocab_size)[:, 0]
      return jnp.take_along_axis(
          jax.nn.log_softmax(logits_BxV), ids_B[:, None], axis=1)[:, 0]
    self._log_probabilities = log_probabilities
    self._starts_V = None
    if within_word:
      if loaded.tokenizer.spaces_are_behind or not (
          loaded.tokenizer.marks_words(_WORD_STARTS)):
        raise errors.InputError(
            "--within_word needs a tokenizer whose words begin with a space; "
            "in this one they do not")
      self._starts_V = loaded.tokenizer.word_start_V(_WORD_STARTS)

  def ids(self, text, truncate=False):
    """Returns the ids of a text, special tokens included.

    Raises:
      InputError: it has no ordinary token, or none is left of it; or it is
        too long and `truncate` is False.
    """
    whole, = self._tokenizer.encode([text])
    length_lib.check(len(whole) + 2, self._limit, truncate)
    ids = whole[:self._limit - 2]
    if not len(self._ordinary(ids)):
      raise errors.InputError("there is no text" if not text.strip() else (
          f"no ordinary token in {text!r:.60}" + (
              f", cut to {self._limit} tokens" if len(ids) < len(whole)
              else "")))
    return self._tokenizer.template.row([ids])[0]

  def score(self, texts, batch_size=64, progress=None):
    """Returns a `Scored` for each text.

    Args:
      texts: of `ids`. Equal ones are computed once, so they score equally.
      batch_size: rows that are computed at once.
      progress: title of a bar; None for none.
    """
    index, unique = {}, []
    for ids_S in texts:
      if index.setdefault(ids_S.tobytes(), len(unique)) == len(unique):
        unique.append(ids_S)
    scored = self._score(unique, batch_size, progress)
    return [scored[index[ids_S.tobytes()]] for ids_S in texts]

  def _score(self, texts, batch_size, progress):
    """Scores texts that all differ."""
    places = [self._ordinary(ids_S) for ids_S in texts]
    # Row of a batch: number of the text, first and one behind the last place.
    rows_Rx3 = np.array([
        (number, place, self._end(ids_S, place))
        for number, (ids_S, places_N) in enumerate(zip(texts, places))
        for place in places_N])
    found_R = np.zeros(len(rows_Rx3), np.float32)
    lengths_R = np.array([len(ids_S) for ids_S in texts])[rows_Rx3[:, 0]]
    slots_R = 2 ** np.ceil(np.log2(rows_Rx3[:, 2] - rows_Rx3[:, 1])).astype(int)
    lengths = batches_lib.buckets(self._limit, lengths_R.max())
    with tqdm.tqdm(total=len(rows_Rx3), desc=progress, unit=" tokens",
                   disable=None if progress else True) as bar:
      for slots in np.unique(slots_R):
        for rows in batches_lib.in_order(
            np.flatnonzero(slots_R == slots), lengths_R, batch_size):
          found_R[rows] = self._batch(
              texts, rows_Rx3[rows], batch_size,
              next(s for s in lengths if s >= lengths_R[rows].max()), slots)
          bar.update(len(rows))
    ends = np.cumsum([len(places_N) for places_N in places])
    return [Scored(ids_S[places_N], log_probabilities_S)
            for ids_S, places_N, log_probabilities_S in zip(
                texts, places, np.split(found_R, ends[:-1]))]

  def _end(self, ids_S, place):
    """Returns the place behind the last token that is hidden with a token."""
    end = place + 1
    while self._starts_V is not None and not self._starts_V[ids_S[end]]:
      end += 1
    return end

  def _batch(self, texts, rows_Bx3, batch_size, length, slots):
    """Returns the log-probabilities of the hidden tokens of some rows."""
    masked = []
    for number, first, end in rows_Bx3:
      ids_S = texts[number].copy()
      ids_S[first:end] = self._tokenizer.specials.mask
      masked.append(masked_lib.with_masks(
          ids_S, self._tokenizer.specials, length, slots))
    # A short batch is filled up: one shape, one compile.
    masked += masked[:1] * (batch_size - len(masked))
    ids_B = np.array([texts[number][first] for number, first, _ in rows_Bx3])
    found_B = self._log_probabilities(
        self._params, jax.tree.map(lambda *a: np.concatenate(a), *masked),
        np.pad(ids_B, (0, batch_size - len(ids_B))))
    return np.asarray(found_B)[:len(ids_B)]

  def _ordinary(self, ids_S):
    """Returns the places of the tokens that can be hidden."""
    return np.flatnonzero(~self._tokenizer.is_special(ids_S))


def share_of_pairs(good, bad):
  """Returns how often the good text of a pair scores higher.

  Args:
    good, bad: a `Scored` for each pair.

  Returns:
    (share, its binomial standard error, number of pairs that score equally;
    these count as not higher).
  """
  good_P, bad_P = (np.array([s.score for s in side]) for side in (good, bad))
  share = np.mean(good_P > bad_P)
  return (float(share), float(np.sqrt(share * (1 - share) / len(good_P))),
          int(np.sum(good_P == bad_P)))
