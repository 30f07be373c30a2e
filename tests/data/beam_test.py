"""tools/prepare: the same files with Beam and without; honest estimates."""

import json
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latemask.config import spec as spec_lib
from latemask.data import beam as beam_lib
from latemask.data import estimate
from latemask.data import packed_set
from latemask.data import prepare as prepare_lib
from latemask.data import shards
from latemask.data.sources import lines as lines_lib
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask import errors
from latemask.tools import prepare
from tests import conftest

ROOT = conftest.ROOT
_SHARDS = 5
_ROWS = "rows-*.arrayrecord"


@pytest.fixture
def text(tmp_path, monkeypatch):
  """A file that is cut into many blocks."""
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 1000)
  path = tmp_path / "a.txt"
  path.write_text(conftest.make_text(400))
  return path


def _spec(path, **changes):
  keys = {"source": f"text:{path}", "vocab_size": 320, "length": 32,
          "shards": _SHARDS, "workers": 1, "eval_fraction": 0.1} | changes
  return ",".join([str(ROOT / "configs" / "base.py:tiny")] + [
      f"data.{key}={value}" for key, value in keys.items()])


def _bytes(directory):
  return {p.name: p.read_bytes() for p in directory.iterdir()}


def _prepare(out, spec, *more):
  prepare.main(["--config", spec, "--out", str(out), *more])


def _refusal(capsys, *arguments):
  with pytest.raises(SystemExit) as stop:
    prepare.main([str(a) for a in arguments])
  captured = capsys.readouterr()
  assert stop.value.code == 2
  assert captured.err.count("\n") == 1
  return captured.err


def test_packs_as_a_run_does(text, tmp_path, capsys):
  _prepare(tmp_path / "tool", _spec(text))
  assert "packed 400 documents" in capsys.readouterr().out
  config = conftest.tiny_config(f"text:{text}")
  config.data.shards = _SHARDS
  packed = prepare_lib.prepare(config, tmp_path / "run")
  assert len(packed.paths) == _SHARDS
  before = _bytes(tmp_path / "tool")
  assert before == _bytes(tmp_path / "run")
  rows = packed.manifest["totals"]["rows"]
  _prepare(tmp_path / "tool", _spec(text))
  *_, complete, place, command = capsys.readouterr().out.splitlines()
  assert complete.endswith(
      f"tool is complete: {rows:,} rows; nothing is to be done")
  assert place == f"the rows are in {tmp_path / 'tool'}"
  assert command == (
      f"next: python -m latemask.main --config={ROOT}/configs/base.py:tiny "
      f"--config.data.source=text:{text} --config.data.vocab_size=320 "
      "--config.data.length=32 --config.data.shards=5 --config.data.workers=1 "
      f"--config.data.eval_fraction=0.1 --config.data.dir={tmp_path / 'tool'} "
      "--workdir runs/NAME")
  # Of other text.
  with text.open("a") as file:
    file.write("More.\n")
  for flags in ((), ("--dry_run",)):
    assert "other text: 1 changed (" in _refusal(
        capsys, "--config", _spec(text), "--out", tmp_path / "tool", *flags)
  text.unlink()
  _prepare(tmp_path / "tool", _spec(text))
  assert "nothing is to be done" in capsys.readouterr().out
  assert _bytes(tmp_path / "tool") == before


def test_beam_packs_the_same_bytes(text, tmp_path, capsys):
  pytest.importorskip("apache_beam")
  with text.open("ab") as file:
    file.write(b"\xff\n" * 3)
  spec = _spec(text, max_bad_documents=3)
  _prepare(tmp_path / "here", spec)
  capsys.readouterr()
  _prepare(tmp_path / "beam", spec, "--runner=DirectRunner")
  out = capsys.readouterr().out
  assert f"{_SHARDS} of {_SHARDS} shards are packed" in out
  assert "skipped 3 bad documents" in out
  found = _bytes(tmp_path / "beam")
  assert found == _bytes(tmp_path / "here")
  assert len(found) == 2 * _SHARDS + 2
  # Complete: no pipeline is run.
  _prepare(tmp_path / "beam", spec, "--runner=DirectRunner")
  assert "nothing is to be done" in capsys.readouterr().out


@pytest.mark.parametrize("source, changes", [
    ("parquet", {"tokenizer_kind": "bpe"}), ("files", {})])
def test_beam_packs_other_sources_and_tokenizers_alike(
    source, changes, text, tmp_path):
  pytest.importorskip("apache_beam")
  lines = text.read_text().splitlines()
  if source == "parquet":
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": lines}), path, row_group_size=40)
  else:
    path = tmp_path / "a*.txt"
    for i in range(0, 400, 10):
      (tmp_path / f"a{i}.txt").write_text("\n".join(lines[i:i + 10]))
    text.unlink()
  spec = _spec(path, source=f"{source}:{path}", **changes)
  _prepare(tmp_path / "here", spec)
  _prepare(tmp_path / "beam", spec, "--runner=DirectRunner")
  found = _bytes(tmp_path / "beam")
  assert found == _bytes(tmp_path / "here")
  assert sum(name.endswith(".arrayrecord") for name in found) == _SHARDS


