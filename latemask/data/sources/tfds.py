"""Sets of TensorFlow Datasets: found, prepared where they must be, read.

`Tfds` is one of the sources of documents, and the GLUE tasks are read with the
functions here. TensorFlow and TFDS are slow to import, and few runs need them:
they are imported when they are called.
"""

import dataclasses
import functools
import itertools

from latemask import errors

_ALTERNATIVES = (
    "prepare it once with `tfds build` (latemask/data/README.md) and name its "
    "folder in data.tfds_dir, or use text:GLOB for files of your own, or "
    "builtin")


class NotPrepared(errors.InputError):
  """A set that does not lie prepared, and cannot or may not be downloaded."""


def builder(name, data_dir):
  """Returns the TFDS builder of a set.

  Raises:
    InputError: TFDS knows no such set.
  """
  import tensorflow_datasets as tfds
  try:
    return tfds.builder(name, data_dir=data_dir)
  except (tfds.core.DatasetNotFoundError, OSError, ValueError) as error:
    raise errors.InputError(
        f"tfds:{name} is no TFDS set ({_first_line(error)})") from error


def prepare(tfds_builder, download=True):
  """Downloads and prepares a set, unless it lies prepared.

  Args:
    download: False only looks.

  Raises:
    NotPrepared: it is not there, and cannot be downloaded or must not be.
  """
  import tensorflow as tf
  name = tfds_builder.info.full_name
  try:
    if tfds_builder.is_prepared():
      return
    if not download:
      raise NotPrepared(f"tfds:{name} is not prepared")
    tfds_builder.download_and_prepare(file_format="array_record")
  # What a downloader raises without a network is OSError's family; what
  # TFDS raises where Beam, a manual download or a split is wanting is not.
  except (OSError, ValueError, AssertionError, ImportError, KeyError,
          AttributeError, RuntimeError, tf.errors.OpError) as error:
    raise NotPrepared(
        f"tfds:{name} is not prepared and cannot be downloaded "
        f"({_first_line(error)})") from error


def examples(tfds_builder, split):
  """Returns the examples of a split, in order: dicts of NumPy values."""
  import tensorflow_datasets as tfds
  try:
    return tfds_builder.as_data_source(split=split)
  except NotImplementedError:  # Prepared as TFRecord: only tf.data reads it.
    # By itself it takes from 16 files in turn.
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    return tfds.as_numpy(tfds_builder.as_dataset(
        split=split, read_config=in_order))


@dataclasses.dataclass(frozen=True)
class Tfds:
  """A source of documents, read by index range."""

  name: str
  split: str
  fields: tuple[str, ...]
  data_dir: str | None
  max_shards, max_parts, files, notes = None, None, {}, ()

  @classmethod
  def open(cls, rest, config, key, download):
    """Finds the set, downloading and preparing it where it must be."""
    name, _, split = rest.partition(":")
    source = cls(name, split or "train", tuple(config.data.text_fields),
                 config.data.tfds_dir)
    try:
      prepare(source._builder, download)
    except errors.InputError as error:
      raise type(error)(f"{key}: {error}; {_ALTERNATIVES}") from error
    info = source._builder.info
    try:
      info.splits[source.split]
    except (ValueError, KeyError) as error:
      raise errors.InputError(
          f"{key} tfds:{rest} has no split {source.split}; it has "
          f"{', '.join(info.splits)}") from error
    if not any(f in info.features for f in source.fields):
      raise errors.InputError(
          f"{key} tfds:{rest} has the features "
          f"{', '.join(info.features)}; name the one with the text in "
          "data.text_fields")
    return source

  def __getstate__(self):
    """Sends names to another process, which makes a builder of its own."""
    return dataclasses.asdict(self)

  def without(self, known):
    """Returns the source; files of it are no other's."""
    del known
    return self

  def shared(self, sources):
    """Returns its name if another source has some of its examples."""
    names = {place for source in sources if isinstance(source, Tfds)
             for place in source._ranges}
    return [f"tfds:{self.fingerprint}"] * any(
        name == other and start < end and first < stop
        for name, start, stop in self._ranges
        for other, first, end in names)

  @property
  def _ranges(self):
    """(set and split, first example, behind the last) of each summand."""
    import tensorflow_datasets as tfds
    info = self._builder.info
    return [(f"{info.full_name}:{part.splitname}", part.from_ or 0,
             info.splits[part.splitname].num_examples if part.to is None
             else part.to)
            for part in tfds.core.splits.AbstractSplit.from_spec(
                self.split).to_absolute(info.splits)]

  @functools.cached_property
  def _builder(self):
    return builder(self.name, self.data_dir)

  @property
  def size_bytes(self):
    """Bytes on disk, for the progress bar."""
    return self._builder.info.dataset_size or 0

  @property
  def fingerprint(self):
    """Name, version and split."""
    return f"{self._builder.info.full_name}:{self.split}"

  def documents(self, shard, num_shards, bad):
    """Yields (number of the example, text) of one shard, an even part."""
    import tensorflow_datasets as tfds
    count = self._builder.info.splits[self.split].num_examples
    first = count * shard // num_shards
    if first == count * (shard + 1) // num_shards:
      return  # More shards than examples.
    index, parts = ((first, count) if num_shards > count
                    else (shard, num_shards))
    split = tfds.even_splits(self.split, parts)[index]
    places = self._places(index, parts)
    if not any(places):
      return  # As many shards as `a+b` has examples, not `a` or `b`.
    field = next(f for f in self.fields if f in self._builder.info.features)
    for place, example in zip(
        itertools.chain(*places), examples(self._builder, split)):
      text = example[field]
      try:
        text = text.decode() if isinstance(text, bytes) else str(text)
      except UnicodeDecodeError as error:
        bad.add(f"tfds:{self.fingerprint}: {field} of example {place} is not "
                f"UTF-8 at byte {error.start}")
      else:
        yield place, text

  def _places(self, index, parts):
    """Returns ranges of numbers, the examples of one of `tfds.even_splits`.

    It cuts each summand of `train[:10]+test` into as many parts, of which the
    first ones take what is left over.
    """
    first, found = 0, []
    for _, start, stop in self._ranges:
      each, more = divmod(stop - start, parts)
      found.append(range(first + each * index + min(index, more),
                         first + each * (index + 1) + min(index + 1, more)))
      first += stop - start
    return found


def _first_line(error):
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0][:200]}" if lines else repr(error)
