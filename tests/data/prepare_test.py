"""Packing: every token accounted for, restartable, the same by any workers."""

import dataclasses
import gzip
import json
import os
import pickle

import numpy as np
import pytest

from latemask.data import estimate
from latemask.data import held_out
from latemask.data import packed_set
from latemask.data import packing
from latemask.data import prepare as prepare_lib
from latemask.data import shards
from latemask.data.sources import lines as lines_lib
from latemask.data.sources import table as sources_lib
from latemask.data.sources import text as text_lib
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask.data.tokenizers import specials
from latemask import errors
from tests import conftest


def _rows(packed):
  from array_record.python import array_record_data_source
  records = array_record_data_source.ArrayRecordDataSource(packed.paths)
  return np.stack([np.frombuffer(r, np.uint16) for r in records])


def _bytes(directory):
  return {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.fixture
def config(corpus):
  return conftest.tiny_config(f"text:{corpus}/*.txt")


def _expected_pieces(config, packed):
  """The documents' ids, as the tokenizer itself gives them, in order."""
  opened, num_shards = sources_lib.open_sources(config), config.data.shards
  texts = []
  for shard in range(num_shards):
    aside = []
    texts += [text for _, text in sources_lib.documents(
        held_out.trained(opened, packed.split, aside.append), shard,
        num_shards, sources_lib.BadDocuments(0))]
    texts += [text for _, text in aside]
  return packed.tokenizer.encode(texts)


@pytest.mark.parametrize("fit", packing.FITS)
def test_documents_are_whole_between_special_tokens(config, tmp_path, fit):
  config.data.fit = fit
  packed = prepare_lib.prepare(config, tmp_path)
  rows = _rows(packed)
  assert rows.shape == (packed.manifest["totals"]["rows"], 32)
  stream = rows[rows != specials.TRAINED.pad]
  pieces = np.split(stream, np.flatnonzero(stream == specials.TRAINED.bos)[1:])
  for piece in pieces:
    assert piece[0] == specials.TRAINED.bos and piece[-1] == specials.TRAINED.eos
    assert np.all(piece[1:-1] >= len(specials.NAMES))
  text = np.concatenate([p[1:-1] for p in pieces])
  totals = packed.manifest["totals"]
  expected = _expected_pieces(config, packed)
  assert totals["documents"] == len(expected) == 400
  assert totals["tokens"] == len(stream)
  assert len(text) + totals["dropped_tokens"] == sum(map(len, expected))
  assert totals["dropped_tokens"] < 0.1 * len(text)
  if fit == "next":
    _check_in_order([p[1:-1] for p in pieces], expected)
  # What can be masked is counted in each part.
  parts = totals["parts"]
  cut = len(rows) - parts["held_out"]["rows"]
  for part, found in (("training", rows[:cut]), ("held_out", rows[cut:])):
    maskable = np.count_nonzero(found >= len(specials.NAMES))
    assert parts[part]["maskable_tokens"] == maskable > 1000
    assert parts[part]["tokens"] == np.count_nonzero(found != specials.TRAINED.pad)
  assert packed.maskable_share == parts["training"]["maskable_tokens"] / (
      parts["training"]["tokens"])


def _check_in_order(pieces, expected):
  """The pieces of a document are the document, but for an end too short."""
  pieces = iter(pieces)
  for ids in expected:
    found = np.zeros(0, int)
    while len(ids) - len(found) >= packing.MIN_PIECE_TOKENS:
      found = np.concatenate([found, next(pieces)])
    np.testing.assert_array_equal(found, ids[:len(found)])
  assert next(pieces, None) is None


def test_padding_is_rare(config, tmp_path):
  rows = _rows(prepare_lib.prepare(config, tmp_path))
  assert np.mean(rows == specials.TRAINED.pad) < 0.15


def test_stream_is_the_running_text(config, tmp_path):
  config.data.packing = "stream"
  packed = prepare_lib.prepare(config, tmp_path)
  rows = _rows(packed)
  assert np.all(rows[:, 0] == specials.TRAINED.bos)
  assert np.all(rows[:, 1:] != specials.TRAINED.bos)
  full = rows[~np.any(rows == specials.TRAINED.pad, axis=1)]
  assert len(rows) - len(full) <= 2 * config.data.shards
  ids = _expected_pieces(config, packed)[0]
  running = np.concatenate([r[1:-1] for r in rows])
  np.testing.assert_array_equal(running[:len(ids)], ids)
  assert running[len(ids)] == specials.TRAINED.eos


def test_a_stream_keeps_short_documents(config, tmp_path):
  """Lines of a dialogue; rows that are older than data.fit lack them."""
  (tmp_path / "a.txt").write_text("".join(
      f"{'a long line, ' * (i % 3 * 4)}{i}\n" for i in range(500)))
  config.data.source, config.data.packing = f"text:{tmp_path}/a.txt", "stream"
  packed = prepare_lib.prepare(config, tmp_path / "rows")
  assert packed.manifest["totals"]["dropped_documents"] == 0
  manifest = json.loads((tmp_path / "rows/manifest.json").read_text())
  del manifest["settings"]["fit"]
  (tmp_path / "rows/manifest.json").write_text(json.dumps(manifest))
  older = prepare_lib.prepare(config, tmp_path / "rows")
  for path in (tmp_path / "rows").glob("rows-*"):
    path.unlink()
  older = prepare_lib.prepare(config, tmp_path / "rows")
  assert older.manifest["totals"]["dropped_documents"] > 100


@pytest.mark.parametrize("kind", ["text", "files", "builtin"])
def test_an_estimate_of_every_kind_of_source(
    config, tmp_path, monkeypatch, kind):
  monkeypatch.setattr(estimate, "_SAMPLE_BYTES", 20_000)
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 2_000)
  if kind != "text":
    (tmp_path / "a").write_text(conftest.make_text(400))
    config.data.source = {"files": f"files:{tmp_path}/a"}.get(kind, kind)
  config.data.max_bad_documents = 10**6
  totals = estimate.dry_run(config, tmp_path / "out")
  assert totals["rows"] > 0 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [2_000_000, 40_000])
