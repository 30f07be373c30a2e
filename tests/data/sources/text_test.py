"""Text as it lies about: line ends, marks, endings, links, blank lines."""

import gzip
import itertools
import json
import os
import re

import numpy as np
import pytest

from latemask.data.sources import formats
from latemask.data.sources import lines as lines_lib
from latemask.data.sources import table as sources_lib
from latemask.data.sources import unpack
from latemask import errors
from tests import conftest

# What lines are made of: ends, spaces that are none, text; and no UTF-8.
_PIECES = [piece.encode() for piece in (
    "\n", "\r", "\r\n", "\n", "\n\n", " ", "\t", "\u3000", "\x85", "\u2028",
    "\x0b", "\x0c", "\x1c", "a", "b c", "é", "\ufeff", "word")] + [b"\xff"]


def _expected(data, between):
  """Returns (documents of a file, how many are no UTF-8), from all of it."""
  found = [row.lstrip("\ufeff").strip() for row in re.split(
      r"\r\n|\r|\n", data.decode(errors="surrogateescape"))]
  if between == "blank_lines":
    found = [" ".join(group) for is_text, group in itertools.groupby(
        found, bool) if is_text]
  found = list(filter(None, found))
  good = [row for row in found if not re.search("[\udc80-\udcff]", row)]
  return good, len(found) - len(good)


def _read(config, num_shards=1, bound=0):
  """Returns ({place: document} of a config's one source, how many are bad)."""
  source, = sources_lib.open_sources(config)
  found, bad = conftest.read_source(source, num_shards, bound)
  return found, bad.count


@pytest.mark.parametrize("between", formats.DOCUMENTS)
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


def _write(path, data):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz"
                   else data)


@pytest.mark.parametrize("name", ["a.txt", "a.raw", "a.txt.gz", "a.jsonl", "b.json.gz"])
def test_byte_order_mark_is_dropped(tiny, tmp_path, name):
  rows = ["one", "two \ufeff"]
  if "json" in name:
    rows = [json.dumps({"text": row}, ensure_ascii=False) for row in rows]
  # Two files with a mark, joined.
  data = "".join(f"\ufeff{row}\r\n" for row in rows)
  _write(tmp_path / name, data.encode())
  tiny.data.source = f"text:{tmp_path}/*"
  assert list(_read(tiny)[0].values()) == ["one", "two \ufeff"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_utf_16_is_named(tiny, tmp_path, encoding):
  """Most of its bytes are UTF-8 as well: bad documents are not counted."""
  _write(tmp_path / "a.txt", "Some text\n".encode(encoding) * 20)
  tiny.data.source = f"text:{tmp_path}/*"
  with pytest.raises(errors.InputError, match="a.txt is UTF-16.*iconv"):
    _read(tiny, bound=1000)


@pytest.mark.parametrize("data, message", [
    (b'\n[{"text": "a"},\n {"text": "b"}]', "one JSON array.*jq -c .\\[\\]"),
    (b'[{"text": "a"}, {"text": "b"}]', "one JSON array"),
    (b'{\n "text": "a"\n}\n', "over several lines.*jq"),
    (b'{"text":\r\n "a"}\r\n', "over several lines"),
    (b'{"text": "cut off\n{"text": "b"}\n', "at byte 0 is not JSON"),
])
def test_json_that_is_no_lines(tiny, tmp_path, monkeypatch, data, message):
  _write(tmp_path / "a.json", data)
  tiny.data.source = f"text:{tmp_path}/*"
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 20)
  with pytest.raises(errors.InputError, match=message):
    _read(tiny)


def test_old_mac_lines_are_read_a_block_at_a_time(monkeypatch, tmp_path):
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 100)
  monkeypatch.setattr(lines_lib, "_READ_BYTES", 10)
  (tmp_path / "a.txt").write_bytes(b"0123456789\r" * 1000)
  with (tmp_path / "a.txt").open("rb") as file:
    sizes = [len(block) for _, block in lines_lib.blocks(
        file, 0, 1, lambda head: None)]
  assert sum(sizes) == 11_000 and max(sizes) <= 110


