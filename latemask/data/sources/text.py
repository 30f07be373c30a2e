"""text:GLOB: files of lines, .txt and .jsonl.

One of the sources of documents. In a .txt file a line is a document, or what
stands between blank lines is one (`data.documents`). In .jsonl (or .json) a
line is an object; its text stands under the first of `data.text_fields` that it
has.
"""

import contextlib
import dataclasses
import functools
import glob
import itertools
import json
import operator
import os
import re

from latemask.data.sources import lines
from latemask import errors

# A place is the number of the file << this + the place in it.
_FILE_BITS = 42
# Every shard reads through a packed file that it shares with others.
_MAX_PACKED_SHARDS = 16
# Lines that are shorter on average, in characters, are hardly documents: 32
# tokens, or twice that where blank lines part groups of them (a sentence a
# line). So many must be seen, in the first blocks of so many files.
_SHORT_CHARS = 128
_LINES_A_GROUP = 3
_MIN_LINES = 100
_SAMPLED_FILES = 5
_CHARS_A_TOKEN = 4
_ENDINGS = ".txt, .jsonl or .json, or in one of these and .gz"
# Of files that are left out: how many endings a message names.
_NAMED = 5
_HEAD_BYTES = 1000
# Marks that are left inside where files were joined.
_MARKS = re.compile("^\ufeff+", re.MULTILINE)
_TEXT = operator.itemgetter(1)