def test_an_estimate_reads_no_whole_packed_file(
    config, tmp_path, monkeypatch, size, capsys):
  monkeypatch.setattr(estimate, "_SAMPLE_BYTES", 100_000)
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 10_000)
  text = "".join(f"{i} is what this line is about\n" for i in range(9**6))
  for i in range(6):
    with gzip.open(tmp_path / f"{i}.txt.gz", "wt") as file:
      file.write(text[:size // (1 + i % 2)])
  read = []
  real = text_lib.Text._read
  def documents(*args):
    for found in real(*args):
      read.append(len(found[1]))
      yield found
  monkeypatch.setattr(text_lib.Text, "_read", documents)
  config.data.source = f"text:{tmp_path}/*.gz"
  totals = estimate.dry_run(config, tmp_path / "out")
  assert totals["documents"] == pytest.approx(3 * (
      text[:size].count("\n") + text[:size // 2].count("\n")), rel=0.1)
  assert sum(read) < 300_000


def _words(packed):
  """Returns the sets of words in training rows and in held-out ones."""
  found = ([], [])
  for path, num_rows, num_eval in zip(
      packed.paths, packed.num_rows, packed.num_eval_rows):
    rows = _rows(dataclasses.replace(packed, manifest={"shards": [{
        "file": path, "rows": num_rows}]}))
    for side, part in zip(found, np.split(rows, [num_rows - num_eval])):
      side += part.tolist()
  return [set(" ".join(packed.tokenizer.processor.decode(
      [[i for i in row if i >= len(specials.NAMES)] for row in side]
  )).split()) for side in found]


@pytest.mark.parametrize("how", ["documents", "stream"])
def test_no_document_is_on_both_sides(config, tmp_path, monkeypatch, how):
  """Each has a word of its own, often enough to be cut over many rows."""
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 1000)
  lines = [f"{chr(97 + i // 10) * 3}{chr(97 + i % 10) * 3} " * 40
           for i in range(120)]
  (tmp_path / "a.txt").write_text("\n".join(lines))
  config.data.source = f"text:{tmp_path}/a.txt"
  config.data.packing = how
  words = {line.split()[0] for line in lines}
  splits = []
  for num_shards in (1, 5):
    config.data.shards = num_shards
    packed = prepare_lib.prepare(config, tmp_path / str(num_shards))
    trained, held = ({w for w in side if w in words}
                     for side in _words(packed))
    assert trained | held == words and not trained & held
    assert 3 <= len(held) <= 30
    parts = packed.manifest["totals"]["parts"]
    assert parts["held_out"]["documents"] == len(held)
    assert parts["training"]["documents"] == len(trained)
    splits.append(held)
  assert splits[0] == splits[1]


def test_other_text_is_held_out(config, tmp_path):
  """All of it, and nothing of data.source; the tokenizer has not seen it."""
  (tmp_path / "a.txt").write_text(conftest.make_text(150))
  (tmp_path / "b.txt").write_text(
      conftest.make_text(100, seed=1).replace("e", "\u0436"))
  config.data.source = f"text:{tmp_path}/a.txt"
  config.data.eval_source = f"text:{tmp_path}/b.txt"
  packed = prepare_lib.prepare(config, tmp_path / "rows")
  parts = packed.manifest["totals"]["parts"]
  assert [parts[p]["documents"] for p in ("training", "held_out")] == [150, 100]
  trained, held = _words(packed)
  assert not any("\u0436" in word for word in trained)
  assert any("\u0436" in word for word in held)
  pieces = [packed.tokenizer.processor.id_to_piece(i)
            for i in range(packed.tokenizer.vocab_size)]
  assert not any("\u0436" in piece for piece in pieces)
  # The fraction is no setting then; text that changed is said of both.
  config.data.eval_fraction = 0.3
  assert packed_set.load(config, tmp_path / "rows").digest == packed.digest
  assert not packed_set.changes(config, packed)
  for name in "ab":
    with (tmp_path / f"{name}.txt").open("a") as file:
      file.write("More.\n")
  assert packed_set.changes(config, packed) == ", ".join(
      f"1 changed ({tmp_path}/{name}.txt)" for name in "ab")
  config.data.eval_source = None
  with pytest.raises(errors.InputError, match="another eval_source"):
    prepare_lib.prepare(config, tmp_path / "rows")


def test_text_that_is_named_on_both_sides_is_refused(config, tmp_path):
  (tmp_path / "a.txt").write_text(conftest.make_text(10))
  (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
  config.data.source = f"text:{tmp_path}/a.txt"
  for name in "ab":
    config.data.eval_source = f"text:{tmp_path}/{name}.txt"
    with pytest.raises(errors.InputError, match=(
        f"{tmp_path}/{name}.txt is named by data.source and by data.eval")):
      prepare_lib.prepare(config, tmp_path / "rows")
  assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize("fraction, what", [
    (0.9999, "to train on"), (1e-9, "held out")])
def test_a_set_without_a_part_is_refused(config, tmp_path, fraction, what):
  """Where it cannot be told ahead: short documents may make rows, or none."""
  long = ["the and of to in that he was it his but" * 3] * (fraction > 0.5)
  short = ["the and of to in that he was it his"] * 20 * (fraction < 0.5)
  (tmp_path / "a.txt").write_text("\n".join(["a b"] * 20_000 + long + short))
  config.data.source = f"text:{tmp_path}/a.txt"
  config.data.vocab_size = 280
  config.data.eval_fraction = fraction
  for _ in range(2):
    with pytest.raises(errors.InputError, match=(
        rf"eval_fraction {fraction} leaves no row {what}, of [\d,]+; name")):
      prepare_lib.prepare(config, tmp_path / "rows")
    assert packed_set.load(config, tmp_path / "rows") is None


def test_any_number_of_workers_and_a_stop_in_between(config, tmp_path):
  prepare_lib.prepare(config, tmp_path / "one")
  one = _bytes(tmp_path / "one")
  config.data.workers = 2
  prepare_lib.prepare(config, tmp_path / "two")
  assert _bytes(tmp_path / "two") == one
  # Stopped: one shard done, one half written, no complete manifest.
  two = tmp_path / "two"
  manifest = json.loads((two / "manifest.json").read_text())
  stopped = {k: manifest[k] for k in (
      "settings", "num_shards", "split", "sources", "eval_sources", "files")}
  (two / "manifest.json").write_text(json.dumps(stopped | {"complete": False}))
  done = two / manifest["shards"][0]["file"]
  before = done.stat().st_mtime_ns
  (two / manifest["shards"][1]["file"]).with_suffix(".json").unlink()
  (two / (manifest["shards"][1]["file"] + ".part")).write_bytes(b"half")
  config.data.workers = 1
  prepare_lib.prepare(config, two)
  assert _bytes(two) == one  # And no .part.
  assert done.stat().st_mtime_ns == before
  # The sources changed in between: shards would no longer fit together.
  stopped["sources"] = [{"other.txt": 7}]
  (two / "manifest.json").write_text(json.dumps(stopped | {"complete": False}))
  with pytest.raises(errors.InputError, match="have changed"):
    prepare_lib.prepare(config, two)


def test_job_can_be_sent_to_another_process(config, tmp_path):
  """With all that it takes: the sources are not opened again there."""
  prepare_lib.prepare(config, tmp_path / "here")
  def send(job):
    sent = pickle.dumps(job)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(sources_lib, "open_sources", None)
      for shard in job.todo:
        shards.pack(pickle.loads(sent), shard)
  prepare_lib.prepare(config, tmp_path / "there", send)
  assert _bytes(tmp_path / "here") == _bytes(tmp_path / "there")


def test_damaged_shards_are_named(config, tmp_path):
  packed = prepare_lib.prepare(config, tmp_path)
  before = _bytes(tmp_path)
  shard = tmp_path / packed.manifest["shards"][1]["file"]
  whole = shard.read_bytes()
  message = (f"{shard.name} is missing or cut off; delete {shard.name} and "
             f"{shard.with_suffix('.json').name}, and the same command")
  shard.write_bytes(whole[:-100])
  with pytest.raises(errors.InputError, match=message):
    prepare_lib.prepare(config, tmp_path)
  shard.unlink()
  with pytest.raises(errors.InputError, match=message):
    prepare_lib.prepare(config, tmp_path)
  # What the message advises; and a stop in the midst of it.
  shard.with_suffix(".json").unlink()
  def stop(job):
    assert job.todo == (1,)
    raise KeyboardInterrupt
  with pytest.raises(KeyboardInterrupt):
    prepare_lib.prepare(config, tmp_path, stop)
  assert packed_set.load(config, tmp_path) is None
  assert prepare_lib.prepare(config, tmp_path).digest == packed.digest
  assert _bytes(tmp_path) == before
  # Files that are not needed to train are not missed.
  shard.with_suffix(".json").unlink()
  assert packed_set.load(config, tmp_path).digest == packed.digest


def test_complete_set_is_loaded_without_its_sources(config, tmp_path, capsys):
  text = tmp_path / "text"
  text.mkdir()
  (text / "a.txt").write_text(conftest.make_text(200))
  config.data.source = f"text:{text}/*.txt"
  first = prepare_lib.prepare(config, tmp_path / "rows")
  assert "packed 200 documents" in capsys.readouterr().out
  (text / "a.txt").unlink()
  again = prepare_lib.prepare(config, tmp_path / "rows")
  assert again.digest == first.digest
  assert not capsys.readouterr().out


def test_large_vocabularies_take_four_bytes():
  assert packing.row_dtype(65_536).itemsize == 2
  assert packing.row_dtype(65_537).itemsize == 4


@pytest.mark.parametrize("changes, message", [
    ({"data.length": 64}, "another length (32, not 64)"),
    ({"data.source": "builtin"}, "another source"),
    ({"data.packing": "stream"}, "another packing (documents, not stream);"),
    ({"data.fit": "next"}, "another fit (best, not next)"),
    ({"data.text_fields": ("body",)}, "another text_fields"),
    ({"data.vocab_size": 300}, "another vocab_size (320, not 300)"),
    ({"data.eval_fraction": 0.2}, "another eval_fraction (0.1, not 0.2)"),
    ({"data.eval_source": "builtin"}, "another eval_source (None, not built"),
])
def test_other_settings_are_refused(tiny_run, packed_dir, changes, message):
  before = _bytes(packed_dir)
  tiny_run.update_from_flattened_dict(changes)
  with pytest.raises(errors.InputError) as error:
    prepare_lib.prepare(tiny_run, packed_dir)
  assert message in str(error.value)
  assert _bytes(packed_dir) == before


def test_another_tokenizer_is_refused(tiny_run, packed_dir, tmp_path):
  before = _bytes(packed_dir)
  other = tokenizer_lib.train(conftest.make_text(300, seed=9).splitlines(), 330)
  (tmp_path / "other.model").write_bytes(other.proto)
  tiny_run.data.tokenizer = str(tmp_path / "other.model")
  with pytest.raises(errors.InputError, match="another tokenizer"):
    prepare_lib.prepare(tiny_run, packed_dir)
  assert _bytes(packed_dir) == before
  # The very same model, by path, is another setting but the same rows.
  (tmp_path / "new").mkdir()
  packed = prepare_lib.prepare(tiny_run, tmp_path / "new")
  assert packed.tokenizer.digest == other.digest


def test_tokenizer_that_lies_there_is_not_overwritten(config, tmp_path):
  for seed, name in ((1, "mine"), (2, "other")):
    (tmp_path / name).mkdir()
    (tmp_path / name / "tokenizer.model").write_bytes(
        tokenizer_lib.train(conftest.make_text(300, seed=seed).splitlines(), 320).proto)
  config.data.tokenizer = str(tmp_path / "other" / "tokenizer.model")
  before = _bytes(tmp_path / "mine")
  with pytest.raises(errors.InputError, match="is another than that of this config"):
    prepare_lib.prepare(config, tmp_path / "mine")
  assert _bytes(tmp_path / "mine") == before


def test_bad_documents_leave_no_manifest_that_looks_complete(config, tmp_path):
  bad = tmp_path / "bad.txt"
  bad.write_bytes(conftest.make_text(50).encode() + b"\xff\n")
  config.data.source = f"text:{bad}"
  config.data.tokenizer_sample_bytes = 3000
  for _ in range(2):
    with pytest.raises(errors.InputError, match="not UTF-8"):
      prepare_lib.prepare(config, tmp_path / "rows")
    assert packed_set.load(config, tmp_path / "rows") is None
  bad.write_text(conftest.make_text(50))
  assert prepare_lib.prepare(config, tmp_path / "rows")


@pytest.mark.parametrize("where", ["source", "eval_source"])
def test_text_that_is_mended_is_packed_as_if_it_had_been_right(
    config, tmp_path, where):
  """Its tokenizer, too, is one of what the text is now."""
  text = conftest.make_text(300)
  bad = tmp_path / "bad.txt"
  (tmp_path / "a.txt").write_text(text)
  config.data.source = f"text:{tmp_path}/a.txt"
  config.data.eval_source = f"text:{tmp_path}/b.txt"
  (tmp_path / "b.txt").write_text(conftest.make_text(60, seed=7))
  bad.write_bytes(text.encode() + b"a \xff line\n")
  if where == "source":  # Read while the tokenizer is trained, if one is.
    config.data.tokenizer = str(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(
        tokenizer_lib.train(text.splitlines(), 320).proto)
  config.data[where] = f"text:{bad}"
  with pytest.raises(errors.InputError, match="is not UTF-8"):
    prepare_lib.prepare(config, tmp_path / "rows")
  bad.write_bytes(bad.read_bytes().replace(b"\xff", b"x"))
  packed = prepare_lib.prepare(config, tmp_path / "rows")
  assert packed.digest == prepare_lib.prepare(
      config, tmp_path / "anew").digest


def test_a_shard_whose_description_is_damaged_is_packed_again(
    config, tmp_path):
  packed = prepare_lib.prepare(config, tmp_path)
  name = shards.name(1, 3, ".json")
  whole = (tmp_path / name).read_bytes()
  (tmp_path / shards.name(0, 3, ".arrayrecord")).unlink()
  for damage in (whole[:30], b"[]", b"\xff"):
    (tmp_path / name).write_bytes(damage)
    (tmp_path / shards.name(0, 3, ".json")).unlink()
    assert prepare_lib.prepare(config, tmp_path).digest == packed.digest
    assert (tmp_path / name).read_bytes() == whole
    (tmp_path / shards.name(0, 3, ".arrayrecord")).unlink()


def test_bad_documents_are_skipped_and_counted(config, tmp_path, capsys):
  good = conftest.make_text(300).splitlines(keepends=True)
  lines = [line.encode() for line in good]
  for place in (290, 150, 10):
    lines.insert(place, b"\xff" * 40 + b"\n")
  (tmp_path / "good.txt").write_text("".join(good))
  (tmp_path / "bad.txt").write_bytes(b"".join(lines))
  (tmp_path / "tokenizer.model").write_bytes(
        tokenizer_lib.train(good, 320).proto)
  config.data.tokenizer = str(tmp_path / "tokenizer.model")
  config.data.shards = 1
  (tmp_path / "other.txt").write_text(conftest.make_text(20, seed=1))
  config.data.eval_source = f"text:{tmp_path}/other.txt"
  config.data.source = f"text:{tmp_path}/good.txt"
  prepare_lib.prepare(config, tmp_path / "good")
  config.data.source = f"text:{tmp_path}/bad.txt"
  config.data.max_bad_documents = 3
  packed = prepare_lib.prepare(config, tmp_path / "bad")
  name = packed.manifest["shards"][0]["file"]
  assert _bytes(tmp_path / "bad")[name] == _bytes(tmp_path / "good")[name]
  assert packed.manifest["totals"]["bad_documents"] == 3
  described = json.loads((tmp_path / "bad" / name).with_suffix(
      ".json").read_text())
  assert described["bad_documents"] == 3
  start = len(b"".join(lines[:10]))
  assert f"bad.txt: byte {start} is not" in described["first_bad_document"]
  assert "skipped 3 bad documents" in capsys.readouterr().out
  # What is packed is packed, whatever the bound is now.
  config.data.max_bad_documents = 0
  assert prepare_lib.prepare(config, tmp_path / "bad").digest == packed.digest


def test_bound_of_bad_documents_holds_over_all_shards(
    config, tmp_path, monkeypatch):
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 1000)
  lines = [line.encode() for line in conftest.make_text(300).splitlines(True)]
  for place in (290, 286, 150, 10):
    lines.insert(place, b"\xff\n")
  (tmp_path / "a.txt").write_bytes(b"".join(lines))
  config.data.source = f"text:{tmp_path}/a.txt"
  config.data.shards = 20
  config.data.max_bad_documents = 4
  (tmp_path / "tokenizer.model").write_bytes(
        tokenizer_lib.train([line.decode() for line in lines if len(line) > 2], 320).proto)
  config.data.tokenizer = str(tmp_path / "tokenizer.model")
  whole = prepare_lib.prepare(config, tmp_path / "whole").manifest
  per_shard = [s["bad_documents"] for s in whole["shards"]]
  assert sum(per_shard) == 4 and max(per_shard) < 4
  # As shards complete: the last of those with bad documents is not packed.
  config.data.max_bad_documents = 3
  with pytest.raises(errors.InputError, match="more than 3 documents are bad"):
    prepare_lib.prepare(config, tmp_path / "one")
  done = shards.done(tmp_path / "one", 20)
  assert 0 < sum(s["bad_documents"] for s in done) <= 3
  # At the end: shards under way at the same time do not see each other.
  def together(job):
    raised = dataclasses.replace(
        job, config=config.copy_and_resolve_references())
    raised.config.data.max_bad_documents = 4
    for shard in job.todo:
      shards.pack(raised, shard)
  with pytest.raises(errors.InputError, match="a.txt: byte .*more than 3"):
    prepare_lib.prepare(config, tmp_path / "one", together)
  assert packed_set.load(config, tmp_path / "one") is None
  config.data.max_bad_documents = 4
  again = prepare_lib.prepare(config, tmp_path / "one")
  assert again.manifest["totals"] == whole["totals"]


def test_text_that_is_other_than_packed_is_said(config, tmp_path, capsys):
  folder, out = tmp_path / "text", tmp_path / "rows"
  folder.mkdir()
  text = conftest.make_text(100)
  for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
    (folder / name).write_text(text)
  config.data.source = f"text:{folder}/*.txt"
  packed = prepare_lib.prepare(config, out)
  before, manifest = _bytes(out), packed.manifest

  def said():
    capsys.readouterr()
    again = prepare_lib.prepare(config, out)
    assert again.digest == packed.digest and _bytes(out) == before
    return capsys.readouterr().out

  assert not said()
  # As large as before, which time and hash tell; and touched, but the same.
  (folder / "a.txt").write_text(text[:-2] + "!\n")
  for name in ("a.txt", "b.txt"):
    os.utime(folder / name, ns=(1, 1))
  (folder / "c.txt").write_text(text + "more\n")
  (folder / "d.txt").unlink()
  (folder / "e.txt").write_text(text)
  line = (f"{out} was packed from other text: 1 new ({folder}/e.txt), "
          f"2 changed ({folder}/a.txt, {folder}/c.txt), "
          f"1 gone ({folder}/d.txt); the rows stay as they are\n")
  assert said() == line
  # A set that is packed before there were times and hashes: sizes tell.
  old = {k: v for k, v in manifest.items() if k != "files"}
  old["settings"] = {k: v for k, v in manifest["settings"].items()
                     if k != "documents"}
  (out / "manifest.json").write_text(json.dumps(old))
  before, packed = _bytes(out), packed_set.load(config, out)
  assert said() == line.replace(f"2 changed ({folder}/a.txt, ", "1 changed (")
  # An earlier version that was stopped parted lines otherwise.
  (out / "manifest.json").write_text(json.dumps(old | {"complete": False}))
  with pytest.raises(errors.InputError, match="parted lines otherwise"):
    prepare_lib.prepare(config, out)
  # Of complete sets a shard can be packed again, if the text is still there.
  shard = out / manifest["shards"][0]["file"]
  (out / "manifest.json").write_text(json.dumps(old))
  for path in (shard, shard.with_suffix(".json")):
    path.unlink()
  with pytest.raises(errors.InputError, match="shards have changed"):
    prepare_lib.prepare(config, out)
  (folder / "e.txt").rename(folder / "d.txt")
  for name in ("a.txt", "b.txt", "c.txt"):
    (folder / name).write_text(text)
  assert prepare_lib.prepare(config, out).digest == packed.digest
  # The machine has the text no more.
  for path in folder.iterdir():
    path.unlink()
  before = _bytes(out)
  assert not said()
  # Other settings are still refused.
  config.data.documents = "blank_lines"
  with pytest.raises(errors.InputError, match="another documents .lines, not"):
    prepare_lib.prepare(config, out)


def test_too_short_documents_are_an_error(config, tmp_path):
  (tmp_path / "a.txt").write_text("a b\n" * 3000)
  config.data.source = f"text:{tmp_path}/a.txt"
  with pytest.raises(errors.InputError, match="no document of at least 8"):
    prepare_lib.prepare(config, tmp_path / "rows")
