"""Packed rows -> global batches on the devices: batch = f(seed, step).

Last stop on the host. Rows are found by index, so a run goes on at any step
at once, and any number of hosts sees the same batches:
  - a fixed permutation of all rows sets `eval_fraction` of them aside, the
    same ones for every seed;
  - each epoch is a keyed permutation of the others; row j of step t is number
    t * batch_size + j of the epochs laid end to end.
Grain computes the permutations and reads ahead in its own threads; each
process reads only the rows that its devices hold.

ArrayRecord keeps a hash of every record and of its index, and checks it each
time: a damaged shard is found when the damaged part is read, which costs no
pass over all of them at the start.
"""

import bisect
import functools
import itertools

from array_record.python import array_record_data_source
import grain
import jax
import numpy as np

from latemask import errors
from latemask.data import local
from latemask.data import packing
from latemask.data import rows as rows_lib
from latemask.data import tokenizer

_SPLIT_SEED = 3_211_048
_READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


class Loader:
  """The rows of a packed set, split into training and held-out ones."""

  def __init__(self, packed, config):
    """Opens the shards.

    Args:
      packed: a `packing.Packed`.
      config: the run's; its seed is that of the order of training rows.

    Raises:
      InputError: `data.eval_fraction` leaves no row to train on, or a shard
        is damaged.
    """
    self._length = config.data.length
    self._dtype = rows_lib.row_dtype(packed.tokenizer.vocab_size)
    self._seed = config.seed
    self._paths = packed.paths
    self._records = _open(packed, local.reading(
        packed.paths, packed.num_bytes, packed.digest,
        config.data.cache_dir))
    self._stops = list(itertools.accumulate(packed.num_rows))
    num_rows = len(self._records)
    fraction = config.data.eval_fraction
    self.num_eval_rows = max(1, round(num_rows * fraction))
    self.num_train_rows = num_rows - self.num_eval_rows
    if self.num_train_rows < 1:
      raise errors.InputError(
          f"data.eval_fraction {fraction} leaves none of {num_rows} rows to "
          "train on")
    self._split = _permutation(num_rows, _SPLIT_SEED)

  def train_batches(self, sharding, batch_size, start, stop):
    """Yields global ids_BxL int32 of steps start to stop - 1.

    Args:
      sharding: NamedSharding of the batch axis.
    """
    return self._batches(sharding, batch_size, start, stop, self.train_row)

  def eval_batches(self, sharding, batch_size, num_rows):
    """Yields (rows_B, ids_BxL) over the first `num_rows` held-out rows.

    rows_B is the place of each among the held-out ones; the last batch is
    filled up with rows of padding.
    """
    def row(index):
      return self.eval_row(index) if index < num_rows else None
    count = -(-num_rows // batch_size)
    batches = self._batches(sharding, batch_size, 0, count, row)
    for step, ids_BxL in enumerate(batches):
      rows_B = np.arange(step * batch_size, (step + 1) * batch_size,
                         dtype=np.int32)
      yield _to_devices(sharding, rows_B.__getitem__, rows_B.shape), ids_BxL

  def train_row(self, index):
    """Returns the packed row that stands at `index` of the training order."""
    epoch, place = divmod(index, self.num_train_rows)
    seed, = np.random.SeedSequence([self._seed, epoch]).generate_state(1)
    order = _permutation(self.num_train_rows, int(seed))
    return self._split[self.num_eval_rows + order[place]]

  def eval_row(self, index):
    """Returns the packed row that stands at `index` among the held-out ones."""
    return self._split[index]

  def read(self, rows):
    """Returns ids [len(rows), L], int32; a row of None is all padding.

    Raises:
      InputError: one is damaged; names the shard and the record in it.
    """
    ids_NxL = np.full((len(rows), self._length), tokenizer.PAD, np.int32)
    real = [i for i, row in enumerate(rows) if row is not None]
    if real:
      records = self._read([rows[i] for i in real])
      ids_NxL[real] = np.frombuffer(
          b"".join(records), self._dtype).reshape(len(real), self._length)
    return ids_NxL

  def _read(self, rows):
    """Returns the records of some rows, or names the one that is damaged."""
    try:
      return self._records.__getitems__(rows)
    except RuntimeError:
      # One by one; what a busy disk refused once may be there now.
      return [self._read_one(row) for row in rows]

  def _read_one(self, row):
    try:
      return self._records[row]
    except RuntimeError as error:
      shard = bisect.bisect_right(self._stops, row)
      place = row - ([0] + self._stops)[shard]
      raise _damaged(
          self._paths[shard], f"record {place} cannot be read",
          error) from error

  def _batches(self, sharding, batch_size, start, stop, row):
    """Yields global batches; this process reads what its devices hold."""
    shape = (batch_size, self._length)
    parts = sorted({
        index[0].indices(batch_size)[:2] for index in
        sharding.addressable_devices_indices_map(shape).values()})
    steps = grain.MapDataset.range(start, stop).map(
        lambda step: {part: self.read([
            row(int(step) * batch_size + slot) for slot in range(*part)])
                      for part in parts})
    for read in steps.to_iter_dataset(_READ_AHEAD):
      yield _to_devices(
          sharding, lambda index: read[index[0].indices(batch_size)[:2]],
          shape)


def _open(packed, copies):
  """Opens local copies of the shards, or names the one that is damaged."""
  source = array_record_data_source.ArrayRecordDataSource
  try:
    records = source(copies)
    if len(records) == sum(packed.num_rows):
      return records
  except RuntimeError:
    pass  # Which one it was is not said.
  for path, copy, num_rows in zip(packed.paths, copies, packed.num_rows):
    try:
      found = len(source([copy]))
    except RuntimeError as error:
      raise _damaged(path, "its index cannot be read", error) from error
    if found != num_rows:
      raise errors.InputError(
          f"{path} holds {found} records, not {num_rows}; "
          f"{packing.advice(path)}")
  return source(copies)


def _damaged(path, what, error):
  reason = " ".join(str(error).split())[:200]
  return errors.InputError(f"{path}: {what} ({reason}); {packing.advice(path)}")


def _to_devices(sharding, part, shape):
  return jax.make_array_from_callback(shape, sharding, part)


@functools.lru_cache(maxsize=4)
def _permutation(count, seed):
  """Returns a keyed permutation of range(count) that is never held whole."""
  return grain.MapDataset.range(count).shuffle(seed=seed)
