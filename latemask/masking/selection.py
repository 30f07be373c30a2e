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

import jax
import jax.numpy as jnp

from latemask.masking import masked as masked_lib
from latemask.masking import plan as plan_lib


def mask_batch(plan, key_mask, rows_B, ids_BxL):
  """Masks a batch.

  Args:
    key_mask: the key of the step.
    rows_B: each row's index in the global batch.
    ids_BxL: packed rows; documents begin with bos.

  Returns:
    `Masked`.
  """
  keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key_mask, rows_B)
  return jax.vmap(lambda key, ids_L: _mask_row(plan, key, ids_L))(
      keys_B, ids_BxL)


def _mask_row(plan, key, ids_L):
  key_unit, key_score, key_kind, key_random = jax.random.split(key, 4)
  segment_L, position_L = masked_lib.documents(
      ids_L, plan.vocabulary.specials)
  is_token_L, selectable_L = _tokens(plan, ids_L)

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
  is_random_L = (kind_L == plan_lib.RANDOM) | (kind_L == plan_lib.EXTRA_RANDOM)
  input_L = ids_L
  if plan.has_random:
    random_L = plan.vocabulary.ordinary(jax.random.randint(
        key_random, ids_L.shape, 0, plan.vocabulary.num_ordinary))
    input_L = jnp.where(is_random_L, random_L.astype(ids_L.dtype), ids_L)

  # Partition, in order.
  is_slot_L = kind_L == plan_lib.SLOT
  is_kept_L = is_token_L & ~is_slot_L & (kind_L != plan_lib.GONE)
  is_corrupted_L = (kind_L == plan_lib.RANDOM) | (kind_L == plan_lib.SAME)
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
  return masked_lib.Masked(
      kept_ids_BxK=jnp.where(kept_valid_K, input_L[kept_K],
                             plan.vocabulary.specials.pad),
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


def _tokens(plan, ids_L):
  """Returns which are tokens of the text, and which of them can be masked."""
  vocabulary = plan.vocabulary
  return ids_L != vocabulary.specials.pad, ~vocabulary.is_special(ids_L)


def _num_selected(plan, is_token_L, selectable_L):
  return jnp.minimum(jnp.asarray(plan.selected_N)[jnp.sum(is_token_L)],
                     jnp.sum(selectable_L))


def count(plan, ids_BxL):
  """Returns (tokens selected, tokens that can be) of a batch, int32."""
  def of_row(ids_L):
    is_token_L, selectable_L = _tokens(plan, ids_L)
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
