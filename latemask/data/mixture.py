"""Sources with shares of the rows: packed sets of their own, mixed by index.

`data.source` = SOURCE@SHARE,SOURCE@SHARE,... Each source is a packed set in a
folder of its own inside that of the rows, all with one tokenizer, and holds out
documents of its own. None depends on the shares: with others, the same rows are
read in another order. Row j of the training is row n of source k, where (k, n)
stands at j in a fixed interleave (`Interleave`); each source has epochs of its
own (order.py). `Mixture` is to the loader what a `packed_set.Packed` is.
"""

import dataclasses
import fractions
import hashlib
import itertools
import json
import math

from etils import epath
import ml_collections
import numpy as np

from latemask.data import packed_set
from latemask.data import shards as shards_lib
from latemask.data.sources import table as sources_lib
from latemask import errors

# What stands for `data.source` where the parts are not named.
_SOURCE = "several with shares"


@dataclasses.dataclass(frozen=True)
class Part:
  """A source with a share.

  Fields:
    name: the source, as `data.source` names it.
    share: of the rows.
    config: that of its packed set: the run's, with this source alone.
    directory: where its packed set lies.
  """

  name: str
  share: fractions.Fraction
  config: ml_collections.ConfigDict
  directory: epath.Path


def parts(config, directory):
  """Returns the `Part`s of a config; none where it gives no shares.

  Args:
    directory: of the rows of all.

  Raises:
    InputError: shares that cannot be, or `data.eval_source` does not name a
      source for each.
  """
  shares = sources_lib.shares(config.data.source)
  if shares is None:
    return []
  names = sources_lib.specs(config.data.source)
  held_out = [None] * len(names)
  if config.data.eval_source:
    held_out = sources_lib.specs(config.data.eval_source, "data.eval_source")
    if len(held_out) != len(names):
      raise errors.InputError(
          f"data.eval_source names {len(held_out):,}, and data.source "
          f"{len(names):,} sources with shares; name for each, in the same "
          "order, what is held out for it")
  return [Part(name, share, _config(config, name, other),
               epath.Path(directory) / f"source-{_short(name, other)}")
          for name, share, other in zip(names, shares, held_out)]


def _config(config, source, eval_source):
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data.source, config.data.eval_source = source, eval_source
  return config


def _short(*names):
  return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]


def without_shares(source):
  """Returns `data.source` as far as it says which rows are packed."""
  if sources_lib.shares(source) is None:
    return source
  return ",".join(f"{name}@" for name in sources_lib.specs(source))


@dataclasses.dataclass(frozen=True)
class Mixture:
  """The complete packed sets of sources with shares.

  Fields:
    directory: of all.
    parts: the sources.
    sets: their `packed_set.Packed`; all have the same tokenizer.
  """

  directory: str
  parts: list[Part]
  sets: list[packed_set.Packed]

  @property
  def tokenizer(self):
    """The tokenizer whose ids the rows hold."""
    return self.sets[0].tokenizer

  @property
  def paths(self):
    """The shard files that hold rows, set by set."""
    return [path for s in self.sets for path in s.paths]

  @property
  def num_rows(self):
    """Rows by file of `paths`."""
    return [count for s in self.sets for count in s.num_rows]

  @property
  def split(self):
    """How documents are held out: of each source by itself."""
    return self.sets[0].split

  @property
  def maskable_share(self):
    """Share of the tokens of training rows that can be masked."""
    counts = [s.manifest["totals"]["parts"]["training"] for s in self.sets]
    maskable, tokens = (
        sum(float(part.share) * count[key] / count["rows"]
            for part, count in zip(self.parts, counts))
        for key in ("maskable_tokens", "tokens"))
    return maskable / tokens

  @property
  def manifest(self):
    """The counts of all sets together, under `totals`."""
    return {"totals": shards_lib.add(
        [s.manifest["totals"] for s in self.sets],
        (*shards_lib.COUNTS, "bad_documents"))}

  @property
  def digest(self):
    """Equal digests are equal rows in equal shares."""
    text = json.dumps([[part.name, str(part.share), s.digest]
                       for part, s in zip(self.parts, self.sets)])
    return hashlib.sha256(text.encode()).hexdigest()


