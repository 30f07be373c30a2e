"""Texts as windows of ids: cuts, strides, where tags and answers stand."""

import dataclasses
import itertools

import numpy as np
import pytest
import tokenizers as library

from latemask import errors
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask.finetune import batches
from latemask.finetune import lengths as lengths_lib
from latemask.finetune import windows
from latemask.finetune.tasks import kinds
from latemask.finetune.tasks import task
from tests import conftest

_CLASSES = task.Task("mine", "classes", ("no", "yes"), ("accuracy",), 1)
_TAGS = task.Task("mine", "tokens", ("O", "B-X", "I-X"), ("entity_f1",), 1)
_SPAN = task.Task("mine", "span", (), ("exact_match",), 1)


@pytest.fixture(scope="module")
def tokenizer():
  return tokenizer_lib.train(conftest.make_text(200).splitlines(), 320)


def test_words_whose_space_is_behind():
  from latemask.data.tokenizers import tokenizer as tokenizer_lib
  words = "the old time".split()  # the_ ol d_ time
  assert tokenizer_lib.words_at([0, 4, 6, 8], words, True) == [0, 1, 1, 2]
  # the _old _ti me
  assert tokenizer_lib.words_at([3, 7, 10, 12], words) == [0, 1, 2, 2]


def test_pairs_and_cuts(tokenizer):
  texts = ("the old time", "he")
  first, second = (tokenizer.encode(t).tolist() for t in texts)
  single = windows.encode(tokenizer, _CLASSES, task.Rows(([texts[0]],), None), 64)
  assert single.ids[0].tolist() == [0, *first, 2]
  pair = windows.encode(tokenizer, _CLASSES, task.Rows(tuple([t] for t in texts), None), 64)
  assert pair.ids[0].tolist() == [0, *first, 2, 2, *second, 2]
  assert (single.num_cut, pair.num_cut) == (0, 0)
  # One token too long: the longer text loses it, on either side.
  assert len(first) > len(second) + 1
  length = len(pair.ids[0]) - 1
  for order in (1, -1):
    rows = task.Rows(tuple([t] for t in texts[::order]), None)
    cut = windows.encode(tokenizer, _CLASSES, rows, length)
    parts = [first[:-1], second][::order]
    assert cut.ids[0].tolist() == [0, *parts[0], 2, 2, *parts[1], 2]
    assert cut.num_cut == 1


@pytest.mark.parametrize("task_of", [_CLASSES, _SPAN])
def test_a_window_has_room_for_each_text(tokenizer, task_of):
  rows = task.Rows((["the old"], ["time"]), None)
  windows.encode(tokenizer, task_of, rows, 6)
  with pytest.raises(errors.InputError, match="is 5; a pair takes 6 at least"):
    windows.encode(tokenizer, task_of, rows, 5)


def test_a_long_first_text_beside_a_short_one(tokenizer):
  """Windows are of the last text; the first has what that leaves."""
  long, short = "the old time was " * 20, "he"
  strided = dataclasses.replace(_CLASSES, stride=4)
  for task_of in (_CLASSES, strided):
    found = windows.encode(
        tokenizer, task_of, task.Rows(([long], [short]), None), 40)
    assert [len(ids) for ids in found.ids] == [40] and found.num_cut == 1
  found = windows.encode(
      tokenizer, strided, task.Rows(([short], [long]), None), 40)
  assert len(found.ids) > 3 and found.num_cut == 0


@pytest.mark.parametrize("lengths", [(9, 9), (20, 3), (3, 20), (6, 5)])
@pytest.mark.parametrize("max_length", [6, 7, 14, 15, 40])
def test_the_longer_text_is_cut_first(lengths, max_length):
  """The same as taking tokens one by one from the longer text."""
  kept = list(lengths)
  while sum(kept) > max_length - 4:
    kept[0 if kept[0] > kept[1] else 1] -= 1
  found = windows._cut(
      [np.arange(n) for n in lengths], max_length - 4)
  assert sum(map(len, found)) == sum(kept)
  assert sorted(map(len, found)) == sorted(kept)
  for text in found:
    np.testing.assert_array_equal(text, np.arange(len(text)))


def test_pairs_are_cut_as_stock_cuts_them():
  stock = library.Tokenizer(library.models.WordLevel({"a": 0}, unk_token="a"))
  stock.pre_tokenizer = library.pre_tokenizers.Whitespace()
  for first, second, room in itertools.product(
      range(1, 9), range(1, 9), range(2, 12)):
    stock.enable_truncation(room, strategy="longest_first")
    sides = stock.encode("a " * first, "a " * second).sequence_ids
    kept = windows._cut([range(first), range(second)], room)
    assert [len(text) for text in kept] == [sides.count(0), sides.count(1)], (
        first, second, room)


def _padded(lengths_W, lengths):
  return sum(min(n for n in lengths if n >= one) for one in lengths_W)


@pytest.mark.parametrize("seed", range(4))
def test_lengths_are_the_cheapest(seed):
  """Against every choice of each number."""
  rng = np.random.default_rng(seed)
  lengths_W = np.minimum(rng.geometric(0.04, 60) + 3, 100)
  candidates = batches.buckets(100, lengths_W.max())
  counts = np.bincount(np.searchsorted(candidates, lengths_W),
                       minlength=len(candidates))
  for lengths, num_tokens in lengths_lib._cheapest(candidates, counts):
    assert num_tokens == _padded(lengths_W, lengths) == min(
        _padded(lengths_W, (*some, candidates[-1])) for some
        in itertools.combinations(candidates[:-1], len(lengths) - 1))


