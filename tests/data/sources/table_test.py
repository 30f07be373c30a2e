"""Sources: every document once, whatever the shards; bad files named."""

import gzip
import json
import pickle

import pytest

from latemask.data.sources import lines as lines_lib
from latemask.data.sources import table as sources_lib
from latemask import errors
from tests import conftest

NONE_BAD = sources_lib.BadDocuments(0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 64)


def _documents(config, num_shards, bound=0):
  opened = sources_lib.open_sources(config)
  shards = [list(sources_lib.documents(opened, s, num_shards,
                                       sources_lib.BadDocuments(bound)))
            for s in range(num_shards)]
  return [[text for _, text in shard] for shard in shards]


def _places(source, num_shards):
  """Returns {place: text} of a source, each met once."""
  found = [pair for s in range(num_shards)
           for pair in source.documents(s, num_shards, NONE_BAD)]
  assert len(dict(found)) == len(found)
  return dict(found)


def _write(path, lines):
  data = "".join(line + "\n" for line in lines).encode()
  if path.suffix == ".gz":
    data = gzip.compress(data)
  path.write_bytes(data)


@pytest.mark.parametrize("num_shards", [1, 2, 7, 50])
def test_every_document_once(tiny, tmp_path, num_shards):
  lines = conftest.make_text(40).splitlines()
  lines[7] = "x" * 300  # Longer than several blocks.
  lines[8] = ""
  _write(tmp_path / "a.txt", lines[:12])
  _write(tmp_path / "b.txt.gz", lines[12:30])
  _write(tmp_path / "c.jsonl", [json.dumps({"text": t}) for t in lines[30:35]])
  _write(tmp_path / "d.jsonl.gz", [
      json.dumps({"other": 1, "book_text": t}) for t in lines[35:]])
  (tmp_path / "ignored.pdf").write_text("nothing")
  tiny.data.source = f"text:{tmp_path}/*"
  shards = _documents(tiny, num_shards)
  assert sorted(sum(shards, [])) == sorted(filter(None, lines))
  if num_shards == 7:
    assert sum(map(bool, shards)) == 7
  # A document has its place, whatever the shards are and the gzip files read.
  source, = sources_lib.open_sources(tiny)
  places = _places(source, num_shards)
  assert places == _places(source, 3)
  assert [places[p] for p in sorted(places)] == list(filter(None, lines))


def test_line_that_starts_a_block_belongs_to_it(tiny, tmp_path):
  # 63 bytes and a line feed: every line starts exactly at a block.
  _write(tmp_path / "a.txt", [f"{i:063d}" for i in range(9)])
  tiny.data.source = f"text:{tmp_path}/a.txt"
  assert _documents(tiny, 3) == [
      [f"{i:063d}" for i in range(s, 9, 3)] for s in range(3)]


def test_enough_gzip_files_are_read_whole(tiny, tmp_path):
  for index in range(4):
    _write(tmp_path / f"{index}.txt.gz", [f"{index} {j}" for j in range(40)])
  tiny.data.source = f"text:{tmp_path}/*.gz"
  assert [sorted({d[0] for d in shard}) for shard in _documents(tiny, 2)] == [
      ["0", "2"], ["1", "3"]]


def test_globs_cross_folders_and_sources_join(tiny, tmp_path):
  (tmp_path / "x" / "y").mkdir(parents=True)
  _write(tmp_path / "x" / "y" / "deep.txt", ["deep"])
  _write(tmp_path / "top.txt", ["top"])
  tiny.data.source = f"text:{tmp_path}/**/*.txt, text:{tmp_path}/top.txt"
  assert sorted(_documents(tiny, 1)[0]) == ["deep", "top"]


@pytest.mark.parametrize("text, parts", [
    ("builtin", ["builtin"]), ("text:a, builtin ,", ["text:a", "builtin"]),
    ("text:/x,y/*.txt,text:b,tfds:c/1.0:train[:10%]+test,builtin",
     ["text:/x,y/*.txt", "text:b", "tfds:c/1.0:train[:10%]+test", "builtin"]),
    ("text:a,builtin.txt", ["text:a,builtin.txt"]),
    ("parquet:a,arrow:b, files:c,csv:d", ["parquet:a", "arrow:b",
                                          "files:c,csv:d"]),
    ("text:a@0.7 , builtin@30%", ["text:a", "builtin"]),
    ("text:x[,]text:y", ["text:x[,]text:y"]),
    ("text:me@host/a@b.txt,text:x[@]0.7", ["text:me@host/a@b.txt",
                                           "text:x[@]0.7"])])
def test_grammar(text, parts):
  assert sources_lib.specs(text) == parts