@pytest.mark.parametrize("first, second", [
    ((), ("--runner=DirectRunner",)), (("--runner=DirectRunner",), ()),
    (("--runner=DirectRunner",), ("--runner=DirectRunner",))])
def test_either_goes_on_with_what_the_other_began(
    text, tmp_path, monkeypatch, first, second):
  pytest.importorskip("apache_beam")
  spec = _spec(text)
  _prepare(tmp_path / "whole", spec)
  whole = _bytes(tmp_path / "whole")
  out = tmp_path / "out"

  real, packed = shards.pack, []

  def pack_two(job, shard, *more):
    if len(packed) == 2:
      raise RuntimeError("stopped")
    packed.append(shard)
    return real(job, shard, *more)

  monkeypatch.setattr(shards, "pack", pack_two)
  with pytest.raises(RuntimeError, match="stopped"):
    _prepare(out, spec, *first)
  assert len(list(out.glob(_ROWS))) == 2
  assert not json.loads((out / "manifest.json").read_text())["complete"]
  before = {p: p.stat().st_mtime_ns for p in out.glob(_ROWS)}
  monkeypatch.setattr(shards, "pack", real)
  monkeypatch.setattr(tokenizer_lib, "train", None)  # It is not trained again.
  _prepare(out, spec, *second)
  assert {p: p.stat().st_mtime_ns for p in before} == before
  assert _bytes(out) == whole


def test_beam_says_in_one_line_which_document_is_bad(text, tmp_path, capsys):
  pytest.importorskip("apache_beam")
  (tmp_path / "t.model").write_bytes(
        tokenizer_lib.train(text.read_text().splitlines(), 320).proto)
  good = text.read_bytes()
  text.write_bytes(good + b"\xff\n")
  flags = ("--config", _spec(text, tokenizer=tmp_path / "t.model"),
           "--out", tmp_path / "out", "--runner=DirectRunner")
  message = _refusal(capsys, *flags)
  assert f"a.txt: byte {len(good)} is not UTF-8" in message
  assert message.endswith("iconv -t utf-8\n")  # And nothing that Beam adds.
  assert not list((tmp_path / "out").glob("*.refused"))
  # Shards that are done are of the text as it was, so nothing goes on with it.
  text.write_bytes(good + b".\n")
  assert "its sources or shards have changed; delete" in _refusal(
      capsys, *flags)
  shutil.rmtree(tmp_path / "out")
  prepare.main([str(f) for f in flags])
  assert "packed 401 documents" in capsys.readouterr().out


def test_after_a_refusal_no_worker_begins_another_shard(text, tmp_path):
  config = conftest.tiny_config(f"text:{text}")
  def begin(job):
    (tmp_path / "out" / "00002.refused").write_text("no")
    beam_lib._pack_on_worker(0, job)
    assert not list((tmp_path / "out").glob(_ROWS))
    (tmp_path / "out" / "00002.refused").unlink()
    beam_lib._pack_on_worker(0, job)
    assert len(list((tmp_path / "out").glob(_ROWS))) == 1
  with pytest.raises(errors.InputError, match="has 1 of 3 shards"):
    prepare_lib.prepare(config, tmp_path / "out", begin)


def test_beam_runner_that_is_none(text, tmp_path, capsys):
  pytest.importorskip("apache_beam")
  assert "--runner=NoRunner: " in _refusal(
      capsys, "--config", _spec(text), "--out", tmp_path / "out",
      "--runner=NoRunner")
  assert not (tmp_path / "out").exists()


def test_without_beam(text, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  assert "pip install apache-beam" in _refusal(
      capsys, "--config", _spec(text), "--out", tmp_path / "out",
      "--runner=DirectRunner")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes, more, message", [
    ({}, ["--direct_num_workers=2"], "unexpected argument '--direct_num_w"),
    ({"no_such": 1}, [], "no_such"),
    ({"length": 3}, [], "data.length is 3"),
    ({"source": "text:/nowhere/*.txt"}, [], "matches no file"),
    ({"source": "text:/nowhere/*.txt"}, ["--dry_run"], "matches no file"),
])
def test_command_lines_that_cannot_be(
    text, tmp_path, capsys, changes, more, message):
  assert message in _refusal(
      capsys, "--config", _spec(text, **changes), "--out", tmp_path / "out",
      *more)
  assert not (tmp_path / "out").exists()


def test_config_without_documents(tmp_path, capsys):
  assert "a config that fine-tunes; give one that pre-trains" in _refusal(
      capsys, "--config", ROOT / "configs" / "glue.py", "--out", tmp_path / "o")


def test_shards_that_did_not_arrive(text, tmp_path):
  """Workers wrote where this machine does not see it."""
  config = conftest.tiny_config(f"text:{text}")
  with pytest.raises(errors.InputError, match="has 0 of 3 shards after packi"):
    prepare_lib.prepare(config, tmp_path / "out", lambda job: None)
  assert packed_set.load(config, tmp_path / "out") is None