def test_long_runs_take_more_lengths():
  lengths_W = np.random.default_rng(0).integers(8, 128, 1000)
  found = [lengths_lib.choose(128, lengths_W, 6e7, passes, "cpu")
           for passes in (1, 10, 100, 10_000)]
  assert found[0] == (128,) and len(found[-1]) == 7
  assert [len(lengths) for lengths in found] == sorted(map(len, found))


def _with_stride(of, stride):
  return dataclasses.replace(of, stride=stride)


def _of_text(encoded, window):
  """Returns the ids of a window without its special tokens."""
  return encoded.ids[window][1:-1].tolist()


@pytest.mark.parametrize("stride", [0, 3, 7])
def test_windows_hold_the_whole_text(tokenizer, stride):
  text = conftest.make_text(1, seed=3).strip()
  ids = tokenizer.encode([text])[0].tolist()
  encoded = windows.encode(
      tokenizer, _with_stride(_CLASSES, stride),
      task.Rows(([text, "he"],), np.array([1, 0])), 12)
  assert encoded.num_cut == 0 and max(encoded.lengths_W) == 12
  assert encoded.row_W.tolist() == [0] * (len(encoded) - 1) + [1]
  np.testing.assert_array_equal(encoded.targets, 1 - encoded.row_W)
  again = _of_text(encoded, 0)
  for window in range(1, len(encoded) - 1):
    found = _of_text(encoded, window)
    assert found[:stride] == again[len(again) - stride:]
    again += found[stride:]
  assert again == ids
  # A model that says of a window what its first id is: the mean of these.
  logits_WxC = np.array(
      [[window[1], 0] for window in encoded.ids], np.float32)
  found = kinds.KINDS["classes"].by_row(None, encoded, logits_WxC)
  np.testing.assert_allclose(
      found[0, 0], logits_WxC[encoded.row_W == 0, 0].mean(), rtol=1e-6)


def test_a_window_that_would_not_move_on(tokenizer):
  rows = task.Rows((["the old time " * 9],), None)
  with pytest.raises(errors.InputError, match="stride is 10.*room for 10"):
    windows.encode(tokenizer, _with_stride(_CLASSES, 10), rows, 12)


@pytest.mark.parametrize("stride", [None, 2, 5])
def test_tags_go_to_the_first_token_of_their_word(tokenizer, stride):
  """And come back from there, whatever the windows."""
  rng = np.random.default_rng(0)
  rows = [rng.choice(["strange", "he", "oldtime", "x1-y2", "the"], n).tolist()
          for n in (1, 4, 30)]
  labels = [rng.integers(0, 3, len(words)).astype(np.int32) for words in rows]
  encoded = windows.encode(
      tokenizer, _with_stride(_TAGS, stride), task.Rows((rows,), labels), 16)
  assert (encoded.num_cut > 0) == (stride is None)
  for ids, target, spots in zip(encoded.ids, encoded.targets, encoded.spots):
    assert len(target) == len(ids) and target[0] == target[-1] == -1
    assert (np.flatnonzero(target != -1) == spots[:, 0]).all()
  # A model that is right.
  logits = [np.where(np.arange(3) == np.maximum(t, 0)[:, None], 9.0, 0.0)
            for t in encoded.targets]
  found = kinds.answers(_TAGS, encoded, logits)
  for tags, label, words in zip(found, labels, rows):
    assert len(tags) == len(words)
    kept = len(words) if stride is not None else sum(
        spots[-1, 1] + 1 for row, spots in zip(encoded.row_W, encoded.spots)
        if rows[row] is words)
    np.testing.assert_array_equal(tags[:kept], label[:kept])
    assert (tags[kept:] == 0).all()  # Cut off: O.


_CONTEXT = ("It was old Mr. Time who came with the others, not she; and "
            "they were many more than he had ever seen there before.")


@pytest.mark.parametrize("stride", [None, 4])
@pytest.mark.parametrize("answer", ["It", "Mr. Time", "others", "ever seen"])
def test_answers_are_found_where_they_stand(tokenizer, answer, stride):
  start = _CONTEXT.index(answer)
  rows = task.Rows((["who came?", "why?"], [_CONTEXT, _CONTEXT]), [
      (task.Answer(start, answer),), ()])
  encoded = windows.encode(
      tokenizer, _with_stride(_SPAN, stride), rows, 40 if stride else 200)
  assert (len(encoded) > 2) == (stride is not None)
  has_it = encoded.targets.any(axis=1)
  assert has_it[encoded.row_W == 0].any() and not has_it[
      encoded.row_W == 1].any()
  logits = []
  for ids, target in zip(encoded.ids, encoded.targets):
    window_Sx2 = np.zeros((len(ids), 2), np.float32)
    window_Sx2[target, [0, 1]] = 5
    logits.append(window_Sx2)
  lacking = dataclasses.replace(_SPAN, has_no_answers=True)
  found = kinds.answers(lacking, encoded, logits)
  assert found[1] == "" and answer in found[0]
  # A token may hold a character more.
  assert len(found[0]) <= len(answer) + 4