def test_names_with_commas_and_brackets(tiny, tmp_path):
  for number, name in enumerate((
      "a,b.txt", ",text:.txt", "c[1].txt", "@0.5.txt")):
    _write(tmp_path / name, [str(number)])
  for number, pattern in enumerate((
      "a,b.txt", "[,]text:.txt", "c[1].txt", "[@]0.5.txt")):
    tiny.data.source = f"text:{tmp_path}/{pattern}"
    assert _documents(tiny, 1) == [[str(number)]]


def test_sample_is_bounded_and_even(tiny, tmp_path, monkeypatch):
  monkeypatch.setattr(sources_lib, "_SAMPLE_DOCUMENTS", 100)
  _write(tmp_path / "a.txt", [f"{i:09d}" for i in range(2000)])
  tiny.data.source = f"text:{tmp_path}/a.txt"
  opened = sources_lib.open_sources(tiny)
  numbers = [int(d) for d in sources_lib.sample(opened, 5000, NONE_BAD)]
  # 500 of 2,000 lines: about 125 of each quarter.
  assert all(80 < sum(q * 500 <= n < q * 500 + 500 for n in numbers) < 170
             for q in range(4))
  assert list(sources_lib.sample(opened, 10**6, NONE_BAD)) == [
      f"{i:09d}" for i in range(2000)]


def test_sample_is_even_where_files_hold_more_than_they_tell(
    tiny, tmp_path, monkeypatch):
  """Members that were joined tell the bytes of the last one."""
  monkeypatch.setattr(sources_lib, "_SAMPLE_DOCUMENTS", 100)
  (tmp_path / "a.txt.gz").write_bytes(b"".join(
      gzip.compress("".join(f"{i:09d}\n" for i in range(start, start + 50)
                            ).encode()) for start in range(0, 2000, 50)))
  tiny.data.source = f"text:{tmp_path}/a.txt.gz"
  opened = sources_lib.open_sources(tiny)
  assert opened[0].size_bytes < 10_000
  sample = list(sources_lib.sample(opened, 5000, NONE_BAD))
  assert 2500 <= sum(map(len, sample)) <= 10_000
  numbers = list(map(int, sample))
  assert all(0.7 < 4 / len(numbers) * sum(
      q * 500 <= n < q * 500 + 500 for n in numbers) < 1.3 for q in range(4))


def test_sample_takes_the_beginning_of_long_documents(tiny, tmp_path):
  _write(tmp_path / "a.txt", ["x" * 100_000] * 50)
  tiny.data.source = f"text:{tmp_path}/a.txt"
  sample = list(sources_lib.sample(
      sources_lib.open_sources(tiny), 2_500_000, NONE_BAD))
  assert 10 < len(sample) < 40 and set(map(len, sample)) == {2500}


def test_builtin(tiny):
  opened = sources_lib.open_sources(tiny)
  places = dict(p for s in range(0, 128, 32)
                for p in sources_lib.documents(opened, s, 128, NONE_BAD))
  documents = list(places.values())
  assert sum(map(len, documents)) > 25_000
  assert all("\n" not in d for d in documents)
  assert places == dict(opened[0].documents(0, 32, NONE_BAD))
  # Where Python lies is another machine's own affair.
  assert opened[0].size_bytes > 10**6 and vars(opened[0])
  sent = pickle.loads(pickle.dumps(opened[0]))
  assert not vars(sent) and sent.fingerprint == opened[0].fingerprint


def test_default_shards(tiny, tmp_path):
  _write(tmp_path / "a.txt", ["some text"])
  tiny.data.source = f"text:{tmp_path}/a.txt"
  assert sources_lib.default_shards(sources_lib.open_sources(tiny)) == 1


@pytest.mark.parametrize("name, data, message", [
    ("a.txt", b"fine\nbad \xff byte\n", r"a\.txt: byte 9 is not UTF-8"),
    ("a.jsonl", b'{"text": "fine"}\n{"text"\n', "line at byte 17 is not JSON"),
    ("a.jsonl", b'{"body": "text"}\n', "no text under text or book_text"),
    ("a.jsonl", b'["text"]\n', "no text under"),
    ("a.jsonl", b'{"text": "\xff"}\n', "at byte 0 is not JSON in UTF-8"),
    ("a.jsonl", b'{"text": "\\ud83d"}\n', "at byte 0 is not JSON in UTF-8"),
    ("a.jsonl", b'{"\\ud83d": 1}\n', "no text under .*it has [?]"),
    ("a.jsonl", b'{"n": ' + b"1" * 5000 + b"}\n", "at byte 0 is not JSON"),
    ("a.json", b'{"n": ' + b"1" * 5000 + b"}\n", "at byte 0 is not JSON"),
    ("a.txt.gz", b"not gzip at all", "cannot be decompressed"),
    ("a.txt.gz", gzip.compress(b"words " * 1000, mtime=0)[:-20],
     "cannot be decompressed"),
])
def test_undecodable_files(tiny, tmp_path, name, data, message):
  (tmp_path / name).write_bytes(data)
  tiny.data.source = f"text:{tmp_path}/{name}"
  with pytest.raises(errors.InputError, match=message):
    _documents(tiny, 1)


