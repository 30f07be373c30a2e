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

import dataclasses
import functools
import glob
import io
import itertools
import json
import operator

from etils import epath
from isal import igzip
from isal import isal_zlib

from latemask import errors
from latemask.data import builtin
from latemask.data import tfds_source

# Text is dealt to the shards in blocks, by the byte at which a line starts.
_BLOCK_BYTES = 1 << 20
_SHARD_BYTES = 16 << 20
_MAX_SHARDS = 1024
# A tokenizer sees at least so many, where there are.
_SAMPLE_DOCUMENTS = 1000
# Every shard reads through a gzip file that it shares with others.
_MAX_GZIP_SHARDS = 16
# A place is the number of the file << this + the place in it.
_FILE_BITS = 42
_TEXT = operator.itemgetter(1)
_SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")


class BadDocuments:
  """Counts the documents that cannot be read, up to a bound.

  Attributes:
    count: how many were met.
    first: what is wrong with the first one, and where; None without one.
  """

  def __init__(self, bound, before=0):
    """Takes the bound and how many other shards have met `before`."""
    self.count, self.first = 0, None
    self._bound, self._before = bound, before

  def add(self, message):
    """Counts one more.

    Raises:
      InputError: it is one too many; `message` and, if not 0, the bound.
    """
    self.count += 1
    self.first = self.first or message
    if self._before + self.count > self._bound:
      raise errors.InputError(message + refusal(self._bound))


def refusal(bound):
  """Returns what to add to the message of a bad document: it is one too many.

  Without a bound to speak of, a file's own message says all.
  """
  return (f"; more than {bound:,} documents are bad (data.max_bad_documents)"
          if bound else "")


def specs(config):
  """Returns the parts of `config.data.source`, at least one.

  Raises:
    InputError: there is none.
  """
  found = [s.strip() for s in config.data.source.split(",") if s.strip()]
  if not found:
    raise errors.InputError(
        "data.source is empty; give text:GLOB, tfds:NAME or builtin")
  return found


def open_source(spec, config, download=True):
  """Returns the source that a part of `config.data.source` names.

  Args:
    download: a TFDS set that is not there is downloaded and prepared.

  Raises:
    InputError: an unknown kind, no file matched, or a TFDS set that is not
      there and cannot be downloaded (NotPrepared).
  """
  kind, _, rest = spec.partition(":")
  return errors.choose(_KINDS, kind, "data.source")(rest, config, download)


def open_sources(config):
  """Returns the sources that `config.data.source` names; see `open_source`."""
  return [open_source(spec, config) for spec in specs(config)]


def default_shards(sources):
  """Number of shards that suits the sources: one per 16 MiB, at most 1024."""
  wanted = sum(s.size_bytes for s in sources) // _SHARD_BYTES
  bounds = [s.max_shards for s in sources if s.max_shards]
  return max(1, min([wanted, _MAX_SHARDS] + bounds))


def documents(sources, shard, num_shards, bad):
  """Yields (place, text) of shard `shard` of `num_shards`, source by source.

  A place is a number that no other document of its source has, whatever the
  shards are.

  Args:
    bad: the `BadDocuments` that counts those that are skipped.

  Raises:
    InputError: too many that cannot be read, or a file that cannot be
      decompressed; names the file and the place.
  """
  for source in sources:
    yield from source.documents(shard, num_shards, bad)


