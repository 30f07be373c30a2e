"""What preparing would give, estimated from a sample (prepare --dry_run).

Nothing is written and nothing is downloaded.
"""

import dataclasses

from etils import epath
import numpy as np

from latemask.data import mixture
from latemask.data import packing
from latemask.data import shards
from latemask.data.sources import lines
from latemask.data.sources import table as sources_lib
from latemask.data.sources import tfds as tfds_source
from latemask.data.tokenizers import kinds as tokenizers_lib
from latemask.data.tokenizers import specials as specials_lib
from latemask import errors

# Text that an estimate is made from, for each source: all of a small one.
_SAMPLE_BYTES = 4 << 20
# Where there is no text to train a tokenizer on, for the estimate alone.
_BYTES_A_TOKEN = 4
# ArrayRecord: chunk header and index entry of a record; blocks of a file.
_RECORD_BYTES = 43 + 9
_BLOCK_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class _Guess:
  """Stands for a tokenizer that cannot be trained yet."""

  vocab_size: int
  specials = specials_lib.TRAINED

  def is_special(self, ids):
    """Returns that none is: they stand for text."""
    return np.zeros(ids.shape, bool)

  def encode(self, texts):
    """Returns as many ids as there may be, all the same."""
    return [np.zeros(-(-len(text.encode()) // _BYTES_A_TOKEN), np.int32)
            for text in texts]


def dry_run(config, directory, given_tokenizer=None):
  """Prints what `prepare.prepare` would do, and writes nothing.

  Args:
    given_tokenizer: that of `train.init_from`, where there is one.

  Returns:
    The estimated counts, keys of `packing.COUNTS`, bad_documents and bytes.

  Raises:
    InputError: see `mixture.load` and `table.open_source`; or the set was
      packed from other text.
  """
  directory = epath.Path(directory)
  packed = complete(config, directory, given_tokenizer)
  if packed:
    return packed.manifest["totals"]
  totals, found = dict.fromkeys((*packing.COUNTS, "bad_documents"), 0), []
  for key, spec in sources_lib.named(config):
    try:
      found.append((spec, sources_lib.open_source(
          spec, config, key, download=False)))
    except tfds_source.NotPrepared:
      print(f"{spec}: not prepared yet, so its size is not known; left out "
            "below, and downloaded first unless this is a dry run")
  sources = sources_lib.once([source for _, source in found])
  tokenizer = _tokenizer(config, directory, given_tokenizer, sources)
  for (spec, _), source in zip(found, sources):
    for note in source.notes:
      print(note)
    counts, bad = _estimate(config, source, tokenizer)
    print(f"{spec}: {source.size_bytes:,} bytes, about "
          f"{counts['documents']:,} documents, {counts['tokens']:,} tokens")
    if bad:
      print(f"  about {counts['bad_documents']:,} bad documents "
            f"(data.max_bad_documents is {config.data.max_bad_documents}): "
            f"{bad}")
    totals = {key: totals[key] + counts[key] for key in totals}
  num_shards, done = _shards(config, directory, [
      (spec, source) for (spec, _), source in zip(found, sources)])
  row_bytes = config.data.length * packing.row_dtype(
      tokenizer.vocab_size).itemsize + _RECORD_BYTES
  blocks = -(-totals["rows"] * row_bytes // num_shards // _BLOCK_BYTES) + 1
  totals["bytes"] = num_shards * blocks * _BLOCK_BYTES
  batch_size = config.train.batch_size
  print(f"in all about {totals['tokens']:,} tokens in {totals['rows']:,} rows "
        f"of {config.data.length}; one epoch is about "
        f"{-(-totals['rows'] // batch_size):,} steps of {batch_size:,} rows\n"
        f"on disk about {totals['bytes']:,} bytes in {num_shards:,} shards, of "
        f"which {done:,} are packed; nothing was written")
  return totals


def _shards(config, directory, found):
  """Returns (how many shards there will be, how many are packed).

  Args:
    found: (part of a key, its source) of each.
  """
  sets = [(directory, [source for _, source in found])]
  parts = mixture.parts(config, directory)
  if parts:  # Each with what is held out for it.
    sets = [(part.directory, [
        source for spec, source in found
        if spec in (part.name, part.config.data.eval_source)])
            for part in parts]
  num_shards = [config.data.shards or sources_lib.default_shards(sources)
                for _, sources in sets]
  return sum(num_shards), sum(
      len(shards.done(folder, count))
      for (folder, _), count in zip(sets, num_shards))


def complete(config, directory, tokenizer=None):
  """Returns the complete set in a folder, and says so; None if none is there.

  Args:
    tokenizer: that of `train.init_from`, where there is one.

  Raises:
    InputError: see `mixture.load`; or it was packed from other text.
  """
  packed = mixture.load(config, directory, tokenizer)
  if packed:
    changes = mixture.changes(config, packed)
    if changes:
      raise errors.InputError(
          f"{directory} was packed from other text: {changes}; delete the "
          "folder or choose another --out")
    print(f"{directory} is complete: {packed.manifest['totals']['rows']:,} "
          "rows; nothing is to be done")
  return packed


def _tokenizer(config, directory, given_tokenizer, sources):
  """Returns the tokenizer, or what stands for it; says which."""
  if config.data.tokenizer:
    print(f"estimated with the tokenizer {config.data.tokenizer}")
    return tokenizers_lib.of_config(config)
  if found := tokenizers_lib.saved(directory):
    print(f"estimated with the tokenizer of {directory}")
    return found
  if given_tokenizer:
    print("estimated with the tokenizer of train.init_from")
    return given_tokenizer
  wanted = f"a tokenizer of {config.data.vocab_size:,} pieces"
  try:
    tokenizer = tokenizers_lib.train(
        config.data.tokenizer_kind, _texts(sources), config.data.vocab_size)
  except errors.InputError:
    if sources and all(source.size_bytes <= _SAMPLE_BYTES // len(sources)
                       for source in sources):
      raise  # That is all the text there is.
    print(f"estimated at {_BYTES_A_TOKEN} bytes a token: {wanted} is trained "
          "first, and there is no text for it yet")
    return _Guess(config.data.vocab_size)
  few = f"; the text gives {tokenizer.vocab_size:,}" * (
      tokenizer.vocab_size < config.data.vocab_size)
  print(f"estimated with {wanted}, trained on a sample of the text and not "
        f"kept{few}")
  return tokenizer


def _texts(sources):
  """Yields documents of every source, to train a tokenizer on."""
  for source in sources:
    left_bytes = _SAMPLE_BYTES // len(sources)
    for document in _Sample(source, sources_lib.BadDocuments(float("inf"))):
      yield document
      left_bytes -= len(document)
      if left_bytes < 0:
        break


class _Sample:
  """The documents of one part of a source, all parts being alike.

  Attributes:
    times: how much there is in all, by the sample; once it has been read.
  """

  def __init__(self, source, bad):
    self._source, self._bad = source, bad
    parts = -(-source.size_bytes // _SAMPLE_BYTES) or 1
    parts = min(parts, source.max_parts or parts)
    # One of many small shards: of files, blocks that lie evenly.
    self._part = parts // 2, parts
    # Else it is some files that are read through, of any sizes.
    self._bytes = source.max_parts and source.part_bytes(*self._part)
    self.times = source.size_bytes / self._bytes if self._bytes else parts

  def __iter__(self):
    left_bytes, before = _SAMPLE_BYTES, 0
    for place, text in self._source.documents(*self._part, self._bad):
      # They may be very long: their beginning will do. Within a block, places
      # number the lines.
      if (self._bytes and left_bytes < 0
          and place // lines.BLOCK_BYTES != before // lines.BLOCK_BYTES):
        self.times = self._source.size_bytes / self._source.part_bytes(
            *self._part, place)
        return
      yield text
      left_bytes, before = left_bytes - len(text), place


def _estimate(config, source, tokenizer):
  """Returns (counts of a source, what is wrong with a bad document)."""
  bad = sources_lib.BadDocuments(float("inf"))
  counts = dict.fromkeys(packing.COUNTS, 0)
  sample = _Sample(source, bad)
  for _ in packing.pack(sample, tokenizer, config.data, counts,
                        progress=lambda num_bytes: None):
    pass
  counts["bad_documents"] = bad.count
  return {key: round(sample.times * value)
          for key, value in counts.items()}, bad.first