def test_what_is_left_out_is_counted(tiny, tmp_path):
  for name, text in (("a.txt", "a"), ("UPPER.TXT", "b"),
                     ("my.jsonl.txt", '{"text": "no JSON"}'), ("none", "x"),
                     ("v1.0 (old)", "x"), ("n.md", "x"), ("t.pdf.gz", "x"),
                     ("c.json.gz", '{"text": "c"}'), ("e.gz", "x"),
                     ("d.JSONL.GZ", '{"text": "d"}'), ("sub.txt/e.md", "x")):
    _write(tmp_path / name, text.encode())
  (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
  tiny.data.source = f"text:{tmp_path}/*"
  assert sorted(_read(tiny)[0].values()) == [
      "a", "b", "c", "d", '{"text": "no JSON"}']
  source, = sources_lib.open_sources(tiny)
  assert source.notes == [
      f"text:{tmp_path}/*: 5 of 11 files are read; left out: 2 without an "
      "ending, 1 .gz, 1 .md, 1 .pdf.gz, 1 broken link or the like"]
  for pattern, message in (
      (tmp_path / "n.md", "is no file whose name ends in .txt, .raw, .js"),
      (tmp_path / "n*", "matches no file ending.*left out: 1 .md, 1 without"),
      (tmp_path, "give text:.*/\\*")):
    tiny.data.source = f"text:{pattern}"
    with pytest.raises(errors.InputError, match=message):
      sources_lib.open_sources(tiny)


@pytest.mark.parametrize("name, described", [
    ("manifest.json", {"settings": {}, "complete": False}),
    ("claim.json", {"token": "x", "beats": 3}),
    ("config.json", {"train": {}, "checkpoint": {}, "seed": 0})])
def test_what_is_written_here_is_no_text(tiny, tmp_path, name, described):
  """Workdirs and rows among the text; unless they are named themselves."""
  mine = tmp_path / "runs" / "one"
  (mine / "data").mkdir(parents=True)
  (mine / name).write_text(json.dumps(described))
  (mine / "data" / "rows-00000-of-00001.json").write_text("{}")
  (mine / "notes.txt").write_text("mine")
  (tmp_path / "a.txt").write_text("text")
  (tmp_path / "runs" / "manifest.json").write_text('{"text": "other"}')
  tiny.data.source = f"text:{tmp_path}/**"
  assert set(_read(tiny)[0].values()) == {"text", "other"}
  source, = sources_lib.open_sources(tiny)
  assert "3 of runs and packed rows" in source.notes[0]
  tiny.data.source = f"text:{mine}/*.txt"
  assert set(_read(tiny)[0].values()) == {"mine"}


def test_file_of_several_paths_is_one(tiny, tmp_path):
  folder = tmp_path / "d"
  _write(folder / "z" / "a.txt", b"one\n")
  _write(folder / "b.txt", b"two\n")
  for number in range(8):  # Each leads through all the others.
    (folder / f"again{number}").symlink_to(folder)
  (folder / "a.txt").symlink_to(folder / "z" / "a.txt")
  os.link(folder / "b.txt", folder / "c.txt")
  first = folder / "b.txt"
  tiny.data.source = f"text:{first},text:{folder}/**"
  one, other = sources_lib.open_sources(tiny)
  assert one.paths == (str(first),)
  # Which of the paths does not depend on how links are called.
  assert other.paths == (str(folder / "a.txt"),)
  assert other.notes == [
      f"text:{folder}/**: paths that lead to a file or folder which is read "
      "already, and are passed over: 11"]
  for pattern, found in (("**/*.txt", 2), ("**/z/*.txt", 1), ("**/z/**", 1),
                         ("**/again3/b.txt", 1), ("*/*.txt", 2)):
    tiny.data.source = f"text:{folder}/{pattern}"
    assert len(sources_lib.open_sources(tiny)[0].paths) == found, pattern
  # What is held out must not be trained on.
  held_out = sources_lib.open_source(f"text:{folder}/c.txt", tiny)
  assert sources_lib.shared([one, other], [held_out]) == [str(folder / "c.txt")]
  assert sources_lib.shared([other], [held_out]) == []


@pytest.mark.parametrize("text, is_short", [
    ("a wrapped line of text\n" * 200, True), ("few lines\n" * 5, False),
    ("a wrapped line of text\r" * 200, True), ("long " * 50 + "\n\n", False),
    ("some " * 40 + "\n\n", False), ("some " * 40 + "\n", False),
    (("some " * 40 + "\n") * 9 + "\n", True)])
def test_short_lines_are_warned_of(tiny, tmp_path, text, is_short):
  def notes():
    source, = sources_lib.open_sources(tiny)
    return "".join(source.notes)
  for name in ("a.raw", "a.txt"):
    _write(tmp_path / name, text.encode() * 19)
    tiny.data.source = f"text:{tmp_path}/{name}"
    assert ("tokens: is a line a document? If blank" in notes()) == is_short
  tiny.data.packing = "stream"
  assert not notes()
  tiny.data.packing, tiny.data.documents = "documents", "blank_lines"
  assert not notes()


def _refused(*_):
  raise PermissionError(13, "Permission denied")


def test_unreadable_file_is_named(tiny, tmp_path, monkeypatch):
  _write(tmp_path / "a.txt", b"text\n")
  tiny.data.source = f"text:{tmp_path}/*"
  source, = sources_lib.open_sources(tiny)
  with monkeypatch.context() as patch:
    patch.setattr(unpack.epath.Path("a").__class__, "open", _refused)
    with pytest.raises(errors.InputError, match="a.txt cannot be read .Perm"):
      source.files
  (tmp_path / "a.txt").unlink()
  with pytest.raises(errors.InputError, match="a.txt cannot be read .No such"):
    list(source._read(0, 0, 1, sources_lib.BadDocuments(0)))
