"""Packed rows -> global batches on the devices: batch = f(seed, step).

Last stop on the host. Rows are found by index, so a run goes on at any step
at once, and any number of hosts sees the same batches: row j of step t is
number t * batch_size + j of the order of rows (order.py). Grain reads ahead in
its own threads; each process reads only the rows that its devices hold.

ArrayRecord keeps a hash of every record and of its index, and checks it each
time: a damaged shard is found when the damaged part is read. So no pass over
all shards is needed at the start.
"""

import bisect
import errno
import itertools
import math
import os
import resource
import tempfile

from array_record.python import array_record_data_source
from etils import epath
import grain
import jax
import numpy as np
import tqdm

from latemask.data import order as order_lib
from latemask.data import packing
from latemask.data import shards
from latemask import errors
from latemask.runtime import files

# Rows that are read to estimate what the set itself does not say.
_SAMPLE_ROWS = 1024
_READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
# What a process has open besides its shards, at most.
_OTHER_FILES = 500
# What a system says that is no fault of a shard.
_NOT_DAMAGED = tuple(map(os.strerror, (
    errno.EMFILE, errno.ENFILE, errno.EACCES)))


class Loader:
  """The rows of a packed set, split into training and held-out ones.

  Attributes:
    packed: the set.
    order: its `order.Order`, or `order.Mixed`.
    num_train_rows, num_eval_rows: how many there are.
  """

  def __init__(self, packed, config):
    """Opens the shards.

    Args:
      packed: a `packed_set.Packed` or a `mixture.Mixture`.
      config: the run's; its seed is that of the order of training rows.

    Raises:
      InputError: `data.eval_fraction` leaves no row to train on, or a shard
        is damaged.
    """
    self._length = config.data.length
    self._dtype = packing.row_dtype(packed.tokenizer.vocab_size)
    self._paths = packed.paths
    _allow_open(len(self._paths))
    self._copies = [
        path for s in packed.sets for path in reading(
            s.paths, s.num_bytes, s.digest, config.data.cache_dir)]
    self._records = _open(packed, self._copies)
    self._stops = list(itertools.accumulate(packed.num_rows))
    self.packed = packed
    self.order = order_lib.of(packed, config)
    self.num_train_rows = self.order.num_train_rows
    self.num_eval_rows = self.order.num_eval_rows

  def train_batches(self, sharding, batch_size, start, stop):
    """Yields global ids_BxL int32 of steps start to stop - 1.

    Args:
      sharding: NamedSharding of the batch axis.
    """
    return self._batches(sharding, batch_size, start, stop, self.train_row)

  def eval_batches(self, sharding, batch_size, num_rows, source=None):
    """Yields (rows_B, ids_BxL) over the first `num_rows` held-out rows.

    rows_B is the place of each among the held-out ones; the last batch is
    filled up with rows of padding.

    Args:
      source: an `order.Source`, of whose rows; None: of all.
    """
    eval_row = source.eval_row if source else self.eval_row
    def row(index):
      return eval_row(index) if index < num_rows else None
    count = -(-num_rows // batch_size)
    batches = self._batches(sharding, batch_size, 0, count, row)
    for step, ids_BxL in enumerate(batches):
      rows_B = np.arange(step * batch_size, (step + 1) * batch_size,
                         dtype=np.int32)
      yield _to_devices(sharding, rows_B.__getitem__, rows_B.shape), ids_BxL

  def train_row(self, index):
    """Returns the packed row that stands at `index` of the training order."""
    return self.order.train_row(index)

  def eval_row(self, index):
    """Returns the packed row that stands at `index` among the held-out ones."""
    return self.order.eval_row(index)

  @property
  def maskable_share(self):
    """Share of the tokens of training rows that can be masked.

    As `packed` says, or where it does not, of an even sample.
    """
    if self.packed.maskable_share is not None:
      return self.packed.maskable_share
    count = min(_SAMPLE_ROWS, self.num_train_rows)
    ids_NxL = self.read([
        self.train_row(i * self.num_train_rows // count) for i in range(count)])
    tokenizer = self.packed.tokenizer
    return packing.num_maskable(ids_NxL, tokenizer) / np.count_nonzero(
        ids_NxL != tokenizer.specials.pad)

  def read(self, rows):
    """Returns ids [len(rows), L], int32; a row of None is all padding.

    Raises:
      InputError: one is damaged; names the shard and the record in it.
    """
    ids_NxL = np.full((len(rows), self._length),
                      self.packed.tokenizer.specials.pad, np.int32)
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
          self._paths[shard], self._copies[shard],
          f"record {place} cannot be read", error) from error

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


def _allow_open(num_shards):
  """Lets this process have all shards open at once, as ArrayRecord does.

  Raises:
    InputError: the system does not.
  """
  soft, hard = (math.inf if bound == resource.RLIM_INFINITY else bound
                for bound in resource.getrlimit(resource.RLIMIT_NOFILE))
  if num_shards >= hard:
    raise errors.InputError(
        f"{num_shards:,} shards must be open at once, and this system lets a "
        f"program open {hard:,} files; raise that (ulimit -Hn)")
  wanted = min(num_shards + _OTHER_FILES, hard)
  if wanted > soft:
    resource.setrlimit(resource.RLIMIT_NOFILE, (
        wanted, resource.RLIM_INFINITY if hard == math.inf else hard))


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
      raise _damaged(
          path, copy, "its index cannot be read", error) from error
    if found != num_rows:
      raise errors.InputError(
          f"{copy} holds {found} records, not {num_rows}; "
          f"{_advice(path, copy)}")
  return source(copies)


def _damaged(path, copy, what, error):
  reason = " ".join(str(error).split())[:200]
  advice = "" if any(said in reason for said in _NOT_DAMAGED) else (
      f"; {_advice(path, copy)}")
  return errors.InputError(f"{copy}: {what} ({reason}){advice}")


def _advice(path, copy):
  if str(copy) == str(path):
    return shards.advice(path)
  return (f"delete it, and the same command copies it again; if that is the "
          f"same, of {path}: {shards.advice(path)}")


def _to_devices(sharding, part, shape):
  return jax.make_array_from_callback(shape, sharding, part)


def reading(paths, sizes, name, cache_dir):
  """Returns local paths of files, copying those that lie elsewhere.

  Args:
    sizes: their bytes; a copy of as many is not made again.
    name: of the folder of copies; equal names are equal files.
    cache_dir: where that folder lies; None for the system's temporary folder.
  """
  if not any(map(files.is_remote, paths)):
    return list(paths)
  folder = epath.Path(cache_dir or tempfile.gettempdir()) / (
      f"latemask_rows_{name[:16]}")
  files.make(folder)
  copies = [folder / epath.Path(path).name for path in paths]
  missing = [(path, copy, size) for path, copy, size in zip(
      paths, copies, sizes)
             if not copy.exists() or files.size(copy) != size]
  with tqdm.tqdm(total=sum(size for *_, size in missing), unit="B",
                 unit_scale=True, desc=f"copying rows to {folder}",
                 disable=not missing) as bar:
    for path, copy, size in missing:
      with files.writing(copy) as part:
        epath.Path(path).copy(part)
      bar.update(size)
  return [str(copy) for copy in copies]
