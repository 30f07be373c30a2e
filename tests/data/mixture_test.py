"""Mixtures: exact shares, epochs of their own, rows that no share changes."""

import fractions
import json
import pathlib
import shutil

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np
import pytest

from latemask.data import estimate
from latemask.data import loader as loader_lib
from latemask.data import mixture as mixture_lib
from latemask.data import order as order_lib
from latemask.data import prepare as prepare_lib
from latemask.data import shards as shards_lib
from latemask.data.sources import table as sources_lib
from latemask import errors
from latemask.runtime import mesh as mesh_lib
from latemask.train import evaluate
from latemask.train import run as run_lib
from tests import conftest


@pytest.mark.parametrize("shares", [
    (7, 3), (1, 1, 1, 997), (333, 667), (5,), (1, 2, 3, 4, 5, 6, 7), (1, 0, 2)])
def test_shares_are_exact_and_everywhere(shares):
  found = mixture_lib.Interleave(shares)
  period = sum(shares)
  stood = np.zeros(len(shares), int)
  for index in range(2 * period):
    source, place = found[index]
    assert place == stood[source]  # Row after row of each.
    stood[source] += 1
    share = np.array(shares) / period
    assert np.all(np.abs(stood - (index + 1) * share)
                  <= (1 + len(shares) * share) / 2 + 1e-9)
    if (index + 1) % period == 0:
      assert tuple(stood) == tuple(
          (index + 1) // period * np.array(shares))
  # At any place at once.
  source, place = found[1]
  assert found[10**9 * period + 1] == (source, 10**9 * shares[source] + place)


def test_interleave_of_shares():
  found = mixture_lib.interleave([fractions.Fraction("0.7"),
                                  fractions.Fraction("0.3")])
  assert [found[j][0] for j in range(10)] == [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two corpora, of other words, and what is held out of them."""
  path = tmp_path_factory.mktemp("sources")
  for number, name in enumerate(("a", "b", "a_held", "b_held")):
    text = conftest.make_text((300, 60, 30, 20)[number], seed=number)
    (path / f"{name}.txt").write_text(
        text.upper() if name.startswith("b") else text)
  return path


def _config(folder, shares=(0.7, 0.3)):
  return conftest.tiny_config(
      f"text:{folder}/a.txt@{shares[0]},text:{folder}/b.txt@{shares[1]}")


@pytest.fixture(scope="module")
def rows(folder, tmp_path_factory):
  directory = tmp_path_factory.mktemp("rows")
  prepare_lib.prepare(_config(folder), directory)
  return directory


def _loader(config, directory):
  return loader_lib.Loader(mixture_lib.load(config, directory), config)


def test_rows_of_an_epoch(folder, rows):
  loader = _loader(_config(folder), rows)
  a, b = loader.packed.sets
  bound = sum(a.num_rows)
  assert loader.num_train_rows == sum(
      sum(s.num_rows) - sum(s.num_eval_rows) for s in (a, b))
  found = [loader.train_row(j) for j in range(1000)]
  assert sum(row < bound for row in found) == 700
  for j in range(10, 1000, 10):
    assert sum(row < bound for row in found[:j]) == j * 7 // 10
  # Each source in the order, and the epochs, that it has alone.
  for packed, first, mine in ((a, 0, [r for r in found if r < bound]),
                              (b, bound, [r for r in found if r >= bound])):
    order = order_lib.Order(packed, _config(folder))
    assert mine == [first + order.train_row(j) for j in range(len(mine))]
  assert len(set(mine)) < len(mine)  # It has begun its second epoch.
  held = [loader.eval_row(j) for j in range(loader.num_eval_rows)]
  assert len(set(held)) == len(held) == sum(
      sum(s.num_eval_rows) for s in (a, b)) and not set(held) & set(found)
  # The numbers of rows are those of the sets.
  alone = loader_lib.Loader(b, _config(folder))
  np.testing.assert_array_equal(
      loader.read([bound + 3]), alone.read([3]))


def test_batches_are_a_function_of_the_step(folder, rows):
  loader = _loader(_config(folder), rows)
  sharding = NamedSharding(jax.make_mesh((2, 1, 1), mesh_lib.AXES, axis_types=(
      jax.sharding.AxisType.Auto,) * 3, devices=jax.devices()[:2]), P(
          mesh_lib.BATCH_AXES))
  whole = [np.asarray(b) for b in loader.train_batches(sharding, 16, 0, 9)]
  late = [np.asarray(b) for b in loader.train_batches(sharding, 16, 6, 9)]
  np.testing.assert_array_equal(whole[6:], late)
  np.testing.assert_array_equal(whole[6], loader.read(
      [loader.train_row(6 * 16 + j) for j in range(16)]))


def _bytes(directory):
  return {str(path.relative_to(directory)): path.read_bytes()
          for path in pathlib.Path(directory).rglob("*")
          if path.is_file() and path.suffix != ".tmp"}


def test_other_shares_need_no_packing(folder, rows, monkeypatch, capsys):
  before = _bytes(rows)
  monkeypatch.setattr(shards_lib, "pack", None)
  monkeypatch.setattr(prepare_lib.tokenizers_lib, "train", None)
  config = _config(folder, (0.25, "75%"))
  packed = prepare_lib.prepare(config, rows)
  assert _bytes(rows) == before
  bound = sum(packed.sets[0].num_rows)
  loader = _loader(config, rows)
  assert sum(loader.train_row(j) < bound for j in range(400)) == 100
  first = mixture_lib.load(_config(folder), rows)
  assert packed.digest != first.digest
  # A run that goes on with other shares is another run.
  assert order_lib.of(packed, config).probe != order_lib.of(
      first, config).probe
  # Nor do other places in the list.
  config.data.source = ",".join(
      reversed(_config(folder).data.source.split(",")))
  assert prepare_lib.prepare(config, rows).sets[0].digest == (
      first.sets[1].digest)
  # Where one is added, it alone is packed, with the same tokenizer.
  monkeypatch.undo()
  config.data.source = (f"text:{folder}/a.txt@.5,text:{folder}/b.txt@.3,"
                        f"text:{folder}/a_held.txt@.2")
  capsys.readouterr()
  more = prepare_lib.prepare(config, rows)
  assert capsys.readouterr().out.count("packed ") == 1
  assert [s.digest for s in more.sets[:2]] == [s.digest for s in first.sets]


def test_a_stop_changes_nothing(folder, rows, tmp_path, monkeypatch):
  pack, calls = shards_lib.pack, []

  def packing(job, shard, progress=None):
    calls.append(shard)
    if len(calls) == 5:
      raise KeyboardInterrupt
    return pack(job, shard, progress or (lambda n: None))

  monkeypatch.setattr(shards_lib, "pack", packing)
  with pytest.raises(KeyboardInterrupt):
    prepare_lib.prepare(_config(folder), tmp_path)
  assert mixture_lib.load(_config(folder), tmp_path) is None
  monkeypatch.setattr(prepare_lib.tokenizers_lib, "train", None)
  packed = prepare_lib.prepare(_config(folder), tmp_path)
  assert packed.digest == mixture_lib.load(_config(folder), rows).digest


def test_the_tokenizer_is_trained_on_all_by_share(folder, monkeypatch):
  monkeypatch.setattr(sources_lib, "_SAMPLE_DOCUMENTS", 10)
  config = _config(folder, (0.2, 0.8))
  sources = [sources_lib.open_sources(part.config)
             for part in mixture_lib.parts(config, "rows")]
  sample = mixture_lib.Sample(
      [(0.2, sources[0]), (0.8, sources[1])], 5000)
  texts = list(sources_lib.sample(
      [sample], 5000, sources_lib.BadDocuments(0)))
  upper = sum(len(t) for t in texts if t.isupper())
  assert 0.7 < upper / sum(map(len, texts)) < 0.9
  assert 3500 < sum(map(len, texts)) < 7000


def test_bad_documents_are_counted_by_source(tmp_path):
  for name in "ab":
    (tmp_path / f"{name}.txt").write_bytes(b"good\n\n\xff\n\nas well\n")
  sample = mixture_lib.Sample([
      (0.5, [sources_lib.open_source(
          f"text:{tmp_path}/{name}.txt", conftest.tiny_config("builtin"))])
      for name in "ab"], 5000)
  found = sample.documents(0, 1, sources_lib.BadDocuments(1))
  assert len(list(found)) == 4
  with pytest.raises(errors.InputError, match="not UTF-8"):
    list(sample.documents(0, 1, sources_lib.BadDocuments(0)))


def test_settings_of_the_folder(folder, rows, tmp_path):
  config = _config(folder)
  config.data.vocab_size = 400
  for call in (mixture_lib.load, prepare_lib.prepare):
    with pytest.raises(errors.InputError, match="packed with another vocab_si"):
      call(config, rows)
  plain = conftest.tiny_config(f"text:{folder}/a.txt")
  for call in (mixture_lib.load, prepare_lib.prepare):
    with pytest.raises(errors.InputError, match=(
        "another source .several with shares, not text:")):
      call(plain, rows)
  prepare_lib.prepare(plain, tmp_path)
  with pytest.raises(errors.InputError, match="not several with shares"):
    prepare_lib.prepare(_config(folder), tmp_path)


def test_dry_run(folder, rows, tmp_path, capsys):
  config = _config(folder)
  estimated = estimate.dry_run(config, tmp_path)
  assert "in 6 shards, of which 0 are packed" in capsys.readouterr().out
  assert not list(tmp_path.iterdir())
  found = estimate.dry_run(config, rows)
  assert abs(found["documents"] - estimated["documents"]) <= 2
  assert found["documents"] == 360
  # The rows of a source that has changed are not those that would be packed.
  other = tmp_path / "a.txt"
  other.write_text(conftest.make_text(50, seed=5))
  config.data.source = f"text:{other}@0.5,text:{folder}/b.txt@0.5"
  prepare_lib.prepare(config, tmp_path / "rows")
  other.write_text(conftest.make_text(60, seed=5))
  with pytest.raises(errors.InputError, match=f"1 changed .{other}"):
    estimate.dry_run(config, tmp_path / "rows")


@pytest.mark.parametrize("source, message", [
    ("text:a@0.7,text:b@0.2",
     r"the shares of text:a and text:b \(@0.7, @0.2\) sum to 0.9, not 1"),
    # Of a kind that is not there, the whole is one source.
    ("text:a@0.5,txt:b@0.5", "of text:a@0.5,txt:b "),
    ("text:a@0.7,text:b@0.7", "sum to 1.4, not 1"),
    ("text:a@1.2,text:b@-0.2", "text:a@1.2: a share must be above 0 and at mo"),
    ("text:a@1,text:b@-0.2", r"text:b@-0.2: a share must .* write \[@\]-0.2"),
    ("text:a@0,text:b@1", "text:a@0: a share must"),
    ("text:a@0.7,text:b", "text:b has no share, and others have; write text:b"),
    ("text:a@0.5,@0.5", "text:a@0.5,@0.5: before @0.5 stands no sour"),
    ("text:a@.5@.5,text:b@.5", "text:a@.5@.5: before @.5 stands no source"),
    ("text:a@0.3333333,text:b@0.6666667", "too many digits; six"),
    ("text:a@60%,text:b@0.4", "matches no file"),
    ("builtin@0.5,builtin@0.5", "names builtin in two sources with shares"),
    ("text:{0}/a.txt@0.5,files:{0}/*.txt@0.5", "names .*/a.txt in two source"),
])
def test_bad_shares(folder, tmp_path, source, message):
  config = conftest.tiny_config(source.format(folder))
  with pytest.raises(errors.InputError, match=message) as error:
    prepare_lib.prepare(config, tmp_path / "rows")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "rows" / "manifest.json").exists()


def test_held_out_text_of_each_source(folder, tmp_path):
  config = _config(folder)
  config.data.eval_source = f"text:{folder}/a_held.txt"
  with pytest.raises(errors.InputError, match=(
      "eval_source names 1, and data.source 2 sources with shares; name for")):
    prepare_lib.prepare(config, tmp_path)
  config.data.eval_source += f",text:{folder}/b.txt"
  with pytest.raises(errors.InputError, match=(
      "/b.txt is named by data.source and by data.eval_source")):
    prepare_lib.prepare(config, tmp_path)
  config.data.eval_source += "@0.5"
  with pytest.raises(errors.InputError, match="only data.source has shares"):
    prepare_lib.prepare(config, tmp_path)
  config.data.eval_source = (
      f"text:{folder}/a_held.txt,text:{folder}/b_held.txt")
  packed = prepare_lib.prepare(config, tmp_path)
  assert [s.manifest["totals"]["parts"]["held_out"]["documents"]
          for s in packed.sets] == [30, 20]


def _evaluations(workdir):
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [line for line in lines if "eval/loss" in line]


@pytest.mark.slow
def test_a_run_says_the_loss_of_each_source(
    folder, rows, tmp_path, few_devices, capsys):
  config = _config(folder)
  config.data.dir = str(rows)
  config.train.num_steps = 4
  config.eval.every_steps = config.checkpoint.every_steps = 2
  run_lib.train(config, tmp_path)
  said = capsys.readouterr().out
  assert "a.txt: 0.7 of the rows; " in said and "b.txt: loss " in said
  whole = _evaluations(tmp_path)
  losses = [loss for name, loss in sorted(
      evaluate.by_source(whole[-1]).items())]
  assert len(losses) == 2 and losses[0] != losses[1]
  assert whole[-1]["eval/loss"] == pytest.approx(
      0.7 * losses[0] + 0.3 * losses[1], rel=1e-6)
  # Gone on with from step 2.
  shutil.rmtree(tmp_path / "checkpoints" / "4")
  run_lib.train(config, tmp_path)
  assert "checkpoint at step 2" in capsys.readouterr().out
  assert _evaluations(tmp_path) == whole
  # Other shares are another run.
  config.data.source = _config(folder, (0.5, 0.5)).data.source
  with pytest.raises(errors.InputError, match="data.source"):
    run_lib.train(config, tmp_path)
