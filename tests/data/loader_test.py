"""The loader: batch = f(seed, step), every row once an epoch, split apart."""

import dataclasses
import pathlib
import resource

import grain
import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np
import pytest

from latemask.data import loader as loader_lib
from latemask.data import order as order_lib
from latemask.data import packed_set
from latemask.data import prepare as prepare_lib
from latemask.data.sources import lines as lines_lib
from latemask import errors
from latemask.runtime import mesh as mesh_lib
from tests import conftest


@pytest.fixture
def loader(tiny_run):
  packed = prepare_lib.prepare(tiny_run, tiny_run.data.dir)
  return loader_lib.Loader(packed, tiny_run)


def _sharding(*sizes):
  mesh = jax.make_mesh(sizes, mesh_lib.AXES, axis_types=(
      jax.sharding.AxisType.Auto,) * 3,
      devices=jax.devices()[:int(np.prod(sizes))])
  return NamedSharding(mesh, P(mesh_lib.BATCH_AXES))


def test_epochs_are_permutations_and_never_hold_held_out_rows(loader):
  count = loader.num_train_rows
  epochs = [[loader.train_row(e * count + i) for i in range(count)]
            for e in range(3)]
  assert len({tuple(sorted(e)) for e in epochs}) == 1
  assert len(set(epochs[0])) == count
  assert epochs[0] != epochs[1] != epochs[2]
  held_out = {loader.eval_row(i) for i in range(loader.num_eval_rows)}
  assert len(held_out) == loader.num_eval_rows
  assert not held_out & set(epochs[0])
  assert len(held_out) + count == len(loader._records)


def test_seed_orders_and_does_not_split(loader, tiny_run):
  packed = prepare_lib.prepare(tiny_run, tiny_run.data.dir)
  tiny_run.seed = 1
  other = loader_lib.Loader(packed, tiny_run)
  rows = [[x.train_row(i) for i in range(x.num_train_rows)]
          for x in (loader, other)]
  assert rows[0] != rows[1]
  assert sorted(rows[0]) == sorted(rows[1])