def sample(sources, max_bytes, bad):
  """Yields about `max_bytes` (at most twice that), evenly over the whole.

  Of long documents, which are few, the beginning is taken.
  """
  total = max(sum(source.size_bytes for source in sources), 1)
  share = max_bytes / total * (1 << 32)
  longest = max(max_bytes // _SAMPLE_DOCUMENTS, 1)
  room = 2 * max_bytes
  for number, (_, document) in enumerate(documents(sources, 0, 1, bad)):
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
  def open(cls, pattern, config, download):
    """Finds the files of a glob pattern; `**` crosses folders."""
    del download
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
    """More shards than this would read gzip files too often; or None."""
    return self._num_gzip and max(_MAX_GZIP_SHARDS, self._num_gzip)

  @property
  def _num_gzip(self):
    return sum(path.endswith(".gz") for path in self.paths)

  def documents(self, shard, num_shards, bad):
    """Yields (place, text) of the documents of one shard."""
    whole_gz = self._num_gzip >= num_shards
    first_block = 0
    for number, path in enumerate(self.paths):
      # A gzip file cannot be entered midway: with enough of them each shard
      # reads its own ones; with few, all shards read through all of them.
      whole = whole_gz and path.endswith(".gz")
      blocks = 1 if whole else -(-self._sizes[path] // _BLOCK_BYTES) or 1
      mine = (shard - first_block) % num_shards
      first_block += blocks
      # How much a gzip file holds is only an estimate.
      if mine < blocks or (path.endswith(".gz") and not whole):
        yield from self._read(number, mine, num_shards, whole, bad)

  def _read(self, number, first, stride, whole, bad):
    """Yields (place, text) of blocks first, first + stride, ... of a file.

    The place of a line: number of the file, and byte of the block + number of
    the line in it, which is below the byte of the next block.
    """
    path, place = self.paths[number], number << _FILE_BITS
    parse = _parse_json if ".jsonl" in epath.Path(path).name else _parse_text
    first, stride = (0, 1) if whole else (first, stride)
    try:
      with _open(path) as file:
        for start, lines in _blocks(file, first, stride):
          yield from filter(_TEXT, enumerate(
              parse(lines, path, start, self.fields, bad), place + start))
    except (EOFError, igzip.BadGzipFile, isal_zlib.error) as error:
      raise errors.InputError(
          f"{path} cannot be decompressed ({error}); make it anew") from error


_KINDS = {"text": Text.open, "tfds": tfds_source.Tfds.open,
          "builtin": builtin.Builtin.open}


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


def _parse_text(lines, path, start, fields, bad):
  """Returns the documents of a block of .txt, '' for what is none."""
  del fields
  try:
    documents = lines.decode().split("\n")
  except UnicodeDecodeError:  # Rare, and slow: line by line.
    documents = _good_lines(lines, path, start, bad)
  return map(str.strip, documents)


def _good_lines(lines, path, start, bad):
  """Yields the lines of a block, '' for those that are not UTF-8."""
  for line in lines.split(b"\n"):
    try:
      text = line.decode()
    except UnicodeDecodeError as error:
      bad.add(f"{path}: byte {start + error.start} is not UTF-8; convert the "
              "file, for example with iconv -t utf-8")
      text = ""
    yield text
    start += len(line) + 1


def _parse_json(lines, path, start, fields, bad):
  """Yields the documents of a block of .jsonl, '' for what is none."""
  for line in lines.splitlines(keepends=True):
    text = ""
    if line.strip():
      try:
        text = _text_of(line, fields)
      except _NoDocument as error:
        bad.add(f"{path}: the line at byte {start} {error}")
    yield text
    start += len(line)


class _NoDocument(Exception):
  """What keeps a line from being a document."""


def _text_of(line, fields):
  """Returns the text of a line of .jsonl, perhaps none."""
  try:
    record = json.loads(line)
    # Half of a surrogate pair is JSON, but no text.
    json.dumps(record, ensure_ascii=False).encode()
  except (json.JSONDecodeError, UnicodeError, RecursionError) as error:
    raise _NoDocument(
        f"is not JSON in UTF-8 ({' '.join(str(error).split())}); each line "
        'must be an object such as {"text": "..."}') from error
  text = next((record[f] for f in fields if isinstance(record, dict)
               and isinstance(record.get(f), str)), None)
  if text is None:
    raise _NoDocument(f"has no text under {' or '.join(fields)}; name its key "
                      "in data.text_fields")
  return text.strip()
