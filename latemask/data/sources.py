"""Where documents come from: text files, TFDS, or the running Python.

First stop of the flow. A source hands out its documents by shard: shard s of
S is a fixed part of the text, found without reading the others (a gzip file
excepted, which must be read through). So shards can be packed in any order,
by any number of processes, and packed again after a stop.

  text:GLOB            .txt, .jsonl, and .gz of both; UTF-8
  tfds:NAME[:SPLIT]    a TensorFlow Datasets set, split `train` by default
  builtin              prose of the running Python, about 2 MB, no download

Several are joined by commas. In a .txt file a LINE is a document; in a .jsonl
file a line is an object whose text stands under the first of
`data.text_fields` that it has.
"""

import ast
import dataclasses
import functools
import glob
import io
import itertools
import json
import pathlib
import sys
import sysconfig

from etils import epath
from isal import igzip
from isal import isal_zlib

from latemask import errors

# Text is dealt to the shards in blocks, by the byte at which a line starts.
_BLOCK_BYTES = 1 << 20
_SHARD_BYTES = 16 << 20
_MAX_SHARDS = 1024
# A tokenizer sees at least so many, where there are.
_SAMPLE_DOCUMENTS = 1000
# Every shard reads through a gzip file that it shares with others.
_MAX_GZIP_SHARDS = 16
_SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
_ALTERNATIVES = (
    "prepare it once with `tfds build` (README, TensorFlow Datasets) and name "
    "its folder in data.tfds_dir, or use text:GLOB for files of your own, or "
    "builtin")


def open_sources(config):
  """Returns the list of sources that `config.data.source` names.

  Raises:
    InputError: an unknown kind, no file matched, or a TFDS set that is not
      there and cannot be downloaded.
  """
  specs = [s.strip() for s in config.data.source.split(",") if s.strip()]
  if not specs:
    raise errors.InputError(
        "data.source is empty; give text:GLOB, tfds:NAME or builtin")
  sources = []
  for spec in specs:
    kind, _, rest = spec.partition(":")
    sources.append(errors.choose(_KINDS, kind, "data.source")(rest, config))
  return sources


def default_shards(sources):
  """Number of shards that suits the sources: one per 16 MiB, at most 1024."""
  wanted = sum(s.size_bytes for s in sources) // _SHARD_BYTES
  return max(1, min([wanted, _MAX_SHARDS] + [s.max_shards for s in sources]))


def documents(sources, shard, num_shards):
  """Yields the documents of shard `shard` of `num_shards`, source by source.

  Raises:
    InputError: a file that cannot be decoded, naming it and the place.
  """
  for source in sources:
    yield from source.documents(shard, num_shards)


