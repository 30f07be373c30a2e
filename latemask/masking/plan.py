"""How many tokens of each kind there are: counts, before anything runs.

The counts of a row follow from its number of tokens alone, so that all shapes
are static and the FLOPs of a step are known ahead.
"""

import dataclasses

import numpy as np

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.masking import units

# What evaluation at one of eval.rates changes in the rule of training. fixed:
# masks of the row alone, of single tokens without noise; seeded: only the rate.
EVAL_MASKS = {
    "fixed": {"unit": "token", "random_rate": 0.0, "same_rate": 0.0},
    "seeded": {},
}
# Kinds of a token, in the order in which the selected ones are dealt out:
# targets (a slot, or a random or the same id in the encoder's input), then
# those that are no targets (gone, random, same), then what was not selected.
(SLOT, RANDOM, SAME, GONE, EXTRA_RANDOM, _EXTRA_SAME, _KEPT) = range(7)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """The static part of a masking rule.

  Fields:
    length: L.
    vocabulary: the `specials.Vocabulary` of the tokenizer.
    unit: function (key, ids_L, plan) -> bool_L, where units start.
    span_length: mean tokens of a span.
    max_span_length: no span is longer.
    selected_N: tokens selected of a row of n = 0..L tokens.
    bounds_MxN: of m selected tokens in random order, where each kind ends.
  """

  length: int
  vocabulary: specials.Vocabulary
  unit: object
  span_length: float
  max_span_length: int
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


def make_plan(config, vocabulary, rate=None):
  """Builds the plan of `config.masking` for rows of `config.data.length`.

  Args:
    vocabulary: the `specials.Vocabulary` of the tokenizer.
    rate: one of `config.eval.rates` in the place of `config.masking.rate`;
      all selected tokens are then predicted, and unless `eval.masks` is
      seeded they are single ones and all become slots: a task that runs of
      any unit and noise share.

  Raises:
    InputError: shares that do not fit together, or rows that are too short.
  """
  return of_rule(_rule(config, rate), config.data.length, vocabulary,
                 "masking.rate" if rate is None else "eval.rates:")


def of_rule(rule, length, vocabulary, called):
  """Builds the plan of a rule.

  Args:
    rule: `config.masking`, or the like.
    length: L.
    called: what a message calls the rate.

  Raises:
    InputError: as `make_plan`.
  """
  _check_shares(rule)
  selected_N = np.round(rule.rate * np.arange(length + 1)).astype(np.int32)
  if not 1 <= selected_N[-1] <= length - 2:
    raise errors.InputError(
        f"{called} {rule.rate} hides {selected_N[-1]} of data.length {length} "
        f"tokens; at least 1 must be hidden and 2 must stay")
  predicted_share = (
      1.0 if rule.predict_rate is None else rule.predict_rate / rule.rate)
  counts_MxN = deal(
      selected_N[-1], predicted_share, rule.random_rate, rule.same_rate)
  if not counts_MxN[-1, :GONE].any():
    raise errors.InputError(
        f"masking.predict_rate {rule.predict_rate} predicts none of "
        f"data.length {length} tokens")
  return Plan(
      length=length, vocabulary=vocabulary,
      unit=units.UNITS[rule.unit],
      span_length=rule.span_length, max_span_length=rule.max_span_length,
      selected_N=selected_N,
      bounds_MxN=np.cumsum(counts_MxN, axis=1).astype(np.int32))


def deal(most, predicted_share, random_share, same_share):
  """Returns how many of m = 0..most selected tokens are of each kind, [M, 6].

  Shares are of the selected tokens. In every row, rounded:
    all six kinds add up to m;
    SLOT + RANDOM + SAME, the targets, are predicted_share of m;
    RANDOM + EXTRA_RANDOM are random_share of m;
    SAME + EXTRA_SAME are same_share of m, or what random ids leave of it;
    targets have their share of the noise; what is left of it falls on the
      selected tokens that are no targets, and those without any are GONE.
  """
  m_M = np.arange(most + 1)
  predicted_M = np.round(m_M * predicted_share)
  random_M = np.round(random_share * m_M)
  same_M = np.minimum(np.round(same_share * m_M), m_M - random_M)
  target_random_M = np.minimum(random_M, np.round(random_share * predicted_M))
  target_same_M = np.minimum(same_M, np.round(same_share * predicted_M))
  target_same_M = np.minimum(target_same_M, predicted_M - target_random_M)
  slot_M = predicted_M - target_random_M - target_same_M
  gone_M = np.maximum(0, m_M - random_M - same_M - slot_M)
  extra_random_M = random_M - target_random_M
  extra_same_M = m_M - predicted_M - gone_M - extra_random_M
  return np.stack([slot_M, target_random_M, target_same_M, gone_M,
                   extra_random_M, extra_same_M], axis=1)


def _rule(config, rate):
  """Returns `config.masking`, as it is at a rate of `eval.rates`."""
  rule = config.masking.copy_and_resolve_references()
  changes = EVAL_MASKS[config.eval.masks]
  if rate is not None:
    with rule.unlocked():
      rule.update(changes | {"rate": rate, "predict_rate": None})
  return rule


def _check_shares(rule):
  """Raises InputError for shares that do not fit together."""
  if rule.predict_rate is not None and rule.predict_rate > rule.rate:
    raise errors.InputError(
        f"masking.predict_rate is {rule.predict_rate}; it must not be more "
        f"than masking.rate {rule.rate}; None predicts all that is masked")
  if rule.random_rate + rule.same_rate > 1:
    raise errors.InputError(
        f"masking.random_rate {rule.random_rate} and masking.same_rate "
        f"{rule.same_rate} add up to more than 1")