class Interleave:
  """A fixed order of several sources in which each has its share everywhere.

  `interleave[j]` is (source, n): which source stands at j, and how many times
  it stood before. After each `sum(counts)` it begins anew, so that shares are
  exact there. In between, the i-th of c stands where it would if all c were
  spread evenly, so that a source is never more than (1 + its share of the
  number of sources) / 2 away from its share.
  """

  def __init__(self, counts):
    """Takes how often each source stands in a period."""
    self._counts, self._period = counts, sum(counts)
    ideal = np.concatenate([
        (2 * np.arange(count) + 1) / (2 * count) for count in counts if count])
    source = np.repeat(np.arange(len(counts)), counts)
    rank = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort(ideal, kind="stable")
    self._source, self._rank = source[order], rank[order]

  def __getitem__(self, index):
    period, place = divmod(index, self._period)
    source = int(self._source[place])
    return source, period * self._counts[source] + int(self._rank[place])


def interleave(shares):
  """Returns the `Interleave` of some `Fraction`s that sum to 1."""
  period = math.lcm(*(share.denominator for share in shares))
  return Interleave([int(share * period) for share in shares])


def load(config, directory, tokenizer=None):
  """Returns what rows a config has in `directory`, None where none are.

  Returns:
    A `Mixture` where `data.source` gives shares, else a `packed_set.Packed`.

  Raises:
    InputError: see `packed_set.load`; of each set.
  """
  found = parts(config, directory)
  if not found:
    return packed_set.load(config, directory, tokenizer)
  begun = read_begun(config, directory, tokenizer)
  if not begun:
    return None
  tokenizer = tokenizer or packed_set.tokenizer_in(directory, begun)
  sets = [packed_set.load(part.config, part.directory, tokenizer)
          for part in found]
  return Mixture(str(directory), found, sets) if all(sets) else None


def settings(config):
  """What the rows of all sets depend on, but for the tokenizer."""
  return packed_set.settings(_shared(config))


def _shared(config):
  """Returns a config without what is a source's own."""
  config = _config(config, _SOURCE, None)
  with config.unlocked():
    config.data.eval_fraction = 0.0
  return config


def read_begun(config, directory, tokenizer=None):
  """Returns the manifest of sets that were begun in a folder, or None.

  Raises:
    InputError: they were begun with other settings.
  """
  return packed_set.read(_shared(config), directory, tokenizer)


def changes(config, packed):
  """Returns in words how text differs from what was packed, as `packed_set`."""
  if not isinstance(packed, Mixture):
    return packed_set.changes(config, packed)
  return ", ".join(filter(None, (
      packed_set.changes(part.config, found)
      for part, found in zip(packed.parts, packed.sets))))


def check_apart(opened):
  """Refuses sources of which two have text in common, or hold out the same.

  Args:
    opened: (sources, eval_sources) of each part.

  Raises:
    InputError: it is so; names the text.
  """
  for number, (sources, _) in enumerate(opened):
    both = [name for others, _ in opened[:number]
            for name in sources_lib.shared(others, sources)]
    if both:
      raise errors.InputError(
          f"data.source names {both[0]} in two sources with shares; name it in "
          "one")
    both = [name for _, others in opened
            for name in sources_lib.shared(sources, others)]
    if both:
      raise errors.InputError(
          f"{both[0]} is named by data.source and by data.eval_source; what "
          "is held out must not be trained on")


@dataclasses.dataclass(frozen=True)
class Sample:
  """Text of all sources by share, as a source that a tokenizer is trained on.

  Fields:
    sources: (share, sources without what is held out) of each part.
    max_bytes: about so much in all; a source that has less gives all it has.
  """

  sources: list
  max_bytes: int
  size_bytes = 0  # It is a sample already.

  def documents(self, shard, num_shards, bad):
    """Yields (number, text), all of them; `bad` bounds each source."""
    del shard, num_shards
    return enumerate(itertools.chain.from_iterable(
        sources_lib.sample(trained, int(self.max_bytes * share) or 1,
                           sources_lib.BadDocuments(bad.bound))
        for share, trained in self.sources))