def sample(sources, max_bytes):
  """Yields about `max_bytes` (at most twice that), evenly over the whole.

  Of long documents, which are few, the beginning is taken.
  """
  total = max(sum(source.size_bytes for source in sources), 1)
  share = max_bytes / total * (1 << 32)
  longest = max(max_bytes // _SAMPLE_DOCUMENTS, 1)
  room = 2 * max_bytes
  for number, document in enumerate(documents(sources, 0, 1)):
    # Multiples of the golden ratio lie evenly in any stretch of them.
    if number * 0x9E3779B1 % (1 << 32) < share:
      if total > max_bytes:
        document = document[:longest]
      yield document
      room -= len(document)
      if room < 0:
        return


@dataclasses.dataclass(frozen=True)
class Text:
  """Files of lines. `paths` are sorted; `fields` serve .jsonl."""

  paths: tuple[str, ...]
  fields: tuple[str, ...]

  @classmethod
  def open(cls, pattern, config):
    """Finds the files of a glob pattern; `**` crosses folders."""
    paths = tuple(sorted(
        str(p) for p in _glob(pattern)
        if str(p).endswith(_SUFFIXES) and p.is_file()))
    if not paths:
      raise errors.InputError(
          f"data.source text:{pattern} matches no file ending in "
          f"{', '.join(_SUFFIXES)}")
    return cls(paths, tuple(config.data.text_fields))

  @functools.cached_property
  def _sizes(self):
    """Bytes of text by path; of a gzip file what its trailer says."""
    return {path: _text_bytes(path) for path in self.paths}

  @property
  def size_bytes(self):
    """Bytes of text, for the progress bar."""
    return sum(self._sizes.values())

  @property
  def fingerprint(self):
    """What tells whether a stopped preparation may go on."""
    return {str(path): size for path, size in self._sizes.items()}

  @property
  def max_shards(self):
    """More shards than this would read gzip files too often."""
    if not self._num_gzip:
      return _MAX_SHARDS
    return max(_MAX_GZIP_SHARDS, self._num_gzip)

  @property
  def _num_gzip(self):
    return sum(path.endswith(".gz") for path in self.paths)

  def documents(self, shard, num_shards):
    """Yields the documents of one shard."""
    whole_gz = self._num_gzip >= num_shards
    first_block = 0
    for path in self.paths:
      # A gzip file cannot be entered midway: with enough of them each shard
      # reads its own ones; with few, all shards read through all of them.
      whole = whole_gz and path.endswith(".gz")
      blocks = 1 if whole else -(-self._sizes[path] // _BLOCK_BYTES) or 1
      mine = (shard - first_block) % num_shards
      first_block += blocks
      # How much a gzip file holds is only an estimate.
      if mine < blocks or (path.endswith(".gz") and not whole):
        yield from self._read(path, mine, num_shards, whole)

  def _read(self, path, first, stride, whole):
    """Yields the documents of blocks first, first + stride, ... of a file."""
    parse = _parse_json if ".jsonl" in epath.Path(path).name else _parse_text
    first, stride = (0, 1) if whole else (first, stride)
    try:
      with _open(path) as file:
        for start, lines in _blocks(file, first, stride):
          yield from parse(lines, path, start, self.fields)
    except (EOFError, igzip.BadGzipFile, isal_zlib.error) as error:
      raise errors.InputError(
          f"{path} cannot be decompressed ({error}); make it anew") from error


@dataclasses.dataclass(frozen=True)
class Tfds:
  """A set of TensorFlow Datasets, read by index range."""

  name: str
  split: str
  fields: tuple[str, ...]
  data_dir: str | None
  max_shards = _MAX_SHARDS

  @classmethod
  def open(cls, rest, config):
    """Finds the set, downloading and preparing it where it must be."""
    import tensorflow as tf  # Slow; few runs need it.
    name, _, split = rest.partition(":")
    source = cls(name, split or "train", tuple(config.data.text_fields),
                 config.data.tfds_dir)
    builder = source._builder
    try:
      if not builder.is_prepared():
        builder.download_and_prepare(file_format="array_record")
    # What a downloader raises without a network is OSError's family; what
    # TFDS raises where Beam, a manual download or a split is wanting is not.
    except (OSError, ValueError, AssertionError, ImportError, KeyError,
            AttributeError, RuntimeError, tf.errors.OpError) as error:
      raise errors.InputError(
          f"data.source tfds:{rest} is not prepared and cannot be downloaded "
          f"({_first_line(error)}); {_ALTERNATIVES}") from error
    try:
      builder.info.splits[source.split]
    except (ValueError, KeyError) as error:
      raise errors.InputError(
          f"data.source tfds:{rest} has no split {source.split}; it has "
          f"{', '.join(builder.info.splits)}") from error
    features = builder.info.features
    if not any(f in features for f in source.fields):
      raise errors.InputError(
          f"data.source tfds:{rest} has the features {', '.join(features)}; "
          "name the one with the text in data.text_fields")
    return source

  @functools.cached_property
  def _builder(self):
    import tensorflow_datasets as tfds
    try:
      return tfds.builder(self.name, data_dir=self.data_dir)
    except (tfds.core.DatasetNotFoundError, OSError, ValueError) as error:
      raise errors.InputError(
          f"data.source tfds:{self.name} is no TFDS set "
          f"({_first_line(error)}); {_ALTERNATIVES}") from error

  @property
  def size_bytes(self):
    """Bytes on disk, for the progress bar."""
    return self._builder.info.dataset_size or 0

  @property
  def fingerprint(self):
    """Name, version and split."""
    return f"{self._builder.info.full_name}:{self.split}"

  def documents(self, shard, num_shards):
    """Yields the documents of one shard, a contiguous range of examples."""
    import tensorflow_datasets as tfds
    count = self._builder.info.splits[self.split].num_examples
    if count * shard // num_shards == count * (shard + 1) // num_shards:
      return  # More shards than examples.
    split = tfds.even_splits(self.split, min(num_shards, count))[
        count * shard // num_shards if num_shards > count else shard]
    field = next(f for f in self.fields if f in self._builder.info.features)
    try:
      examples = self._builder.as_data_source(split=split)
    except NotImplementedError:  # Prepared as TFRecord: only tf.data reads it.
      examples = tfds.as_numpy(self._builder.as_dataset(split=split))
    for example in examples:
      text = example[field]
      yield text.decode() if isinstance(text, bytes) else str(text)


class Builtin:
  """Prose of the running Python: its help topics and its docstrings."""
  max_shards = _MAX_SHARDS

  @classmethod
  def open(cls, rest, config):
    """Takes no argument: `builtin` stands alone."""
    del config
    if rest:
      raise errors.InputError(
          f"data.source builtin:{rest}: builtin takes no argument")
    return cls()

  @functools.cached_property
  def _files(self):
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "test", "tests", "idlelib", "lib2to3"}
    return [path for path in sorted(root.rglob("*.py"))
            if not skipped & set(path.relative_to(root).parts)]

  @property
  def fingerprint(self):
    """The version of Python."""
    return sys.version

  @functools.cached_property
  def size_bytes(self):
    """Bytes of Python source, for the progress bar (a seventh is prose)."""
    return sum(path.stat().st_size for path in self._files) // 7

  def documents(self, shard, num_shards):
    """Yields help topics and docstrings of at least 20 words."""
    from pydoc_data import topics
    prose = (topics.topics[key] for key in sorted(topics.topics)[shard::
                                                                num_shards])
    yield from map(_reflow, prose)
    for path in self._files[shard::num_shards]:
      try:
        tree = ast.parse(path.read_bytes())
      except (SyntaxError, ValueError):
        continue  # The standard library ships some broken files on purpose.
      for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
          text = ast.get_docstring(node) or ""
          if len(text.split()) >= 20:
            yield _reflow(text)


_KINDS = {"text": Text.open, "tfds": Tfds.open, "builtin": Builtin.open}


def _reflow(text):
  return " ".join(text.split())


def _first_line(error):
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0][:200]}" if lines else repr(error)