def test_bad_documents_are_skipped_up_to_a_bound(tiny, tmp_path):
  good = conftest.make_text(30).splitlines()
  lines = [line.encode() + b"\n" for line in good]
  # Old Mac line ends part documents in a bad block, too.
  lines[3] = lines[3].replace(b"\n", b"\r")
  for place in (25, 9, 9, 0):
    lines.insert(place, b"so \xff far\n")
  (tmp_path / "a.txt").write_bytes(b"".join(lines))
  objects = [json.dumps({"text": t}).encode() + b"\n" for t in good]
  for place, line in ((30, b"{\n"), (20, b'{"body": "x"}\n'), (8, b'"x"\n'),
                      (7, b'{"text": "\\ud83d"}\n'), (6, b"[" * 10**5 + b"\n"),
                      (0, b'{"text": "\xff"}\n')):
    objects.insert(place, line)
  (tmp_path / "b.jsonl").write_bytes(b"".join(objects))
  tiny.data.source = f"text:{tmp_path}/*"
  opened = sources_lib.open_sources(tiny)
  for num_shards in (1, 5):
    bad = sources_lib.BadDocuments(10)
    found = [d for s in range(num_shards)
             for _, d in sources_lib.documents(opened, s, num_shards, bad)]
    assert sorted(found) == sorted(good * 2)
    assert bad.count == 10 and "a.txt: byte 3 is not UTF-8" in bad.first
  # The tenth is the last line.
  last = (tmp_path / "b.jsonl").stat().st_size - 2
  with pytest.raises(errors.InputError, match=(
      f"b.jsonl: the line at byte {last} is not JSON.*more than 9 documents")):
    _documents(tiny, 1, bound=9)
  with pytest.raises(errors.InputError, match="more than 9 documents"):
    list(sources_lib.sample(opened, 10**7, sources_lib.BadDocuments(9)))
  assert sorted(sources_lib.sample(opened, 10**7, sources_lib.BadDocuments(10))) == (
      sorted(good * 2))
  # Of other shards.
  with pytest.raises(errors.InputError, match="byte 3 .*more than 10"):
    list(sources_lib.documents(opened, 0, 1, sources_lib.BadDocuments(10, before=10)))


@pytest.mark.parametrize("source, message", [
    ("", "is empty"), (" , ", "is empty"),
    ("text:/nowhere/*.txt", "matches no file"),
    ("text:/a.txt,/b.txt", "no file .* comma is part of the name unless"),
    ("csv:a", "text, files, parquet, arrow, tfds, builtin"), ("builtin:2", "takes no argument"),
    ("tfds:no_such_set_at_all", "is no TFDS set .*data.tfds_dir"),
])
def test_bad_sources(tiny, tmp_path, source, message):
  tiny.data.source = source
  tiny.data.tfds_dir = str(tmp_path)
  with pytest.raises(errors.InputError, match=message):
    sources_lib.open_sources(tiny)


@pytest.mark.parametrize("source, text", [
    ("/nowhere/x.txt", "text:/nowhere/x.txt"), ("x.jsonl.gz", "text:x.jsonl.gz"),
    ("books/*", "text:books/*"), ("./books", "text:./books"),
    ("gs://bucket/x", "text:gs://bucket/x"),
    ("x.parquet", "parquet:x.parquet"), ("./a/*.arrow", "arrow:./a/*.arrow"),
    ("there", "text:there"), ("folder", "text:folder/*"),
    ("~/x.txt", "text:/home/me/x.txt")])
def test_a_path_is_told_its_kind(tiny, tmp_path, monkeypatch, source, text):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", "/home/me")
  (tmp_path / "there").touch()
  (tmp_path / "folder").mkdir()
  for key in ("source", "eval_source"):
    tiny.data[key] = source
    with pytest.raises(errors.InputError) as error:
      sources_lib.open_sources(tiny, f"data.{key}")
    assert str(error.value) == (
        f"data.{key} is {source!r}, a path without its kind; write {text}")


def test_what_is_no_path_is_told_the_kinds(tiny):
  tiny.data.source = "wikipedia/20230601.en"
  with pytest.raises(errors.InputError, match="text, files, parquet, arrow, tfds, builtin"):
    sources_lib.open_sources(tiny)
