"""Which tokens are hidden: ids_BxL -> `Masked`, under jit, static shapes.

Fourth stop of the flow, first on the device. Every rule is the same pipeline
(methods of 3ML, arXiv 2211.04898; exact counts instead of coin flips, so that
shapes are static):
  1. units: tokens, whole words, or spans of random length;
  2. a uniform score a unit; the M tokens of the best units are selected, in
     order, so at most the last unit is cut;
  3. of the selected, a random share becomes random ids, a share stays as it
     is (both remain in the encoder's input), and the rest, Q tokens, leave;
  4. with `predict_rate` only some of the selected are targets; those that
     leave and are no targets are gone: they have no slot either.
The draws of a row depend on (key, row) alone, where the key is that of the
step: not on the batch, the devices or the hosts.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from latemask.data.tokenizers import specials
from latemask.data.tokenizers import word_starts
from latemask import errors

# What evaluation masks depend on: the row alone, and then eval.rates hide
# single tokens without noise; or the run's seed, unit and noise, too.
EVAL_MASKS = dict.fromkeys(("fixed", "seeded"))
# Kinds of a token, in the order in which the selected ones are dealt out.
(_SLOT, _RANDOM, _SAME, _GONE, _EXTRA_RANDOM, _EXTRA_SAME, _KEPT) = range(7)


@flax.struct.dataclass
class Masked:
  """A masked batch. K kept tokens, Q slots, T = Q + C targets a row.

  Fields:
    kept_ids_BxK: what the encoder reads, in order; <pad> where unused.
    kept_position_BxK: position within the token's own document.
    kept_segment_BxK: document within the row, from 1; 0 where unused.
    slot_position_BxQ, slot_segment_BxQ: the same of the [MASK] slots.
    corrupted_BxC: index into kept of the targets that stayed there, as random
      or same ids.
    place_BxL: where each token of the row stands in [kept; slots]; K + Q
      where it stands nowhere.
    target_index_BxT: place in the row of the targets: slots, then corrupted.
    target_ids_BxT: what they were.
    target_weights_BxT: float32, 1 or, where unused, 0.
  """

  kept_ids_BxK: jax.Array
  kept_position_BxK: jax.Array
  kept_segment_BxK: jax.Array
  slot_position_BxQ: jax.Array
  slot_segment_BxQ: jax.Array
  corrupted_BxC: jax.Array
  place_BxL: jax.Array
  target_index_BxT: jax.Array
  target_ids_BxT: jax.Array
  target_weights_BxT: jax.Array


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
    return int(self._counts_MxN[:, _SLOT].max())

  @property
  def num_corrupted(self):
    """C, targets that stay in the encoder as random or same ids."""
    return int((self._counts_MxN[:, _RANDOM] + self._counts_MxN[:, _SAME]
                ).max())

  @property
  def has_random(self):
    """Whether random ids are drawn at all."""
    return bool(self._counts_MxN[:, [_RANDOM, _EXTRA_RANDOM]].any())

  @property
  def num_targets(self):
    """T, tokens predicted a row."""
    return self.num_slots + self.num_corrupted

  @property
  def num_kept(self):
    """K, tokens that the encoder reads."""
    counts_NxN = self._counts_MxN[self.selected_N]
    return int((np.arange(self.length + 1) - counts_NxN[:, _SLOT]
                - counts_NxN[:, _GONE]).max())


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
      unit=errors.choose(_UNITS, m.unit, "masking.unit"),
      span_length=m.span_length, max_span_length=m.max_span_length,
      word_start_V=word_start_V, selected_N=selected_N,
      bounds_MxN=np.cumsum(counts_MxN, axis=1).astype(np.int32))


def mask_batch(plan, key_mask, rows_B, ids_BxL):
  """Masks a batch.

  Args:
    key_mask: the key of the step.
    rows_B: each row's index in the global batch.
    ids_BxL: packed rows; documents begin with <s>.

  Returns:
    `Masked`.
  """
  keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key_mask, rows_B)
  return jax.vmap(lambda key, ids_L: _mask_row(plan, key, ids_L))(
      keys_B, ids_BxL)


def unmasked(ids_BxL):
  """Returns the `Masked` in which every token is kept and none is hidden."""
  segment_BxL, position_BxL = jax.vmap(_documents)(ids_BxL)
  batch, length = ids_BxL.shape
  none_Bx0 = jnp.zeros((batch, 0), jnp.int32)
  return Masked(
      ids_BxL, position_BxL, segment_BxL, none_Bx0, none_Bx0, none_Bx0,
      jnp.broadcast_to(jnp.arange(length), (batch, length)), none_Bx0,
      none_Bx0, none_Bx0.astype(jnp.float32))


def _documents(ids_L):
  """Returns each token's document in the row, from 1, and its place there."""
  index_L = jnp.arange(ids_L.shape[0])
  start_L = ids_L == specials.BOS
  segment_L = jnp.where(ids_L == specials.PAD, 0, jnp.cumsum(start_L))
  position_L = index_L - jax.lax.cummax(jnp.where(start_L, index_L, 0))
  return segment_L, jnp.where(segment_L > 0, position_L, 0)


