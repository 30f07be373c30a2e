"""Rows of documents: nothing is lost, hardly one is cut, little is padded."""

import ml_collections
import numpy as np
import pytest

from latemask.data import best_fit
from latemask.data import packing
from latemask.data.tokenizers import specials

_LEAST = packing.MIN_PIECE_TOKENS
_LENGTHS = {
    "short": lambda rng, room: rng.integers(1, 60),
    "even": lambda rng, room: rng.integers(1, room + 1),
    "chapters": lambda rng, room: np.exp(rng.uniform(
        np.log(room / 8), np.log(2 * room))),
    # Each fits a row, and no two of them do.
    "hard": lambda rng, room: rng.integers(room * 6 // 10, room * 7 // 10),
    "one": lambda rng, room: room // 2 + 1,
    "long": lambda rng, room: rng.integers(room, 5 * room),
}


class _Tokenizer:
  """Its texts are documents of ids already: number, place, number, place."""

  vocab_size = 1 << 20
  specials = specials.TRAINED

  def encode(self, documents):
    return documents

  def is_special(self, ids):
    return ids < len(specials.NAMES)


def _documents(kind, room, count, seed=0):
  """Returns ids no two of which are the same."""
  rng, start, found = np.random.default_rng(seed), 10, []
  for _ in range(count):
    length = int(_LENGTHS[kind](rng, room))
    found.append(np.arange(start, start + length))
    start += length
  return found


def _pack(documents, length, fit):
  counts = dict.fromkeys(packing.COUNTS, 0)
  data = ml_collections.ConfigDict(
      {"packing": "documents", "fit": fit, "length": length})
  rows = list(packing.pack(documents, _Tokenizer(), data, counts,
                           lambda num_chars: None))
  return np.stack([np.frombuffer(row, "<u4") for row in rows]), counts


def _pieces(rows_NxL):
  """Returns the pieces, and checks what stands around them."""
  s, found = specials.TRAINED, []
  for row in rows_NxL:
    row = np.trim_zeros(row - s.pad, "b") + s.pad
    assert row[0] == s.bos and row[-1] == s.eos and s.pad not in row
    for piece in np.split(row, np.flatnonzero(row == s.bos)[1:]):
      assert piece[0] == s.bos and piece[-1] == s.eos
      assert piece[1:-1].min() >= 10
      found.append(piece[1:-1])
  return found


@pytest.mark.parametrize("length", [16, 128, 1024])
@pytest.mark.parametrize("kind", _LENGTHS)
@pytest.mark.parametrize("fit", packing.FITS)
def test_nothing_is_lost_or_met_twice(kind, length, fit):
  documents = _documents(kind, length - 2, 10_000 // length)
  rows_NxL, counts = _pack(documents, length, fit)
  pieces = _pieces(rows_NxL)
  for piece in pieces:
    assert len(piece) >= _LEAST
    np.testing.assert_array_equal(np.diff(piece), 1)
  ids = np.sort(np.concatenate(pieces))
  assert len(ids) == len(np.unique(ids))
  given = np.concatenate(documents)
  assert len(given) - len(ids) == counts["dropped_tokens"]
  # What is dropped are ends of documents, each too short to be a piece.
  lost = np.setdiff1d(given, ids)
  ends = np.cumsum([len(d) for d in documents]) + 10
  assert np.all(ends[np.searchsorted(ends, lost, "right")] - lost < _LEAST)
  assert counts["tokens"] == np.count_nonzero(rows_NxL != specials.TRAINED.pad)
  assert counts["rows"] == len(rows_NxL)
  # A piece lies in one document: ids of two would follow each other there, too.
  number = np.searchsorted(ends, [[p[0], p[-1]] for p in pieces], "right")
  np.testing.assert_array_equal(number[:, 0], number[:, 1])


@pytest.mark.parametrize("kind", _LENGTHS)
def test_best_fit_pads_little_and_cuts_what_it_must(kind):
  """2 % of rows of 1,024 at most, whatever lengths are."""
  length = 1024
  documents = _documents(kind, length - 2, 1500)
  whole = [d for d in documents if len(d) <= length - 2]
  rows_NxL, counts = _pack(documents, length, "best")
  next_NxL, _ = _pack(documents, length, "next")
  padding = rows_NxL.size - counts["tokens"] - length  # The last row apart.
  assert padding <= rows_NxL.size / 64
  assert padding + counts["dropped_tokens"] < 0.02 * rows_NxL.size
  starts, starts_of_next = ({piece[0]: len(piece) for piece in _pieces(rows)}
                            for rows in (rows_NxL, next_NxL))
  num_cut, num_cut_by_next = (
      sum(found.get(d[0], len(d)) != len(d) for d in whole)
      for found in (starts, starts_of_next))
  if kind == "one":  # Two of them are one token too long.
    assert 0 < num_cut <= num_cut_by_next
  elif kind == "hard":
    assert 0 < num_cut < 0.6 * num_cut_by_next
  else:
    assert num_cut <= 0.01 * len(whole)
  for document in documents:
    if len(document) > length - 2:
      assert starts[document[0]] == length - 2


def _first_fit_decreasing(lengths, room, gap):
  """The textbook's: each into the first row that holds it, longest first."""
  rows = []
  for length in sorted(lengths, reverse=True):
    for row in rows:
      if sum(row) + gap * len(row) + length <= room:
        row.append(length)
        break
    else:
      rows.append([length])
  return rows


@pytest.mark.parametrize("seed", range(20))
def test_without_a_cut_it_is_first_fit_decreasing(seed, monkeypatch):
  monkeypatch.setattr(best_fit, "_ROWS_A_PADDED_ONE", 0)
  rng = np.random.default_rng(seed)
  room, gap = int(rng.integers(30, 200)), int(rng.integers(0, 4))
  least = int(rng.integers(1, 9))
  lengths = rng.integers(least, room + 1, 150).tolist()
  found = list(best_fit.rows([bytes(n) for n in lengths], room, gap, least,
                             10**9))
  expected = _first_fit_decreasing(lengths, room, gap)
  assert [list(map(len, row)) for row, _ in found] == expected
  for row, left in found:
    assert left == room - sum(len(piece) + gap for piece in row)


def test_window_bounds_what_waits():
  read = 0
  def pieces():
    nonlocal read
    for length in np.random.default_rng(0).integers(8, 101, 5000).tolist():
      read += length
      yield bytes(length)
  given = most = 0
  for row, _ in best_fit.rows(pieces(), 100, 2, 8, 1000):
    most = max(most, read - given)
    given += sum(map(len, row))
  assert given == read and 1000 < most <= 1100


def test_a_cut_leaves_no_scrap():
  """Pieces that can hardly be cut: both parts are long enough, or none is."""
  for room in range(16, 40):
    for length in range(8, room + 1):
      pieces = [bytes([i]) * length for i in range(50)]
      rows = [row for row, _ in best_fit.rows(pieces, room, 2, 8, 200)]
      assert min(len(piece) for row in rows for piece in row) >= 8
      assert all(sum(len(p) + 2 for p in row) <= room + 2 for row in rows)
      found = [0] * 50
      for row in rows:
        for piece in row:
          found[piece[0]] += len(piece)
      assert found == [length] * 50