def _glob(pattern):
  """Returns the paths that match; on gs:// and the like without `**`."""
  if "://" not in pattern:
    return map(epath.Path, glob.glob(pattern, recursive=True))
  root, _, rest = pattern.partition("*")
  root, _, start = root.rpartition("/")
  return epath.Path(root).glob(f"{start}*{rest}")


def _open(path):
  file = epath.Path(path).open("rb")
  return file if not path.endswith(".gz") else io.BufferedReader(
      igzip.GzipFile(fileobj=file), _BLOCK_BYTES)


def _text_bytes(path):
  size = epath.Path(path).stat().length
  if not path.endswith(".gz") or size < 4:
    return size
  with epath.Path(path).open("rb") as file:
    file.seek(size - 4)
    # Modulo 4 GiB, and the last member only: an estimate, never less than
    # the file itself.
    return max(size, int.from_bytes(file.read(4), "little"))


def _blocks(file, first, stride):
  """Yields (start, lines as one bytes) of blocks first, first + stride, ...

  A line belongs to the block in which it starts. Seeks go forward only, as in
  a gzip file they read all that they pass.
  """
  start = 0
  for low in itertools.count(first * _BLOCK_BYTES, stride * _BLOCK_BYTES):
    if start < low:
      # One byte early: a line that starts at `low` must not be taken for the
      # tail of the one before.
      file.seek(low - 1)
      tail = file.readline()
      if not tail:
        return
      start = low - 1 + len(tail)
    if start < low + _BLOCK_BYTES:
      lines = file.read(low + _BLOCK_BYTES - start)
      if not lines:
        return
      if not lines.endswith(b"\n"):
        lines += file.readline()
      yield start, lines
      start += len(lines)


def _parse_text(lines, path, start, fields):
  """Yields the documents of a block of .txt."""
  del fields
  try:
    documents = lines.decode().split("\n")
  except UnicodeDecodeError as error:
    raise errors.InputError(
        f"{path}: byte {start + error.start} is not UTF-8; convert the file, "
        "for example with iconv -t utf-8") from error
  yield from filter(None, map(str.strip, documents))


def _parse_json(lines, path, start, fields):
  """Yields the documents of a block of .jsonl."""
  for line in lines.splitlines(keepends=True):
    try:
      record = json.loads(line) if line.strip() else None
      # Half of a surrogate pair is JSON, but no text.
      json.dumps(record, ensure_ascii=False).encode()
    except (json.JSONDecodeError, UnicodeError) as error:
      raise errors.InputError(
          f"{path}: the line at byte {start} is not JSON in UTF-8 "
          f"({' '.join(str(error).split())}); each line must be an object "
          'such as {"text": "..."}') from error
    if line.strip():
      text = next((record[f] for f in fields if isinstance(record, dict)
                   and isinstance(record.get(f), str)), None)
      if text is None:
        raise errors.InputError(
            f"{path}: the line at byte {start} has no text under "
            f"{' or '.join(fields)}; name its key in data.text_fields")
      if text.strip():
        yield text.strip()
    start += len(line)
