"""How many tokens of each kind there are: counts, before anything runs.

The counts of a row follow from its number of tokens alone, so that all shapes
are static and the FLOPs of a step are known ahead.
"""

import dataclasses

import numpy as np

from latemask.data.tokenizers import word_starts
from latemask import errors
from latemask.masking import units

# What evaluation masks depend on: the row alone, and then eval.rates hide
# single tokens without noise; or the run's seed, unit and noise, too.
EVAL_MASKS = dict.fromkeys(("fixed", "seeded"))
# Kinds of a token, in the order in which the selected ones are dealt out.
(SLOT, RANDOM, SAME, GONE, EXTRA_RANDOM, _EXTRA_SAME, _KEPT) = range(7)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """The static part of a masking rule.

  Fields:
    length: L.
    vocab_size: random ids are drawn from the ordinary ids below it.
    unit: function (key, ids_L, plan) -> bool_L, where units start.
    span_length: mean tokens of a span.
    max_span_length: no span is longer.
    word_start_V: bool, the id starts a word.
    selected_N: tokens selected of a row of n = 0..L tokens.
    bounds_MxN: of m selected tokens in random order, where each kind ends.
  """

  length: int
  vocab_size: int
  unit: object
  span_length: float
  max_span_length: int
  word_start_V: np.ndarray
  selected_N: np.ndarray
  bounds_MxN: np.ndarray

  @property
  def _counts_MxN(self):
    """Tokens of each kind, of m selected ones."""
    return np.diff(self.bounds_MxN, prepend=0, axis=1)

  @property
  def num_slots(self):
    """Q, [MASK] slots a row; rounding may give a shorter row one more."""
    return int(self._counts_MxN[:, SLOT].max())

  @property
  def num_corrupted(self):
    """C, targets that stay in the encoder as random or same ids."""
    return int((self._counts_MxN[:, RANDOM] + self._counts_MxN[:, SAME]
                ).max())

  @property
  def has_random(self):
    """Whether random ids are drawn at all."""
    return bool(self._counts_MxN[:, [RANDOM, EXTRA_RANDOM]].any())

  @property
  def num_targets(self):
    """T, tokens predicted a row."""
    return self.num_slots + self.num_corrupted

  @property
  def num_kept(self):
    """K, tokens that the encoder reads."""
    counts_NxN = self._counts_MxN[self.selected_N]
    return int((np.arange(self.length + 1) - counts_NxN[:, SLOT]
                - counts_NxN[:, GONE]).max())


def make_plan(config, vocab_size, word_start_V=None, rate=None):
  """Builds the plan of `config.masking` for rows of `config.data.length`.

  Args:
    vocab_size: ids that exist.
    word_start_V: bool table; needed for unit "word" only.
    rate: one of `config.eval.rates` in the place of `config.masking.rate`;
      all selected tokens are then predicted, and unless `eval.masks` is
      seeded they are single ones and all become slots: a task that runs of
      any unit and noise share.

  Raises:
    InputError: a rate outside its range or an unknown unit.
  """
  m = config.masking
  length = config.data.length
  errors.choose(EVAL_MASKS, config.eval.masks, "eval.masks")
  key = "masking.rate" if rate is None else "eval.rates:"
  predict_rate = m.predict_rate if rate is None else None
  if rate is not None and config.eval.masks == "fixed":
    m = m.copy_and_resolve_references()
    with m.unlocked():
      m.update(unit="token", random_rate=0.0, same_rate=0.0)
  rate = m.rate if rate is None else rate
  if not 0 < rate < 1:
    raise errors.InputError(
        f"{key} {rate} is outside (0, 1); 0.5 hides half of the tokens")
  selected_N = np.round(rate * np.arange(length + 1)).astype(np.int32)
  if not 1 <= selected_N[-1] <= length - 2:
    raise errors.InputError(
        f"{key} {rate} hides {selected_N[-1]} of data.length {length} "
        f"tokens; at least 1 must be hidden and 2 must stay")
  if predict_rate is not None and not 0 < predict_rate <= rate:
    raise errors.InputError(
        f"masking.predict_rate is {predict_rate}; it must lie in (0, "
        f"masking.rate {rate}], or be None to predict all that is masked")
  for key in ("random_rate", "same_rate"):
    if not 0 <= m[key] <= 1:
      raise errors.InputError(
          f"masking.{key} is {m[key]}; it is a share of the masked tokens, "
          "from 0 to 1")
  errors.choose(word_starts.WORD_STARTS, m.word_starts, "masking.word_starts")
  if m.random_rate + m.same_rate > 1:
    raise errors.InputError(
        f"masking.random_rate {m.random_rate} and masking.same_rate "
        f"{m.same_rate} add up to more than 1")
  if m.span_length < 1 or m.max_span_length < 1:
    raise errors.InputError(
        f"masking.span_length {m.span_length} and masking.max_span_length "
        f"{m.max_span_length} must be at least 1")
  selected_M = np.arange(selected_N[-1] + 1)
  predicted_M = selected_M if predict_rate is None else np.minimum(
      selected_M, np.round(selected_M * (predict_rate / rate)))
  if not predicted_M[-1]:
    raise errors.InputError(
        f"masking.predict_rate {predict_rate} predicts none of data.length "
        f"{length} tokens")
  random_M = np.round(m.random_rate * selected_M)
  same_M = np.minimum(np.round(m.same_rate * selected_M),
                      selected_M - random_M)
  # The targets get their share of the noise, rounded; what is left of it
  # falls on the selected tokens that are no targets.
  target_random_M = np.minimum(random_M, np.round(m.random_rate * predicted_M))
  target_same_M = np.minimum(same_M, np.round(m.same_rate * predicted_M))
  target_same_M = np.minimum(target_same_M, predicted_M - target_random_M)
  if predict_rate is None:
    target_random_M, target_same_M = random_M, same_M
  gone_M = np.maximum(0, (selected_M - random_M - same_M) - (
      predicted_M - target_random_M - target_same_M))
  counts_MxN = np.stack([
      predicted_M - target_random_M - target_same_M, target_random_M,
      target_same_M, gone_M, random_M - target_random_M], axis=1)
  counts_MxN = np.concatenate(
      [counts_MxN, (selected_M - counts_MxN.sum(1))[:, None]], axis=1)
  if word_start_V is None:
    word_start_V = np.ones(vocab_size, bool)
  return Plan(
      length=length, vocab_size=vocab_size,
      unit=errors.choose(units.UNITS, m.unit, "masking.unit"),
      span_length=m.span_length, max_span_length=m.max_span_length,
      word_start_V=word_start_V, selected_N=selected_N,
      bounds_MxN=np.cumsum(counts_MxN, axis=1).astype(np.int32))