def _mask_row(plan, key, ids_L):
  key_unit, key_score, key_kind, key_random = jax.random.split(key, 4)
  segment_L, position_L = _documents(ids_L)
  is_token_L, selectable_L = _tokens(ids_L)

  # Select: the tokens of the units with the lowest scores.
  unit_L = jnp.cumsum(plan.unit(key_unit, ids_L, plan)) - 1
  score_L = jax.random.uniform(key_score, ids_L.shape)[unit_L]
  rank_L = _rank(jnp.where(selectable_L, score_L, 2.0))
  num_selected = _num_selected(plan, is_token_L, selectable_L)

  # Deal the kinds out to the selected, in random order.
  deal_L = _rank(jnp.where(rank_L < num_selected,
                           jax.random.uniform(key_kind, ids_L.shape), 2.0))
  bounds_N = jnp.asarray(plan.bounds_MxN)[num_selected]
  kind_L = jnp.sum(deal_L[:, None] >= bounds_N[None, :], axis=1)
  is_random_L = (kind_L == _RANDOM) | (kind_L == _EXTRA_RANDOM)
  input_L = ids_L
  if plan.has_random:
    random_L = jax.random.randint(
        key_random, ids_L.shape, specials.NUM_SPECIALS, plan.vocab_size)
    input_L = jnp.where(is_random_L, random_L.astype(ids_L.dtype), ids_L)

  # Partition, in order.
  is_slot_L = kind_L == _SLOT
  is_kept_L = is_token_L & ~is_slot_L & (kind_L != _GONE)
  is_corrupted_L = (kind_L == _RANDOM) | (kind_L == _SAME)
  kept_K, kept_valid_K = _first(is_kept_L, plan.num_kept)
  slot_Q, slot_valid_Q = _first(is_slot_L, plan.num_slots)
  corrupted_C, corrupted_valid_C = _first(is_corrupted_L, plan.num_corrupted)
  # Special tokens are always kept, so a row of hardly anything else can have
  # more to keep than K: the last ones then stand nowhere.
  in_kept_L = jnp.cumsum(is_kept_L) - 1
  nowhere = plan.num_kept + plan.num_slots
  place_L = jnp.where(
      is_slot_L, plan.num_kept + jnp.cumsum(is_slot_L) - 1,
      jnp.where(is_kept_L & (in_kept_L < plan.num_kept), in_kept_L, nowhere))
  corrupted_valid_C &= in_kept_L[corrupted_C] < plan.num_kept
  target_T = jnp.concatenate([slot_Q, corrupted_C])
  return Masked(
      kept_ids_BxK=jnp.where(kept_valid_K, input_L[kept_K], specials.PAD),
      kept_position_BxK=jnp.where(kept_valid_K, position_L[kept_K], 0),
      kept_segment_BxK=jnp.where(kept_valid_K, segment_L[kept_K], 0),
      slot_position_BxQ=jnp.where(slot_valid_Q, position_L[slot_Q], 0),
      slot_segment_BxQ=jnp.where(slot_valid_Q, segment_L[slot_Q], 0),
      corrupted_BxC=jnp.where(corrupted_valid_C, in_kept_L[corrupted_C], 0),
      place_BxL=place_L,
      target_index_BxT=target_T,
      target_ids_BxT=ids_L[target_T],
      target_weights_BxT=jnp.concatenate(
          [slot_valid_Q, corrupted_valid_C]).astype(jnp.float32))


def _tokens(ids_L):
  """Returns which are tokens of the text, and which of them can be masked."""
  return ids_L != specials.PAD, ids_L >= specials.NUM_SPECIALS


def _num_selected(plan, is_token_L, selectable_L):
  return jnp.minimum(jnp.asarray(plan.selected_N)[jnp.sum(is_token_L)],
                     jnp.sum(selectable_L))


def count(plan, ids_BxL):
  """Returns (tokens selected, tokens that can be) of a batch, int32."""
  def of_row(ids_L):
    is_token_L, selectable_L = _tokens(ids_L)
    return (_num_selected(plan, is_token_L, selectable_L),
            jnp.sum(selectable_L))
  return jax.tree.map(jnp.sum, jax.vmap(of_row)(ids_BxL))


def _rank(score_L):
  """Returns each element's place in ascending order; ties keep theirs."""
  return jnp.argsort(jnp.argsort(score_L, stable=True), stable=True)


def _first(flag_L, count):
  """Returns the first `count` flagged places, and which of them are real."""
  places = jnp.argsort(~flag_L, stable=True)[:count]
  return places, jnp.arange(count) < jnp.sum(flag_L)


def _token_units(key, ids_L, plan):
  del key, plan
  return jnp.ones(ids_L.shape, bool)


def _word_units(key, ids_L, plan):
  del key
  starts_V = jnp.asarray(plan.word_start_V)
  before_L = jnp.concatenate([jnp.zeros(1, ids_L.dtype), ids_L[:-1]])
  # What follows a special token starts a word, whatever it is.
  return (starts_V[ids_L] | (ids_L < specials.NUM_SPECIALS)
          | (before_L < specials.NUM_SPECIALS))


def _span_units(key, ids_L, plan):
  """Geometric lengths of mean `span_length` (SpanBERT), cut at the maximum."""
  special_L = ids_L < specials.NUM_SPECIALS
  before_L = jnp.concatenate([jnp.ones(1, bool), special_L[:-1]])
  start_L = special_L | before_L | (
      jax.random.uniform(key, ids_L.shape) < 1 / plan.span_length)
  index_L = jnp.arange(ids_L.shape[0])
  since_L = index_L - jax.lax.cummax(jnp.where(start_L, index_L, 0))
  return start_L | (since_L % plan.max_span_length == 0)


_UNITS = {"token": _token_units, "word": _word_units, "span": _span_units}
