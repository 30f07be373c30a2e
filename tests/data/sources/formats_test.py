"""Rows of .csv and .tsv, a file a document, and all that compresses."""

import bz2
import csv
import gzip
import io
import lzma

import numpy as np
import pytest
import zstandard

from latemask.data.sources import lines as lines_lib
from latemask.data.sources import table as sources_lib
from latemask import errors
from tests import conftest

PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress,
        ".xz": lzma.compress, ".zst": zstandard.compress}


def _read(config, num_shards=1, bound=0):
  """Returns ({place: document} of a config's one source, who is bad)."""
  source, = sources_lib.open_sources(config)
  return conftest.read_source(source, num_shards, bound)


def _sorted(places):
  return [places[place] for place in sorted(places)]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".tsv"])
def test_every_form_in_every_packing(
    tiny, tmp_path, monkeypatch, ending, packing):
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 1000)
  texts = conftest.make_text(200).splitlines()
  data = {".txt": "{}\n", ".jsonl": '{{"text": "{}"}}\n', ".csv": "1,{}\r\n",
          ".tsv": "1\t{}\n"}[ending]
  head = {".csv": "\ufeffid,text\n", ".tsv": "id\ttext\n"}.get(ending, "")
  data = head + "".join(map(data.format, texts))
  half = len(data) // 2
  pack = PACK[packing]
  # Two members, as of files that were joined.
  (tmp_path / f"a{ending}{packing}").write_bytes(
      pack(data[:half].encode()) + pack(data[half:].encode()))
  tiny.data.source = f"text:{tmp_path}/*"
  places, _ = _read(tiny)
  assert _sorted(places) == texts
  assert _read(tiny, 3)[0] == _read(tiny, 20)[0] == places


@pytest.mark.parametrize("packing", list(PACK)[1:])
def test_damaged_packings_are_named(tiny, tmp_path, packing):
  path = tmp_path / f"a.txt{packing}"
  tiny.data.source = f"text:{path}"
  packed = PACK[packing](conftest.make_text(2000).encode())
  for data in (packed[:-9], packed[:len(packed) // 2], b"no such thing" * 9,
               b""):
    path.write_bytes(data)
    with pytest.raises(errors.InputError, match=(
        f"^{path} cannot be decompressed .*; make it anew$")):
      _read(tiny)


def test_zst_is_read_in_the_middle_of_frames(tiny, tmp_path):
  """Skippable frames, a large window, an empty frame; and many reads."""
  rng = np.random.default_rng(0)
  texts = ["".join(chr(97 + c) for c in rng.integers(0, 26, 5000))
           for _ in range(300)]
  data = "".join(f"{text}\n" for text in texts).encode()
  large = zstandard.ZstdCompressor(
      compression_params=zstandard.ZstdCompressionParameters(window_log=28))
  (tmp_path / "a.txt.zst").write_bytes(
      b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + large.compress(data[:700_000])
      + zstandard.compress(b"") + zstandard.compress(data[700_000:]))
  tiny.data.source = f"text:{tmp_path}/*"
  assert _sorted(_read(tiny, 5)[0]) == texts


@pytest.mark.parametrize("ending, delimiter", [(".csv", ","), (".tsv", "\t")])
def test_rows_are_those_of_the_csv_module(
    tiny, tmp_path, monkeypatch, ending, delimiter):
  rng = np.random.default_rng(0)
  pieces = ["a", "b c", '"', ",", "\t", "\n", "\r\n", "é", "''", " ", "\x0b"]
  for number in range(10):
    rows = [["".join(pieces[i] for i in rng.integers(0, len(pieces), 6)), "x"]
            for _ in range(20)]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=(
        csv.QUOTE_ALL, csv.QUOTE_MINIMAL)[number % 2]).writerows(
            [["text", "kind"]] + rows)
    (tmp_path / f"a{ending}").write_bytes(file.getvalue().encode())
    tiny.data.source = f"text:{tmp_path}/a{ending}"
    for block_bytes, num_shards in ((7, 3), (50, 2), (1000, 1)):
      monkeypatch.setattr(lines_lib, "BLOCK_BYTES", block_bytes)
      assert _sorted(_read(tiny, num_shards)[0]) == list(
          filter(None, [row[0].strip() for row in rows]))


def test_rows_that_are_bad(tiny, tmp_path):
  path = tmp_path / "a.csv"
  path.write_bytes(b'n,text\n1,one\n\n2,"two\nlines",3\n3,\xff\n4\n5,five\n'
                   b'6,"never closed\n7,seven\n')
  tiny.data.source = f"text:{path}"
  with pytest.raises(errors.InputError, match=(
      "a.csv: line 4: it has 3 columns, and the header has 2$")):
    _read(tiny)
  for number, message in ((1, "line 6: it is not UTF-8.*more than 1 doc"),
                          (2, "line 7: it has 1 columns"),
                          (3, "line 9: a quote begins in this row, and the")):
    with pytest.raises(errors.InputError, match=message):
      _read(tiny, bound=number)
  places, bad = _read(tiny, 1, bound=4)
  assert _sorted(places) == ["one", "five"] and bad.count == 4
  tiny.data.text_fields = ("body", "review")
  with pytest.raises(errors.InputError, match=(
      "a.csv has no column body or review in its first line .its columns are "
      "n, text.; name the one")):
    _read(tiny, bound=9)


def test_a_bad_row_is_counted_once_in_any_shards(tiny, tmp_path, monkeypatch):
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 100)
  (tmp_path / "a.csv").write_text("text\n" + "".join(
      f"line {i}{',' * (i % 10 == 0)}\n" for i in range(100)))
  tiny.data.source = f"text:{tmp_path}/a.csv"
  for num_shards in (1, 2, 7):
    places, bad = _read(tiny, num_shards, bound=10)
    assert len(places) == 90 and bad.count == 10


def test_a_long_field_is_read(tiny, tmp_path):
  (tmp_path / "a.csv").write_text("text\n" + "word " * 10**5 + "\n")
  tiny.data.source = f"text:{tmp_path}/a.csv"
  assert len(_sorted(_read(tiny)[0])[0]) == 5 * 10**5 - 1


def test_a_file_is_a_document(tiny, tmp_path):
  for name, data in (("b.md", b"# Two\r\n\r\nlines\n"), ("none", b" "),
                     ("a.py.gz", gzip.compress(b"\xef\xbb\xbfcode\n")),
                     ("d.txt", b"bad \xff"), ("e.bin", b"a\0b"),
                     ("sub/c.html", b"<p>")):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data)
  tiny.data.source = f"files:{tmp_path}/**"
  places, bad = _read(tiny, 1, bound=2)
  assert _sorted(places) == ["code", "# Two\n\nlines", "<p>"] and bad.count == 2
  assert _read(tiny, 4, bound=2)[0] == _read(tiny, 50, bound=2)[0] == places
  with pytest.raises(errors.InputError, match="d.txt: byte 4 is not UTF-8"):
    _read(tiny)
  (tmp_path / "d.txt").unlink()
  with pytest.raises(errors.InputError, match="e.bin holds zeros"):
    _read(tiny)
  # What is held out must not be trained on, as another kind of source.
  other = sources_lib.open_source(f"files:{tmp_path}/sub/*", tiny)
  assert sources_lib.shared([other], sources_lib.open_sources(tiny)) == [
      f"{tmp_path}/sub/c.html"]
  tiny.data.source = f"files:{tmp_path}/*.epub"
  with pytest.raises(errors.InputError, match=r"\*.epub matches no file$"):
    _read(tiny)