def test_batches_are_a_function_of_the_step(loader):
  one = _sharding(1, 1, 1)
  whole = [np.asarray(b) for b in loader.train_batches(one, 16, 0, 12)]
  late = [np.asarray(b) for b in loader.train_batches(one, 16, 7, 12)]
  np.testing.assert_array_equal(whole[7:], late)
  expected = loader.read([loader.train_row(5 * 16 + j) for j in range(16)])
  np.testing.assert_array_equal(whole[5], expected)
  far = next(iter(loader.train_batches(one, 16, 10**9, 10**9 + 1)))
  assert far.shape == (16, 32)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_any_mesh_sees_the_same_batch(loader, sizes):
  alone = next(iter(loader.train_batches(_sharding(1, 1, 1), 16, 3, 4)))
  batch = next(iter(loader.train_batches(_sharding(*sizes), 16, 3, 4)))
  np.testing.assert_array_equal(alone, batch)
  shards = sizes[0] * sizes[1]
  assert batch.addressable_shards[0].data.shape == (16 // shards, 32)


def test_a_process_reads_only_its_slice(loader, monkeypatch):
  """Half of the devices belong to another process, as far as this one sees."""
  sharding = _sharding(8, 1, 1)
  mine = dict(list(sharding.addressable_devices_indices_map(
      (16, 32)).items())[4:])
  read = []
  monkeypatch.setattr(loader, "read", lambda rows: read.extend(rows))
  monkeypatch.setattr(loader_lib, "_to_devices", lambda *a: None)

  class Half:
    def addressable_devices_indices_map(self, shape):
      return mine

  list(loader._batches(Half(), 16, 2, 3, lambda index: index))
  assert read == list(range(2 * 16 + 8, 3 * 16))


def test_eval_batches_cover_the_held_out_rows_once(loader):
  sharding = _sharding(2, 1, 1)
  count = loader.num_eval_rows
  rows, ids = zip(*loader.eval_batches(sharding, 16, count))
  rows, ids = np.concatenate(rows), np.concatenate(ids)
  np.testing.assert_array_equal(rows, np.arange(len(ids)))
  expected = loader.read([loader.eval_row(i) for i in range(count)])
  np.testing.assert_array_equal(ids[:count], expected)
  assert np.all(ids[count:] == 1)
  assert 0 < len(ids) - count < 16


def _before(num_rows, eval_fraction, seed=0):
  """The order of a set that was packed before documents were held out."""
  shards = [{"file": f"{i}", "rows": n} for i, n in enumerate(num_rows)]
  config = conftest.tiny_config()
  config.seed, config.data.eval_fraction = seed, eval_fraction
  return order_lib.Order(
      packed_set.Packed("", {"shards": shards}, None), config)


def test_sets_packed_before_keep_their_split_and_order():
  found = _before([300, 0, 116], 0.1, seed=7)
  assert (found.num_train_rows, found.num_eval_rows) == (374, 42)
  rows = list(grain.MapDataset.range(416).shuffle(seed=3_211_048))
  assert [found.eval_row(i) for i in range(42)] == rows[:42]
  for epoch in range(2):
    seed = np.random.SeedSequence([7, epoch]).generate_state(1)[0]
    places = grain.MapDataset.range(374).shuffle(seed=int(seed))
    for i in range(0, 374, 11):
      assert found.train_row(374 * epoch + i) == rows[42 + places[i]]
  with pytest.raises(errors.InputError, match="eval_fraction 0.9999 leaves no"):
    _before([300], 0.9999)


def test_held_out_rows_stand_behind_the_others_of_their_shard(tiny_run, shard):
  """And the first of them are an even sample of all shards."""
  loader, packed = _load(tiny_run)
  stops = np.cumsum(packed.num_rows)
  held = np.concatenate([np.arange(stop - count, stop) for stop, count in zip(
      stops, packed.num_eval_rows)])
  assert packed.num_eval_rows == [
      s["parts"]["held_out"]["rows"] for s in packed.manifest["shards"]]
  assert min(packed.num_eval_rows) > 5
  found = [loader.eval_row(i) for i in range(loader.num_eval_rows)]
  assert found != sorted(found) == held.tolist()
  shards = np.searchsorted(stops, found[:len(found) // 2], side="right")
  assert min(np.bincount(shards, minlength=3)) > 0
  trained = [loader.train_row(i) for i in range(loader.num_train_rows)]
  assert sorted(trained + found) == list(range(stops[-1]))


def test_another_permutation_of_grain_is_seen(loader, tiny_run, monkeypatch):
  """In any of them; and by nothing that does not change rows."""
  probe = loader.order.probe
  tiny_run.data.workers = 7
  assert _load(tiny_run)[0].order.probe == probe
  where = "checkpoint 7"
  order_lib.check_probe(probe | {"grain": "0"}, probe, where)
  real = order_lib._permutation
  for count in (1000, loader.num_train_rows, loader.num_eval_rows):
    monkeypatch.setattr(order_lib, "_permutation", lambda n, seed: real(
        n, seed ^ (n == count)))
    other = _load(tiny_run)[0].order.probe
    with pytest.raises(errors.InputError, match=(
        f"{where}: grain {probe['grain']} puts rows into another order than "
        "grain 0.1, with which")) as error:
      order_lib.check_probe(other | {"grain": "0.1"}, probe, where)
    assert "\n" not in str(error.value)


def test_share_that_can_be_masked(loader):
  """Counted when the rows were packed, or in sets packed before estimated."""
  ids_NxL = loader.read([loader.train_row(i)
                         for i in range(loader.num_train_rows)])
  share = np.mean(ids_NxL[ids_NxL != 1] >= 5)
  assert loader.maskable_share == pytest.approx(share, rel=1e-12)
  manifest = {k: v for k, v in loader.packed.manifest.items() if k != "split"}
  loader.packed = dataclasses.replace(loader.packed, manifest=manifest)
  assert loader.packed.maskable_share is None
  assert loader.maskable_share == pytest.approx(share, rel=0.01)


@pytest.fixture
def shard(tiny_run, tmp_path, monkeypatch):
  """The middle one of three shards of a set that may be damaged."""
  monkeypatch.setattr(lines_lib, "BLOCK_BYTES", 1000)
  (tmp_path / "a.txt").write_text(conftest.make_text(400, seed=3))
  tiny_run.data.source = f"text:{tmp_path}/a.txt"
  tiny_run.data.dir = str(tmp_path / "rows")
  packed = prepare_lib.prepare(tiny_run, tiny_run.data.dir)
  assert min(packed.num_rows) > 50
  return tmp_path / "rows" / packed.manifest["shards"][1]["file"]


def _flip(path, place):
  data = bytearray(path.read_bytes())
  data[place] ^= 1
  path.write_bytes(data)


def _load(config):
  packed = packed_set.load(config, config.data.dir)
  return loader_lib.Loader(packed, config), packed


def _all_batches(loader):
  list(loader.train_batches(_sharding(1, 1, 1), 16, 0, 70))
  list(loader.eval_batches(_sharding(1, 1, 1), 16, loader.num_eval_rows))


@pytest.mark.parametrize("part", ["first byte", "last byte", "header"])
def test_damaged_record_is_named(tiny_run, shard, part):
  loader, packed = _load(tiny_run)
  first = packed.num_rows[0]
  record = loader._records[first + 17]
  start = shard.read_bytes().index(record)
  # 3 bytes and a chunk header of 40 precede what is stored.
  _flip(shard, {"first byte": start, "last byte": start + len(record) - 1,
                "header": start - 30}[part])
  message = (f"{shard}: record 17 cannot be read .*; delete {shard.name} and "
             f"{shard.stem}.json, and the same command packs")
  whole = loader.read([first + 16, 0, None, first + 18])
  loader, _ = _load(tiny_run)
  with pytest.raises(errors.InputError, match=message) as error:
    loader.read([first + 16, 0, None, first + 17, first + 18])
  assert "\n" not in str(error.value)
  # The others are read as before; batches that are read ahead say the same.
  np.testing.assert_array_equal(
      loader.read([first + 16, 0, None, first + 18]), whole)
  with pytest.raises(errors.InputError, match=message):
    _all_batches(loader)


def test_more_shards_than_files_that_may_be_open(tiny_run, monkeypatch):
  packed = packed_set.load(tiny_run, tiny_run.data.dir)
  bound = [64, 600]
  monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(bound))
  monkeypatch.setattr(resource, "setrlimit",
                      lambda kind, bounds: bound.__setitem__(0, bounds[0]))
  loader_lib.Loader(packed, tiny_run)
  assert bound == [len(packed.paths) + 500, 600]
  bound[:] = 2, 40
  loader_lib.Loader(packed, tiny_run)
  assert bound == [40, 40]
  bound[:] = 2, len(packed.paths)
  with pytest.raises(errors.InputError, match="lets a program open 1 files"):
    loader_lib.Loader(packed, tiny_run)


def test_what_is_no_damage_is_not_to_be_deleted(tiny_run, shard):
  class Refuses:
    def __getitem__(self, row):
      raise RuntimeError("open() failed: Too many open files; reading x")
    __getitems__ = __getitem__
  loader, _ = _load(tiny_run)
  loader._records = Refuses()
  with pytest.raises(errors.InputError, match="Too many open files") as told:
    loader.read([3])
  assert "delete" not in str(told.value)


def test_damaged_index_is_named(tiny_run, shard):
  data = shard.read_bytes()
  loader, packed = _load(tiny_run)
  last = loader._records[sum(packed.num_rows[:2]) - 1]
  # The index follows the records, and what says where it lies ends the file.
  index = data.index(last) + len(last) + 200
  footer = (len(data) - 1) // (1 << 16) * (1 << 16) + 100
  for place in (index, footer):
    assert any(data[place - 20:place + 20])
    shard.write_bytes(data)
    _flip(shard, place)
    with pytest.raises(errors.InputError, match=(
        f"{shard}: its index cannot be read .*; delete {shard.name} and")):
      _load(tiny_run)


def test_shard_of_another_set_is_named(tiny_run, shard):
  """Shards are filled up to 64 kB, so the sizes may be the same."""
  packed = packed_set.load(tiny_run, tiny_run.data.dir)
  other = next(path for path, n in zip(packed.paths, packed.num_rows)
               if n != packed.num_rows[1])
  shard.write_bytes(pathlib.Path(other).read_bytes())
  with pytest.raises(errors.InputError, match=(
      rf"{shard} holds \d+ records, not \d+; delete {shard.name}")):
    _load(tiny_run)


def test_what_is_advised_is_true(tiny_run, shard):
  whole, digest = shard.read_bytes(), _load(tiny_run)[1].digest
  shard.unlink()
  shard.with_suffix(".json").unlink()
  assert prepare_lib.prepare(tiny_run, tiny_run.data.dir).digest == digest
  assert shard.read_bytes() == whole


def test_flipped_bits_never_pass_for_rows(tiny_run, shard):
  """Wherever they lie: refused, or outside of all that is ever read."""
  loader, packed = _load(tiny_run)
  rows = list(range(sum(packed.num_rows)))
  whole, data = loader.read(rows), shard.read_bytes()
  rng = np.random.default_rng(0)
  refused = 0
  for place in rng.integers(0, len(data), 60):
    shard.write_bytes(data)
    _flip(shard, place)
    try:
      found = _load(tiny_run)[0].read(rows)
    except errors.InputError:
      refused += 1
    else:
      np.testing.assert_array_equal(found, whole)
  assert refused > 5
