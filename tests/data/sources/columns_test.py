"""Parquet and Arrow: every row once, whatever the shards; files are named."""

import json
import os
import pickle

import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from latemask.data import estimate
from latemask.data import held_out
from latemask.data import prepare as prepare_lib
from latemask.data.sources import arrow
from latemask.data.sources import columns
from latemask.data.sources import table as sources_lib
from latemask import errors
from tests import conftest

TEXTS = conftest.make_text(500).splitlines()


def _table(texts, column="text", kind=pa.string()):
  return pa.table({"id": list(range(len(texts))),
                   column: pa.array(texts, kind)})


def _write_parquet(path, texts, group_rows=40, **options):
  parquet.write_table(_table(texts, **options), path,
                      row_group_size=group_rows)


def _write_stream(path, texts, group_rows=40, **options):
  """As `datasets` writes."""
  table = _table(texts, **options)
  with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(
      file, table.schema) as writer:
    writer.write_table(table, group_rows)


def _write_file(path, texts, group_rows=40, **options):
  table = _table(texts, **options)
  with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(
      file, table.schema, options=pa.ipc.IpcWriteOptions(
          compression="zstd")) as writer:
    writer.write_table(table, group_rows)


WRITERS = {"parquet": (_write_parquet, "parquet"),
           "stream": (_write_stream, "arrow"), "file": (_write_file, "arrow")}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path, tiny):
  """Writes tables of a kind, and sets the source to all of them."""
  writer, kind = WRITERS[request.param]
  tiny.data.source = f"{kind}:{tmp_path}/*.{kind}"

  def call(name, *args, **options):
    path = tmp_path / f"{name}.{kind}"
    writer(path, *args, **options)
    return path
  return call


def _open(config):
  source, = sources_lib.open_sources(config)
  return source


def test_every_row_once_in_any_shards(write, tiny, monkeypatch):
  monkeypatch.setattr(arrow, "_BATCH_BYTES", 1000)
  write("a", TEXTS[:300])  # Eight groups.
  write("b", TEXTS[300:340], 1000)
  write("c", TEXTS[340:], 1000, kind=pa.large_string())
  source = _open(tiny)
  expected, _ = conftest.read_source(source, 1)
  assert [expected[p] for p in sorted(expected)] == TEXTS
  for num_shards in (2, 7, 10, 33, 900):
    # Another process knows the files by what is sent.
    sent = pickle.loads(pickle.dumps(source))
    assert conftest.read_source(sent, num_shards)[0] == expected
  # As many shards as groups: none has much more than its part.
  sizes = [sum(map(len, dict(source.documents(s, 10, None)).values()))
           for s in range(10)]
  assert max(sizes) < 2.2 * np.mean(sizes) and min(sizes) > 0
  assert abs(source.size_bytes - sum(map(len, TEXTS))) < 0.2 * sum(sizes)
  assert list(source.files) == list(source.paths)


def test_a_part_of_a_group_is_read_alone(write, tiny, monkeypatch):
  """A shard unpacks what stands before its run, and nothing behind it."""
  write("a", TEXTS, 1000)
  source, read = _open(tiny), []
  monkeypatch.setattr(arrow, "_BATCH_BYTES", 1000)
  strings = arrow._strings
  monkeypatch.setattr(
      arrow, "_strings", lambda array: read.append(len(array)) or strings(array))
  assert len(list(source.documents(3, 50, None))) == 10 == sum(read)


def test_first_of_the_columns_and_texts_that_are_none(write, tiny):
  texts = ["one", None, "  ", "two \n lines ", None]
  path = write("a", texts, column="book_text")
  with pytest.raises(errors.InputError, match=(
      f"{path}: book_text of row 1 is empty .null.$")):
    conftest.read_source(_open(tiny), 1)
  found, bad = conftest.read_source(_open(tiny), 2, bound=2)
  assert sorted(found.values()) == ["one", "two \n lines"] and bad.count == 2
  tiny.data.text_fields = ("body", "text")
  with pytest.raises(errors.InputError, match=(
      f"{path} has no column body or text; it has id, book_text; name")):
    _open(tiny).size_bytes
  tiny.data.text_fields = ("id",)
  with pytest.raises(errors.InputError, match="id is of type int64, not str"):
    _open(tiny).size_bytes


def test_a_name_that_two_columns_have(tiny, tmp_path):
  texts = pa.array(["one"])
  parquet.write_table(pa.table([texts, texts], ["text", "text"]),
                      tmp_path / "a.parquet")
  tiny.data.source = f"parquet:{tmp_path}/*.parquet"
  with pytest.raises(errors.InputError, match="a.parquet has 2 columns text"):
    _open(tiny).size_bytes


def test_names_that_are_not_utf_8(tiny, tmp_path):
  path = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.parquet")
  with open(path, "wb") as file:
    parquet.write_table(_table(TEXTS), file)
  tiny.data.source = f"parquet:{tmp_path}/*.parquet"
  with pytest.raises(errors.InputError, match=r"udce9.parquet' is no name in U"):
    _open(tiny).size_bytes
  said, = sources_lib._named("new", [path])
  assert "\\udce9.parquet" in said and said.encode()


def test_no_utf_8_is_a_bad_document(write, tiny):
  broken = pa.array([b"one", b"\xff", b"two"]).view(pa.string())
  write("a", broken)
  found, bad = conftest.read_source(_open(tiny), 1, bound=1)
  assert list(found.values()) == ["one", "two"]
  assert "text of row 1 is not UTF-8" in bad.first


