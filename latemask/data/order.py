"""The order of rows: place in training, or among the held-out ones -> row.

Between a packed set and its loader. No list of rows is kept in memory, so a run
goes on at any place at once:
  - sets are split by documents: of each shard the first rows are trained on
    and the others held out. Sets packed before that was so are split by rows:
    a fixed permutation of all rows sets `data.eval_fraction` of them aside;
  - each epoch is a keyed permutation of the training rows, laid end to end;
  - the held-out rows stand in a fixed permutation, so that the first ones are
    an even sample, the same for every seed.
The permutations come from Grain, and no digest of the rows covers them:
`Order.probe` tells whether they are still the same.
"""

import bisect
import functools
import hashlib
import importlib.metadata
import itertools

import grain
import numpy as np

from latemask.data import held_out
from latemask import errors

_SPLIT_SEED = 3_211_048
# What a probe asks of Grain, besides the order itself: (rows, seed). It takes
# long over a few rows.
_PROBED = tuple(itertools.product(
    (1000, 65_537, 10**9 + 7), (0, _SPLIT_SEED, (1 << 32) - 1)))
_PROBES = 16


class Order:
  """Where rows stand.

  Attributes:
    num_train_rows, num_eval_rows: how many there are.
  """

  def __init__(self, packed, config):
    """Takes a `packed_set.Packed`, and the seed and fraction of a run.

    Raises:
      InputError: `data.eval_fraction` leaves no row to train on.
    """
    self._seed = config.seed
    self._train, self._eval = (
        _by_rows(packed, config) if packed.split is None
        else _by_documents(packed))
    self.num_train_rows, self.num_eval_rows = len(self._train), len(self._eval)

  def train_row(self, index):
    """Returns the row of the set that stands at `index` of the training."""
    epoch, place = divmod(index, self.num_train_rows)
    seed, = np.random.SeedSequence([self._seed, epoch]).generate_state(1)
    return self._train[_permutation(self.num_train_rows, int(seed))[place]]

  def eval_row(self, index):
    """Returns the row of the set that is number `index` of the held-out."""
    return self._eval[index]

  @property
  def probe(self):
    """Of which version of Grain they are, and a hash of some of the places."""
    places = [_some(_permutation(*key).__getitem__, key[0]) for key in _PROBED]
    places += [_some(self.train_row, 2 * self.num_train_rows),
               _some(self.eval_row, self.num_eval_rows)]
    return {"grain": importlib.metadata.version("grain"),
            "sha256": hashlib.sha256(repr(places).encode()).hexdigest()}


def check_probe(found, wanted, where):
  """Refuses to go on where Grain has come to another order.

  Args:
    found, wanted: `Order.probe` as it was saved, and as it is.
    where: what was saved.

  Raises:
    InputError: they differ.
  """
  if found["sha256"] != wanted["sha256"]:
    raise errors.InputError(
        f"{where}: grain {wanted['grain']} puts rows into another order than "
        f"grain {found['grain']}, with which the run was begun; install that "
        "version, or begin anew in another --workdir (train.init_from keeps "
        "the parameters)")


class _Stretches:
  """A stretch of rows from each shard, numbered through."""

  def __init__(self, starts, counts):
    self._starts = starts
    self._stops = list(itertools.accumulate(counts))

  def __len__(self):
    return self._stops[-1]

  def __getitem__(self, index):
    shard = bisect.bisect_right(self._stops, index)
    before = self._stops[shard - 1] if shard else 0
    return self._starts[shard] + int(index) - before


class _Permuted:
  """Rows `start` to `stop` - 1 of a fixed permutation of others."""

  def __init__(self, rows, start, stop):
    self._rows, self._start, self._stop = rows, start, stop
    self._order = _permutation(len(rows), _SPLIT_SEED)

  def __len__(self):
    return self._stop - self._start

  def __getitem__(self, index):
    return self._rows[self._order[self._start + index]]


def _by_documents(packed):
  """Returns the (training, held-out) rows of a set."""
  starts = [0, *itertools.accumulate(packed.num_rows)]
  counts = [rows - held for rows, held in zip(
      packed.num_rows, packed.num_eval_rows)]
  train = _Stretches(starts, counts)
  found = _Stretches([start + count for start, count in zip(starts, counts)],
                     packed.num_eval_rows)
  return train, _Permuted(found, 0, len(found))


def _by_rows(packed, config):
  """Returns the same of a set that was packed before documents were split."""
  rows = range(sum(packed.num_rows))
  num_held = max(1, round(len(rows) * config.data.eval_fraction))
  held_out.check_rows(config, len(rows), num_held)
  return (_Permuted(rows, num_held, len(rows)), _Permuted(rows, 0, num_held))


def _some(place, count):
  """Returns what stands at some of `count` places, spread evenly."""
  return [int(place(i * count // _PROBES)) for i in range(_PROBES)]


@functools.lru_cache(maxsize=8)
def _permutation(count, seed):
  """Returns a keyed permutation of range(count) that is never held whole."""
  return grain.MapDataset.range(count).shuffle(seed=seed)
