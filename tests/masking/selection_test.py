"""Masking: exact counts, nothing special hidden, rows independent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.masking import masked as masked_lib
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from tests import conftest

VOCAB = 320
LENGTH = 32


def _mask(config, ids_BxL, seed=0, rows_B=None, word_start_V=None, rate=None):
  vocabulary = specials.trained(VOCAB)
  if word_start_V is not None:
    vocabulary = dataclasses.replace(vocabulary, word_start_V=word_start_V)
  plan = plan_lib.make_plan(config, vocabulary, rate)
  rows_B = np.arange(len(ids_BxL)) if rows_B is None else rows_B
  masked = jax.jit(lambda key, rows, ids: selection.mask_batch(
      plan, key, rows, ids))(jax.random.key(seed), rows_B, ids_BxL)
  return plan, jax.tree.map(np.asarray, masked)


def _hidden(masked, row):
  """Places of the row that are in a slot."""
  valid = masked.slot_segment_BxQ[row] > 0
  return masked.target_index_BxT[row][:len(valid)][valid]


@pytest.mark.parametrize("unit", ["token", "word", "span"])
@pytest.mark.parametrize("rate", [0.15, 0.5, 0.8])
def test_exact_counts_and_reconstruction(tiny, unit, rate):
  tiny.masking.unit = unit
  tiny.masking.rate = rate
  ids_BxL = conftest.random_rows(16, LENGTH)
  word_start_V = np.arange(VOCAB) % 3 == 0
  plan, masked = _mask(tiny, ids_BxL, word_start_V=word_start_V)
  for row, ids_L in enumerate(ids_BxL):
    num_tokens = np.sum(ids_L != specials.TRAINED.pad)
    selectable = ids_L >= len(specials.NAMES)
    expected = min(round(rate * num_tokens), selectable.sum())
    hidden = _hidden(masked, row)
    assert len(hidden) == len(set(hidden)) == expected
    assert np.all(np.diff(hidden) > 0)
    assert np.all(selectable[hidden])
    weights = masked.target_weights_BxT[row]
    assert weights.sum() == expected
    np.testing.assert_array_equal(
        masked.target_ids_BxT[row][weights > 0], ids_L[hidden])
    # Kept tokens and slots are the row, each once, in order.
    kept = masked.kept_ids_BxK[row][masked.kept_segment_BxK[row] > 0]
    rest = np.delete(ids_L, hidden)
    np.testing.assert_array_equal(kept, rest[rest != specials.TRAINED.pad])
    pair = np.concatenate([masked.kept_ids_BxK[row],
                           masked.target_ids_BxT[row]])
    place = masked.place_BxL[row]
    real = ids_L != specials.TRAINED.pad
    np.testing.assert_array_equal(pair[place[real]], ids_L[real])
    assert np.all(place[~real] == plan.num_kept + plan.num_slots)


def test_positions_and_segments_restart_with_each_document(tiny):
  ids_BxL = conftest.random_rows(8, LENGTH)
  _, masked = _mask(tiny, ids_BxL)
  full = masked_lib.unmasked(jnp.asarray(ids_BxL), specials.TRAINED)
  for row, ids_L in enumerate(ids_BxL):
    segment, position, last = 0, 0, []
    for token in ids_L:
      segment, position = ((segment + 1, 0) if token == specials.TRAINED.bos
                           else (segment, position + 1))
      last.append((0, 0) if token == specials.TRAINED.pad else (segment, position))
    expected_segment, expected_position = np.array(last).T
    np.testing.assert_array_equal(full.kept_segment_BxK[row],
                                  expected_segment)
    np.testing.assert_array_equal(full.kept_position_BxK[row],
                                  expected_position)
    hidden = _hidden(masked, row)
    np.testing.assert_array_equal(
        masked.slot_position_BxQ[row][:len(hidden)],
        expected_position[hidden])


def test_rows_depend_on_key_and_row_alone(tiny):
  ids_BxL = conftest.random_rows(8, LENGTH)
  _, whole = _mask(tiny, ids_BxL)
  order = np.array([5, 2, 3])
  _, part = _mask(tiny, ids_BxL[order], rows_B=order)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b),
               whole, part)
  _, other = _mask(tiny, ids_BxL, seed=1)
  assert np.any(whole.target_index_BxT != other.target_index_BxT)
  same_ids = np.repeat(ids_BxL[2:3], 8, axis=0)
  _, masked = _mask(tiny, same_ids)
  assert len({tuple(t) for t in masked.target_index_BxT}) == 8


def test_at_most_one_word_is_cut(tiny):
  tiny.masking.unit = "word"
  word_start_V = np.arange(VOCAB) % 3 == 0
  ids_BxL = conftest.random_rows(64, LENGTH)
  _, masked = _mask(tiny, ids_BxL, word_start_V=word_start_V)
  whole_words = 0
  for row, ids_L in enumerate(ids_BxL):
    hidden = set(_hidden(masked, row))
    after_special = np.r_[True, ids_L[:-1] < len(specials.NAMES)]
    starts = word_start_V[ids_L] | after_special | (
        ids_L < len(specials.NAMES))
    words = np.split(np.arange(LENGTH), np.flatnonzero(starts)[1:])
    cut = [w for w in words if 0 < len(hidden & set(w)) < len(w)]
    assert len(cut) <= 1
    whole_words += sum(len(w) > 1 and set(w) <= hidden for w in words)
  assert whole_words > 64


def test_spans_are_long_and_bounded(tiny):
  tiny.data.length = tiny.model.max_length = 512
  tiny.masking.unit = "span"
  tiny.masking.rate = 0.15
  ids_BxL = np.full((64, 512), 7, np.int32)
  ids_BxL[:, 0] = specials.TRAINED.bos
  lengths = []
  for mean, longest in ((4.0, 10), (4.0, 2)):
    tiny.masking.span_length, tiny.masking.max_span_length = mean, longest
    _, masked = _mask(tiny, ids_BxL)
    runs = [len(run) for row in range(64) for run in np.split(
        _hidden(masked, row),
        np.flatnonzero(np.diff(_hidden(masked, row)) > 1) + 1)]
    lengths.append(np.mean(runs))
  # Mean 4, a little less for the cut and more for spans that touch.
  assert 3 < lengths[0] < 5
  assert 1.5 < lengths[1] < 2.6


def test_noise_stays_in_the_encoder(tiny):
  tiny.masking.random_rate = 0.25
  tiny.masking.same_rate = 0.125
  ids_BxL = conftest.random_rows(16, LENGTH)
  plan, masked = _mask(tiny, ids_BxL)
  assert (plan.num_kept, plan.num_slots, plan.num_corrupted) == (22, 10, 6)
  same = changed = 0
  for row in range(16):
    corrupted = masked.corrupted_BxC[row]
    weights = masked.target_weights_BxT[row][plan.num_slots:]
    truth = masked.target_ids_BxT[row][plan.num_slots:]
    now = masked.kept_ids_BxK[row][corrupted]
    assert np.all(now[weights > 0] >= len(specials.NAMES))
    same += np.sum((now == truth) * weights)
    changed += np.sum((now != truth) * weights)
    whole = np.sum(ids_BxL[row] != specials.TRAINED.pad)
    if whole == LENGTH:
      assert weights.sum() == 6
  assert changed > 1.5 * same > 0


def test_predict_rate_leaves_no_slot_for_the_others(tiny):
  tiny.masking.predict_rate = 0.125
  ids_BxL = conftest.random_rows(16, LENGTH)
  plan, masked = _mask(tiny, ids_BxL)
  assert (plan.num_kept, plan.num_slots, plan.num_targets) == (16, 4, 4)
  assert masked.slot_position_BxQ.shape == (16, 4)
  full_row = 2
  assert np.sum(masked.place_BxL[full_row] < 20) == 20
  # Predicting all that is masked is the same as not saying so.
  tiny.masking.predict_rate = 0.5
  _, all_predicted = _mask(tiny, ids_BxL)
  tiny.masking.predict_rate = None
  _, unsaid = _mask(tiny, ids_BxL)
  jax.tree.map(np.testing.assert_array_equal, all_predicted, unsaid)


def test_marginals_are_uniform(tiny):
  ids_BxL = np.full((4000, LENGTH), 9, np.int32)
  ids_BxL[:, 0], ids_BxL[:, -1] = specials.TRAINED.bos, specials.TRAINED.eos
  _, masked = _mask(tiny, ids_BxL)
  share_L = np.bincount(masked.target_index_BxT.ravel(),
                        minlength=LENGTH) / 4000
  assert share_L[0] == share_L[-1] == 0
  # 16 of 30; five standard deviations of a share of 4000 rows.
  np.testing.assert_allclose(share_L[1:-1], 16 / 30, atol=0.04)


def test_row_of_special_tokens_overflows_without_harm(tiny):
  tiny.masking.rate = 0.8
  ids_BxL = np.full((1, LENGTH), specials.TRAINED.eos, np.int32)
  ids_BxL[0, 0], ids_BxL[0, 5] = specials.TRAINED.bos, 9
  plan, masked = _mask(tiny, ids_BxL)
  assert masked.target_weights_BxT.sum() == 1
  assert np.all(masked.kept_segment_BxK == 1)
  assert np.sum(masked.place_BxL < plan.num_kept) == plan.num_kept


def test_noise_beyond_the_kept_has_no_weight(tiny):
  # More special tokens than the encoder has room for push kept tokens out;
  # a target among them must not be scored at another token's state.
  tiny.masking.rate, tiny.masking.same_rate = 0.8, 0.1
  ids_BxL = np.full((1, LENGTH), specials.TRAINED.eos, np.int32)
  ids_BxL[0, 0] = specials.TRAINED.bos
  ids_BxL[0, -10:] = np.arange(10, 20)
  plan, masked = _mask(tiny, ids_BxL)
  weights = masked.target_weights_BxT[0, plan.num_slots:]
  truth = masked.target_ids_BxT[0, plan.num_slots:]
  found = masked.kept_ids_BxK[0][masked.corrupted_BxC[0]]
  np.testing.assert_array_equal(found[weights > 0], truth[weights > 0])


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5, 0.8])
def test_static_shapes_hold_rows_of_any_length(tiny, rate):
  """Rounding noise and rows apart may give a shorter row more of a kind."""
  tiny.masking.rate = rate
  for noise in (0.0, 0.1, 0.25):
    tiny.masking.random_rate = tiny.masking.same_rate = noise
    plan = plan_lib.make_plan(tiny, specials.trained(VOCAB))
    for length, selected in enumerate(plan.selected_N):
      slots, *noisy = np.diff(plan.bounds_MxN[selected], prepend=0)[:3]
      assert slots <= plan.num_slots
      assert sum(noisy) <= plan.num_corrupted
      assert length - slots <= plan.num_kept


@pytest.mark.parametrize("changes, message", [
    ({"rate": 0.001}, "at least 1"), ({"rate": 0.99}, "2 must stay"),
    ({"random_rate": 0.7, "same_rate": 0.7}, "more than 1"),
    ({"predict_rate": 0.6}, "predict_rate is 0.6; it must not be more than"),
])
def test_bad_plans(tiny, changes, message):
  tiny.masking.update(changes)
  with pytest.raises(errors.InputError, match=message):
    plan_lib.make_plan(tiny, specials.trained(VOCAB))


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_special_ids_may_stand_anywhere(tiny, unit):
  """Other names for the same ids: the same masks, and random ids too."""
  tiny.masking.update(unit=unit, random_rate=0.4, same_rate=0.1)
  ours = dataclasses.replace(
      specials.trained(VOCAB), word_start_V=np.arange(VOCAB) % 3 == 0)
  # <s>, <pad>, </s>, <unk>, <mask>, as BERT has them; one more is unused.
  moved = np.array([101, 0, 102, 100, 103])
  special_N = np.sort(np.append(moved, 200))
  ordinary = np.setdiff1d(np.arange(VOCAB + 1), special_N)
  name_V = np.concatenate([moved, ordinary])
  word_start_V = np.ones(VOCAB + 1, bool)
  word_start_V[name_V] = ours.word_start_V
  theirs = specials.Vocabulary(
      VOCAB + 1, specials.Specials(*moved.tolist()), special_N, word_start_V)
  ids_BxL = conftest.random_rows(16, LENGTH)
  rows_B = np.arange(len(ids_BxL))
  mask = lambda vocabulary, ids: jax.device_get(jax.jit(
      lambda: selection.mask_batch(
          plan_lib.make_plan(tiny, vocabulary), jax.random.key(3), rows_B,
          ids))())
  one, two = mask(ours, ids_BxL), mask(theirs, name_V[ids_BxL])
  assert not np.isin(two.target_ids_BxT[two.target_weights_BxT > 0],
                     special_N).any()
  for name in ("kept_ids_BxK", "target_ids_BxT"):
    np.testing.assert_array_equal(
        name_V[getattr(one, name)], getattr(two, name), name)
  for name in set(dataclasses.asdict(one)) - {"kept_ids_BxK", "target_ids_BxT"}:
    np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)


def test_ordinary_ids_are_all_that_are_not_special():
  for special_N in ([0, 1, 2, 3, 4], [0, 7, 8, 19], [5], [19, 18], []):
    special_N = np.sort(np.array(special_N, int))
    vocabulary = specials.Vocabulary(
        20, specials.TRAINED, special_N, np.ones(20, bool))
    ordinary = np.setdiff1d(np.arange(20), special_N)
    np.testing.assert_array_equal(vocabulary.ordinary(
        np.arange(vocabulary.num_ordinary)), ordinary)
    np.testing.assert_array_equal(
        vocabulary.is_special(np.arange(20)), ~np.isin(np.arange(20), ordinary))