@pytest.mark.parametrize("damage", [
    lambda data: data[:len(data) * 2 // 3], lambda data: b"",
    lambda data: b"no table at all" * 10])
def test_damaged_files_are_named(write, tiny, damage):
  path = write("a", TEXTS)
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(errors.InputError, match=(
      f"^{path} is no (parquet|Arrow) file, or is cut off .*$")) as error:
    _open(tiny).size_bytes
  assert "\n" not in str(error.value)


def test_a_damaged_page_is_named(tiny, tmp_path):
  path = tmp_path / "a.parquet"
  _write_parquet(path, TEXTS)
  data = bytearray(path.read_bytes())
  data[200:2000] = b"\xff" * 1800
  path.write_bytes(data)
  tiny.data.source = f"parquet:{path}"
  with pytest.raises(errors.InputError, match="a.parquet is no parquet file"):
    conftest.read_source(_open(tiny), 1)


def _save_to_disk(folder, texts):
  """What `datasets.Dataset.save_to_disk` writes."""
  folder.mkdir(parents=True)
  names = [f"data-{i:05d}-of-00002.arrow" for i in range(2)]
  for i, name in enumerate(names):
    _write_stream(folder / name, texts[i::2])
  (folder / "dataset_info.json").write_text("{}")
  (folder / "state.json").write_text(json.dumps(
      {"_data_files": [{"filename": name} for name in names],
       "_fingerprint": "0", "_split": "train"}))


def test_saved_folders(tiny, tmp_path):
  folder = tmp_path / "set"
  _save_to_disk(folder / "train", TEXTS)
  # What a map over the set leaves there is none of it.
  _write_stream(folder / "train" / "cache-1.arrow", TEXTS)
  (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
  for pattern in (folder / "train", f"{tmp_path}/*/tr*"):
    tiny.data.source = f"arrow:{pattern}"
    assert sorted(conftest.read_source(_open(tiny), 3)[0].values()) == sorted(TEXTS)
  tiny.data.source = f"arrow:{folder}"
  with pytest.raises(errors.InputError, match=(
      f"holds the sets train, test; name one, as arrow:{folder}/train$")):
    _open(tiny)
  tiny.data.source = str(folder / "train")
  with pytest.raises(errors.InputError, match=f"write arrow:{folder}/train$"):
    _open(tiny)
  (folder / "train" / "data-00001-of-00002.arrow").unlink()
  tiny.data.source = f"arrow:{folder}/train"
  with pytest.raises(errors.InputError, match="00001-of-00002.arrow is miss"):
    _open(tiny)
  (folder / "train" / "state.json").write_text("{}")
  with pytest.raises(errors.InputError, match="no folder that datasets has s"):
    _open(tiny)


def test_a_stream_with_dictionaries_is_refused(tiny, tmp_path):
  table = _table(TEXTS).append_column(
      "kind", pa.array(["x"] * len(TEXTS)).dictionary_encode())
  with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(
      file, table.schema) as writer:
    writer.write_table(table)
  tiny.data.source = f"arrow:{tmp_path}/a.arrow"
  with pytest.raises(errors.InputError, match="a.arrow is a stream with dict"):
    _open(tiny).size_bytes


def test_what_is_held_out_does_not_depend_on_shards(write, tiny):
  write("a", TEXTS)
  sources = sources_lib.open_sources(tiny)
  split = held_out.split(tiny, sources, [])
  def trained(num_shards):
    return sorted(text for s in range(num_shards)
                  for _, text in sources_lib.documents(held_out.trained(
                      sources, split), s, num_shards, None))
  assert trained(1) == trained(9)
  assert 400 < len(trained(1)) < 490


def test_large_groups_are_not_read_too_often(write, tiny, monkeypatch):
  write("a", TEXTS, 250)
  assert _open(tiny).max_shards is None
  monkeypatch.setattr(columns, "_LARGE_BYTES", 1000)
  assert 31 <= _open(tiny).max_shards <= 33


def test_packing_it(write, tiny, tmp_path, capsys):
  """Estimates, rows, and what is said of later changes."""
  path = write("a", TEXTS + [None])
  tiny.data.max_bad_documents = 1
  estimated = estimate.dry_run(tiny, tmp_path / "none")
  packed = prepare_lib.prepare(tiny, tmp_path / "1")
  totals = packed.manifest["totals"]
  assert (totals["documents"], totals["bad_documents"]) == (500, 1)
  for key in ("documents", "tokens", "rows", "bad_documents"):
    assert abs(estimated[key] - totals[key]) <= 0.05 * totals[key], key
  write("a", TEXTS[::-1])
  capsys.readouterr()
  prepare_lib.prepare(tiny, tmp_path / "1")
  assert f"was packed from other text: 1 changed ({path})" in (
      capsys.readouterr().out)
  tiny.data.max_bad_documents = 0
  write("a", [None] + TEXTS)
  with pytest.raises(errors.InputError, match="text of row 0 is empty"):
    prepare_lib.prepare(tiny, tmp_path / "3")


@pytest.mark.slow
def test_two_processes_pack_the_same(tiny, tmp_path):
  _write_parquet(tmp_path / "a.parquet", TEXTS)
  tiny.data.source = f"parquet:{tmp_path}/a.parquet"
  digests = set()
  for tiny.data.workers in (1, 2):
    digests.add(prepare_lib.prepare(
        tiny, tmp_path / f"{tiny.data.workers}").digest)
  assert len(digests) == 1