@dataclasses.dataclass(frozen=True)
class Text:
  """Files of lines.

  Fields:
    pattern: what they match.
    paths: where they lie, sorted.
    fields: keys that hold the text in .jsonl.
    between: a row of `DOCUMENTS`.
    packing: how rows are packed of them (`data.packing`).
    left_out: (how many, which) files match and are not read.
    again: paths that lead to a file or folder which is read already.
  """

  pattern: str
  paths: tuple[str, ...]
  fields: tuple[str, ...]
  between: str
  packing: str
  left_out: tuple[tuple[int, str], ...]
  again: int

  @classmethod
  def open(cls, pattern, config, key, download):
    """Finds the files of a glob pattern; `**` crosses folders."""
    del download
    found, passed = lines.find(pattern)
    paths = {path for path in found if is_text(path)}
    again = passed.pop(lines.AGAIN, 0)
    passed.update(_label(path) for path in found - paths)
    left_out = sorted((-count, label) for label, count in passed.items())
    source = cls(
        pattern, tuple(sorted(paths)), tuple(config.data.text_fields),
        config.data.documents, config.data.packing,
        tuple((-count, label) for count, label in left_out), again)
    if not paths:
      raise errors.InputError(f"{key} text:{pattern} {source._no_file()}")
    return source

  def _no_file(self):
    """Returns what is wrong with a pattern of which no file can be read."""
    if self.left_out and not glob.has_magic(self.pattern):
      return f"is no file whose name ends in {_ENDINGS}"
    reason = f"matches no file ending in {_ENDINGS}"
    if self.left_out:
      reason += f"; left out: {self._listed()}"
    if os.path.isdir(self.pattern):
      reason += f"; for what lies in that folder give text:{self.pattern}/*"
    if "," in self.pattern:
      reason += ("; a comma is part of the name unless text:, tfds: or "
                 "builtin follows")
    return reason

  def _listed(self):
    named = [f"{count:,} {label}" for count, label in self.left_out[:_NAMED]]
    others = sum(count for count, _ in self.left_out[_NAMED:])
    return ", ".join(named + [f"{others:,} others"] * bool(others))

  def without(self, known):
    """Returns the source without the files that are known.

    Args:
      known: set of `lines.identity`, to which those of this source are added.
    """
    kept = []
    # The shortest path is the one without links.
    for path in sorted(self.paths, key=lambda path: (path.count("/"), path)):
      identity = lines.identity(path)
      if identity not in known:
        known.add(identity)
        kept.append(path)
    return dataclasses.replace(
        self, paths=tuple(sorted(kept)),
        again=self.again + len(self.paths) - len(kept))

  def shared(self, sources):
    """Returns the paths of files that other sources read, too."""
    known = set()
    for source in sources:
      if isinstance(source, Text):
        source.without(known)
    return [p for p in self.paths if lines.identity(p) in known]

  @property
  def notes(self):
    """What to know of the files before they are packed, a line each."""
    notes, name = [], f"text:{self.pattern}"
    if self.left_out:
      total = len(self.paths) + sum(count for count, _ in self.left_out)
      notes.append(f"{name}: {len(self.paths):,} of {total:,} files are read; "
                   f"left out: {self._listed()}")
    if self.again:
      notes.append(f"{name}: paths that lead to a file or folder which is "
                   f"read already, and are passed over: {self.again:,}")
    count, chars, groups = self._sampled_lines()
    in_groups = len(self.paths) < groups and groups * _LINES_A_GROUP <= count
    if count >= _MIN_LINES and chars < _SHORT_CHARS * (1 + in_groups) * count:
      notes.append(
          f"{name}: documents of {chars / count:.0f} characters on average, "
          f"about {chars / count / _CHARS_A_TOKEN:.0f} tokens: is a line a "
          "document? If blank lines part the documents, set "
          "data.documents=blank_lines; else join their lines, or set "
          "data.packing=stream")
    return notes

  def _sampled_lines(self):
    """Returns (lines of .txt, their characters, groups) of a few blocks."""
    count = chars = groups = 0
    if self.between != "lines" or self.packing == "stream":
      return count, chars, groups
    paths = [p for p in self.paths if lines.ending(p)[0] == ".txt"]
    for path in paths[::-(-len(paths) // _SAMPLED_FILES) or 1]:
      with _reading(path) as file:
        for _, block in itertools.islice(
            lines.blocks(file, 0, 1, _checked(path)), 1):
          found = list(map(str.strip, _split(block.decode(errors="replace"))))
          count += sum(map(bool, found))
          chars += sum(map(len, found))
          groups += sum(is_text for is_text, _ in itertools.groupby(
              found, bool))
    return count, chars, groups

  @functools.cached_property
  def _sizes(self):
    """Bytes of text by path."""
    return {path: lines.text_bytes(path) for path in self.paths}

  @property
  def size_bytes(self):
    """Bytes of text, for the progress bar."""
    return sum(self._sizes.values())

  @property
  def fingerprint(self):
    """What tells whether a stopped preparation may go on, with `files`."""
    return dict(self._sizes)

  @property
  def files(self):
    """What tells whether a file has changed, by path."""
    return {path: lines.describe(path) for path in self.paths}

  @property
  def max_shards(self):
    """More shards than this would read packed files too often; or None."""
    return self._num_packed and max(_MAX_PACKED_SHARDS, self._num_packed)

  @property
  def _num_packed(self):
    return sum(map(lines.is_packed, self.paths))

  def documents(self, shard, num_shards, bad):
    """Yields (place, text) of the documents of one shard."""
    all_whole = self._num_packed >= num_shards
    first_block = 0
    for number, path in enumerate(self.paths):
      # A packed file cannot be entered midway: with enough of them each shard
      # reads its own ones; with few, all shards read through all of them.
      is_packed = lines.is_packed(path)
      whole = all_whole and is_packed
      blocks = 1 if whole else -(-self._sizes[path] // lines.BLOCK_BYTES) or 1
      mine = (shard - first_block) % num_shards
      first_block += blocks
      # How much a packed file holds is only an estimate.
      if mine < blocks or (is_packed and not whole):
        yield from self._read(
            number, *((0, 1) if whole else (mine, num_shards)), bad)

  def _read(self, number, first, stride, bad):
    """Yields (place, text) of blocks first, first + stride, ... of a file.

    The place of a document is that of the line with which it begins: number
    of the file, and byte of the block + number of the line in it, which is
    below the byte of the next block.
    """
    path, place = self.paths[number], number << _FILE_BITS
    cut, parse = (DOCUMENTS[self.between] if lines.ending(path)[0] == ".txt"
                  else (lines.blocks, _parse_objects))
    with _reading(path) as file:
      for start, block in cut(file, first, stride, _checked(path)):
        yield from filter(_TEXT, enumerate(
            parse(block, path, start, self.fields, bad), place + start))


@contextlib.contextmanager
def _reading(path):
  """Yields the open file; what cannot be read is an InputError."""
  try:
    with lines.open_text(path) as file:
      yield file
  except lines.DAMAGED as error:
    raise errors.InputError(
        f"{path} cannot be decompressed ({error}); make it anew") from error
  except OSError as error:
    raise errors.InputError(
        f"{path} cannot be read ({error.strerror or error})") from error


def _checked(path):
  """Returns a function that refuses a file by its beginning, or does not."""
  def check(head):
    # With a byte order mark, or the zeros that it is full of without one.
    begin = head[:_HEAD_BYTES]
    if (begin.startswith((b"\xff\xfe", b"\xfe\xff"))
        or begin.count(0) > len(begin) // 4):
      raise errors.InputError(
          f"{path} is UTF-16, not UTF-8; convert it, for example with iconv "
          "-f utf-16 -t utf-8")
    _CHECKS[lines.ending(path)[0]](path, head.removeprefix(lines.UTF8_MARK))
  return check


def _check_nothing(path, head):
  del path, head


def _check_json(path, head):
  """Refuses JSON that is not an object a line."""
  head = head.lstrip()
  if head.startswith(b"["):
    raise errors.InputError(
        f"{path} is one JSON array, and each line must be an object; convert "
        "it, for example with jq -c .[]")
  line = head.splitlines()[0] if head.strip() else b""
  try:
    json.loads(line.decode(errors="replace") or "{}")
  except json.JSONDecodeError as error:
    # It ends where something must follow.
    if len(line) < len(head) and error.pos >= len(error.doc.rstrip()):
      raise errors.InputError(
          f"{path} is JSON over several lines, and each line must be an "
          "object; convert it, for example with jq -c .") from error
  except RecursionError:
    pass  # Its line is a bad document.


# Ending -> what refuses a file by its beginning.
_CHECKS = {".txt": _check_nothing, ".jsonl": _check_nothing,
           ".json": _check_json}


def is_text(path):
  """Returns whether a file is one that is read, by its ending."""
  return lines.ending(path)[0] in _CHECKS


def _label(path):
  """Returns what stands for a file that is left out: its ending."""
  ending = "".join(lines.ending(path))
  known = 1 < len(ending) <= 10 and ending.replace(".", "").isalnum()
  return ending if known else "without an ending"


def _split(text):
  """Returns the lines of a text, without ends and byte order marks."""
  if "\r" in text:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
  if "\ufeff" in text:
    text = _MARKS.sub("", text)
  return text.split("\n")


def _parse_lines(block, path, start, fields, bad):
  """Returns the documents of a block of .txt, '' for what is none."""
  del fields
  try:
    found = _split(block.decode())
  except UnicodeDecodeError:  # Rare, and slow: line by line.
    found = _good_lines(block, path, start, bad)
  return map(str.strip, found)


def _good_lines(block, path, start, bad):
  """Yields the lines of a block, '' for those that are not UTF-8."""
  for line in block.splitlines(keepends=True):
    yield _decoded(line, path, start, bad)
    start += len(line)


def _decoded(text, path, start, bad):
  """Returns bytes as text, '' if they are not UTF-8."""
  try:
    return text.decode().lstrip("\ufeff")
  except UnicodeDecodeError as error:
    bad.add(f"{path}: byte {start + error.start} is not UTF-8; convert the "
            "file, for example with iconv -t utf-8")
    return ""


def _parse_passages(block, path, start, fields, bad):
  """Yields what stands between blank lines, at its first; '' elsewhere."""
  del fields
  text = block.decode(errors="surrogateescape")
  found = [line.strip() for line in _split(text)]
  for is_blank, group in itertools.groupby(
      range(len(found)), lambda i: not found[i]):
    first, *others = group
    passage = "" if is_blank else " ".join(found[first:first + 1 + len(others)])
    try:
      passage.encode()
    except UnicodeEncodeError:  # Rare, and slow: where, and what is wrong.
      rows = block.splitlines(keepends=True)
      passage = _decoded(
          b"".join(rows[first:first + 1 + len(others)]), path,
          start + sum(map(len, rows[:first])), bad)
    yield passage
    yield from itertools.repeat("", len(others))


# What a document of .txt is -> (cuts a file into blocks, parses a block).
DOCUMENTS = {"lines": (lines.blocks, _parse_lines),
             "blank_lines": (lines.passages, _parse_passages)}


def _parse_objects(block, path, start, fields, bad):
  """Yields the documents of a block of .jsonl, '' for what is none."""
  for line in block.splitlines(keepends=True):
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
