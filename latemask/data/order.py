"""The order of rows: place in training, or among the held-out ones -> row.

Between a packed set and its loader. No list of rows is kept in memory, so a run
goes on at any place at once:
  - sets are split by documents: of each shard the first rows are trained on
    and the others held out. Sets packed before that was so are split by rows:
    a fixed permutation of all rows sets `data.eval_fraction` of them aside;
  - each epoch is a keyed permutation of the training rows, laid end to end;
  - the held-out rows stand in a fixed permutation, so that the first ones are
    an even sample, the same for every seed;
  - of a mixture each set has an `Order` of its own, and theirs are interleaved.
The permutations come from Grain, and no digest of the rows covers them:
`Order.probe` tells whether they are still the same.
"""

import bisect
import functools
import hashlib
import importlib.metadata
import itertools
import typing

import grain
import numpy as np

from latemask.data import held_out
from latemask.data import mixture as mixture_lib
from latemask import errors

_SPLIT_SEED = 3_211_048
# What a probe asks of Grain, besides the order itself: (rows, seed). It takes
# long over a few rows.
_PROBED = tuple(itertools.product(
    (1000, 65_537, 10**9 + 7), (0, _SPLIT_SEED, (1 << 32) - 1)))
_PROBES = 16


class Source(typing.NamedTuple):
  """What is evaluated together, and has epochs of its own.

  Fields:
    name: as `data.source` names it; None for all that there is.
    share: of the training rows.
    num_train_rows, num_eval_rows: how many there are.
    eval_row: number among its held-out rows -> row.
  """

  name: str | None
  share: float
  num_train_rows: int
  num_eval_rows: int
  eval_row: typing.Callable


def of(packed, config):
  """Returns the `Order` of a set, or the `Mixed` of a mixture."""
  is_mixture = isinstance(packed, mixture_lib.Mixture)
  return (Mixed if is_mixture else Order)(packed, config)


class Order:
  """Where rows stand.

  Attributes:
    num_train_rows, num_eval_rows: how many there are.
    sources: one `Source`.
  """

  def __init__(self, packed, config):
    """Takes a `packed_set.Packed`, and the seed, phase and fraction of a run.

    Raises:
      InputError: `data.eval_fraction` leaves no row to train on.
    """
    self._seed, self._phase = config.seed, config.train.phase
    self._train, self._eval = (
        _by_rows(packed, config) if packed.split is None
        else _by_documents(packed))
    self.num_train_rows, self.num_eval_rows = len(self._train), len(self._eval)
    self.sources = [Source(None, 1.0, self.num_train_rows, self.num_eval_rows,
                           self.eval_row)]

  def train_row(self, index):
    """Returns the row of the set that stands at `index` of the training."""
    epoch, place = divmod(index, self.num_train_rows)
    seed = _epoch_seed(self._seed, epoch, self._phase)
    return self._train[_permutation(self.num_train_rows, seed)[place]]

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


class Mixed:
  """Where the rows of a mixture stand; as `Order`.

  Attributes:
    num_train_rows, num_eval_rows: how many the sources have together.
    sources: a `Source` each.
  """

  def __init__(self, mixture, config):
    """Takes a `mixture.Mixture`, and the seed of a run."""
    self._orders = [Order(packed, config) for packed in mixture.sets]
    self._starts = [0, *itertools.accumulate(
        sum(packed.num_rows) for packed in mixture.sets)]
    shares = [part.share for part in mixture.parts]
    self._shares = list(map(str, shares))
    self._train = mixture_lib.interleave(shares)
    # All of them once, whatever the shares are.
    self._eval = mixture_lib.Interleave(
        [order.num_eval_rows for order in self._orders])
    self.num_train_rows = sum(order.num_train_rows for order in self._orders)
    self.num_eval_rows = sum(order.num_eval_rows for order in self._orders)
    self.sources = [
        Source(part.name, float(part.share), order.num_train_rows,
               order.num_eval_rows, functools.partial(self._eval_row, number))
        for number, (part, order) in enumerate(
            zip(mixture.parts, self._orders))]

  def _eval_row(self, number, index):
    return self._starts[number] + self._orders[number].eval_row(index)

  def train_row(self, index):
    """Returns the row of the mixture that stands at `index` of the training."""
    number, place = self._train[index]
    return self._starts[number] + self._orders[number].train_row(place)

  def eval_row(self, index):
    """Returns row `index` of the held-out ones of all sources, interleaved."""
    return self._eval_row(*self._eval[index])

  @property
  def probe(self):
    """As that of `Order`, of all of them and of how they are interleaved."""
    places = [order.probe["sha256"] for order in self._orders] + self._shares
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


@functools.lru_cache(maxsize=16)
def _epoch_seed(seed, epoch, phase):
  """Returns the seed of the order of an epoch of a phase."""
  # That of the first phase is what it was before there were others: numpy
  # fills up with zeros.
  found, = np.random.SeedSequence([seed, epoch, phase - 1]).generate_state(1)
  return int(found)


@functools.lru_cache(maxsize=8)
def _permutation(count, seed):
  """Returns a keyed permutation of range(count) that is never held whole."""
  return grain.MapDataset.range(count).shuffle(seed=seed)