def test_rows_of_another_tokenizer_are_not_complete(text, tmp_path, capsys):
  """Those that a run begins from have its tokenizer."""
  out, config = tmp_path / "out", spec_lib.load(_spec(text))
  prepare_lib.prepare(config, out)
  config.train.init_from = "a run"
  given = tokenizer_lib.train(
      conftest.make_text(200, seed=9).splitlines(), 320)
  for ask in estimate.complete, estimate.dry_run:
    with pytest.raises(errors.InputError, match="packed with another tokenizer"):
      ask(config, out, given)
  with pytest.raises(SystemExit) as ended:
    prepare.main(["--config", f"{_spec(text)},train.init_from={tmp_path}",
                  "--out", str(out)])
  assert ended.value.code == 2
  assert "complete" not in capsys.readouterr().out


def test_dry_run_is_right_about_a_small_set(text, tmp_path, capsys):
  out = tmp_path / "out"
  spec = _spec(text)
  ahead = estimate.dry_run(spec_lib.load(spec), out)
  assert not out.exists()
  said = capsys.readouterr().out
  assert "estimated with a tokenizer of 320 pieces, trained on a" in said
  assert "nothing was written" in said and "0 are packed" in said
  steps = -(-ahead["rows"] // 16)  # Of base.py:tiny.
  assert f"one epoch is about {steps} steps of 16 rows" in said
  _prepare(out, spec)
  true = json.loads((out / "manifest.json").read_text())
  # What is held out goes into its tokenizer, and not into the true one.
  for key in ("tokens", "rows"):
    assert abs(ahead[key] / true["totals"][key] - 1) < 0.03, key
  # With the tokenizer that lies there, and all of the text as the sample.
  (out / "manifest.json").unlink()
  before = _bytes(out)
  capsys.readouterr()
  config = conftest.tiny_config(f"text:{text}")
  config.data.shards = _SHARDS
  found = estimate.dry_run(config, out)
  assert "with the tokenizer" in capsys.readouterr().out
  # Rows differ by those that are not full at the end of a shard, and there of
  # what is held out.
  assert abs(found["rows"] - true["totals"]["rows"]) <= 2 * _SHARDS
  assert abs(found["tokens"] / true["totals"]["tokens"] - 1) < 0.01
  assert found["documents"] == 400
  assert found["bytes"] == sum(s["bytes"] for s in true["shards"])
  assert _bytes(out) == before


def test_what_is_left_out_is_said_ahead(text, tmp_path, capsys):
  (text.parent / "b.md").write_text("text\n")
  (text.parent / "c.txt").symlink_to(text)
  spec = _spec(f"{text.parent}/*")
  said = []
  for flags in (("--dry_run",), ()):
    _prepare(tmp_path / "out", spec, *flags)
    said.append([line for line in capsys.readouterr().out.splitlines()
                 if "left out" in line or "passed over" in line])
  assert said[0] == said[1] == [
      f"text:{text.parent}/*: 1 of 2 files are read; left out: 1 .md",
      f"text:{text.parent}/*: paths that lead to a file or folder which is "
      "read already, and are passed over: 1"]


def test_dry_run_scales_a_sample_up(text, tmp_path, monkeypatch):
  monkeypatch.setattr(estimate, "_SAMPLE_BYTES", 10_000)
  config = conftest.tiny_config(f"text:{text}")
  (tmp_path / "t.model").write_bytes(
        tokenizer_lib.train(text.read_text().splitlines(), 320).proto)
  config.data.tokenizer = str(tmp_path / "t.model")
  found = estimate.dry_run(config, tmp_path / "out")
  true = prepare_lib.prepare(config, tmp_path / "out").manifest["totals"]
  for key in ("documents", "tokens", "rows"):
    assert 0.8 < found[key] / true[key] < 1.25, key
  assert found["tokens"] != true["tokens"]


def test_dry_run_counts_bad_documents_and_prepared_sets(
    text, tmp_path, capsys):
  with text.open("ab") as file:
    file.write(b"\xff\n" * 7)
  config = conftest.tiny_config(f"text:{text}")
  assert estimate.dry_run(config, tmp_path / "o")["bad_documents"] == 7
  assert "about 7 bad documents (data.max_bad_documents is 0): " in (
      capsys.readouterr().out)


def test_dry_run_downloads_nothing(text, tmp_path, monkeypatch, capsys):
  tfds = pytest.importorskip("tensorflow_datasets")
  monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", None)
  config = conftest.tiny_config(f"tfds:pg19,text:{text}")
  config.data.tfds_dir = str(tmp_path / "tfds")
  assert estimate.dry_run(config, tmp_path / "out")["documents"] == 400
  assert "tfds:pg19: not prepared yet" in capsys.readouterr().out
  config.data.source = "tfds:pg19"
  assert estimate.dry_run(config, tmp_path / "out")["rows"] == 0
  assert "at 4 bytes a token: a tokenizer of" in capsys.readouterr().out
  assert not (tmp_path / "tfds").exists()


def test_command(text, tmp_path):
  done = subprocess.run(
      [sys.executable, "-m", "latemask.tools.prepare", "--config",
       _spec(text), "--out", str(tmp_path / "out")], cwd=ROOT,
      capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  assert "packed 400 documents" in done.stdout and "packing:" in done.stderr
