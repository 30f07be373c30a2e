"""`Masked`: its picture is what is drawn, and rows whose masks are given."""

import jax
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask.masking import masked as masked_lib
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from tests import conftest

_WORDS = {"<s>": specials.TRAINED.bos, "</s>": specials.TRAINED.eos} | {
    word: len(specials.NAMES) + i for i, word in enumerate(
        ("big", "dog", "ran", "off", "sky"))}
_VOCAB = len(specials.NAMES) + 5


def _line(label):
  """Returns ([value], [column where it ends]) of a line of the picture."""
  line, = (line for line in masked_lib.Masked.__doc__.splitlines()
           if line.strip().startswith(label + "  "))
  end = line.index(label) + len(label)
  values, columns = [], []
  for text in line[end:].split():
    value = _WORDS.get(text, int(text) if text.isdigit() else None)
    if value is None:
      break  # A remark.
    end = line.index(text, end) + len(text)
    values.append(value)
    columns.append(end)
  return values, columns


def _draw(plan, seed, ids_BxL):
  return jax.tree.map(np.asarray, jax.jit(
      lambda key, rows, ids: selection.mask_batch(plan, key, rows, ids))(
          jax.random.key(seed), np.arange(len(ids_BxL)), ids_BxL))


def test_the_picture(tiny):
  """The draw that hides just these tokens is the picture, number by number."""
  tiny.data.length, tiny.masking.rate = 6, 0.5
  tiny.masking.random_rate = 1 / 3
  plan = plan_lib.make_plan(tiny, specials.trained(_VOCAB))
  assert (plan.num_kept, plan.num_slots, plan.num_corrupted) == (4, 2, 1)
  ids_L, columns = _line("ids")
  ids_BxL = np.array(2000 * [ids_L], np.int32)
  drawn = _draw(plan, 0, ids_BxL)
  row = next(b for b in range(2000)
             if list(drawn.target_index_BxT[b]) == _line("target_index_BxT")[0]
             and list(drawn.kept_ids_BxK[b]) == _line("kept_ids_BxK")[0])
  for label in ("kept_position_BxK", "slot_position_BxQ", "corrupted_BxC",
                "place_BxL", "target_ids_BxT"):
    assert _line(label)[0] == list(getattr(drawn, label)[row]), label
  place_L = drawn.place_BxL[row]
  assert _line("in [kept; slots]")[0] == list(
      place_L[drawn.target_index_BxT[row]])
  assert drawn.target_weights_BxT[row].all()
  # What stands below a token is about that token.
  assert _line("place in the row") == (list(range(6)), columns)
  assert _line("place_BxL")[1] == columns
  for label, first, places in (
      ("index among kept", 0, drawn.kept_position_BxK[row]),
      ("index of the slot", plan.num_kept, drawn.slot_position_BxQ[row])):
    indices, below = _line(label)
    assert below == [columns[place] for place in places]
    assert [first + index for index in indices] == list(place_L[places])


@pytest.mark.parametrize("seed", [0, 1])
def test_given_masks_are_as_those_that_are_drawn(tiny, seed):
  """Of a document whole and of one that ends before its row does."""
  plan = plan_lib.make_plan(tiny, specials.trained(320))
  ids_BxL = conftest.random_rows(8, 32)[[1, 2, 3, 5, 6]]
  drawn = _draw(plan, seed, ids_BxL)
  for row, ids_L in enumerate(ids_BxL):
    weights_T = drawn.target_weights_BxT[row]
    written = ids_L[ids_L != specials.TRAINED.pad]
    written[drawn.target_index_BxT[row][weights_T > 0]] = specials.TRAINED.mask
    given = masked_lib.with_masks(
        written, specials.TRAINED, plan.num_kept, plan.num_slots)
    for name in vars(given):
      found, expected = getattr(given, name)[0], getattr(drawn, name)[row]
      if name.startswith("target_i"):  # Unused ones may hold anything.
        found, expected = found * weights_T, expected * weights_T
      if name != "target_ids_BxT":
        np.testing.assert_array_equal(found, expected, name)
