"""Text as it lies about: line ends, marks, endings, links, blank lines."""

import gzip
import itertools
import json
import os
import re

import numpy as np
import pytest

from latemask import errors
from latemask.data import lines as lines_lib
from latemask.data import sources
from latemask.data import text as text_lib
from tests import conftest

# What lines are made of: ends, spaces that are none, text; and no UTF-8.
_PIECES = [piece.encode() for piece in (
    "\n", "\r", "\r\n", "\n", "\n\n", " ", "\t", "\u3000", "\x85", "\u2028",
    "\x0b", "\x0c", "\x1c", "a", "b c", "é", "\ufeff", "word")] + [b"\xff"]


def _expected(data, between):
  """Returns (documents of a file, how many are no UTF-8), from all of it."""
  text = data.decode("utf-8-sig", "surrogateescape")
  found = list(filter(None, map(str.strip, re.split(r"\r\n|\r|\n", text))))
  if between == "blank_lines":
    rows = map(str.strip, re.split(r"\r\n|\r|\n", text))
    found = [" ".join(group) for is_text, group in itertools.groupby(
        rows, bool) if is_text]
  good = [row for row in found if not re.search("[\udc80-\udcff]", row)]
  return good, len(found) - len(good)


def _read(config, num_shards=1, bound=0):
  """Returns ({place: document} of a config's one source, how many are bad)."""
  source, = sources.open_sources(config)
  bad = sources.BadDocuments(bound)
  found = [pair for s in range(num_shards)
           for pair in source.documents(s, num_shards, bad)]
  assert len(dict(found)) == len(found)
  return dict(found), bad.count


@pytest.mark.parametrize("between", text_lib.DOCUMENTS)
def test_any_blocks_and_shards_give_the_documents(
    tiny, tmp_path, monkeypatch, between):
  monkeypatch.setattr(lines_lib, "_READ_BYTES", 3)
  rng = np.random.default_rng(0)
  tiny.data.documents = between
  for number in range(20):
    # In every second one all is UTF-8.
    pieces = _PIECES[:len(_PIECES) - number % 2]
    data = b"\xef\xbb\xbf" * int(rng.integers(2)) + b"".join(
        pieces[i] for i in rng.integers(0, len(pieces), rng.integers(60)))
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    good, num_bad = _expected(data, between)
    for block_bytes in (4, 5, 17, 1000):
      monkeypatch.setattr(lines_lib, "BLOCK_BYTES", block_bytes)
      found = []
      for name, num_shards in (("a.txt", 1), ("a.txt", 2), ("a.txt", 7),
                               ("a.txt.gz", 1), ("a.txt.gz", 3)):
        tiny.data.source = f"text:{tmp_path}/{name}"
        found.append(_read(tiny, num_shards, bound=100))
      assert all(f == found[0] for f in found), (data, block_bytes)
      places, count = found[0]
      assert count == num_bad, (data, block_bytes)
      assert [places[p] for p in sorted(places)] == good, (data, block_bytes)
