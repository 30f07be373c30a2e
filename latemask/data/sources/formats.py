"""What the bytes of a text file are, by its ending: lines, objects, rows.

Between files as blocks (lines.py) and the sources that read them. A format
refuses a file by its beginning, or yields its documents.
"""

import functools
import itertools
import json
import operator
import re
import typing

from latemask.data.sources import delimited
from latemask.data.sources import lines
from latemask.data.sources import unpack
from latemask import errors

_HEAD_BYTES = 1000
# Marks that are left inside where files were joined.
_MARKS = re.compile("^\ufeff+", re.MULTILINE)
_TEXT = operator.itemgetter(1)

def checked(path):
  """Returns a function that refuses a file by its beginning, or does not."""
  def check(head):
    # With a byte order mark, or the zeros that it is full of without one.
    begin = head[:_HEAD_BYTES]
    if (begin.startswith((b"\xff\xfe", b"\xfe\xff"))
        or begin.count(0) > len(begin) // 4):
      raise errors.InputError(
          f"{path} is UTF-16, not UTF-8; convert it, for example with iconv "
          "-f utf-16 -t utf-8")
    of(path).check(path, head.removeprefix(lines.UTF8_MARK))
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
  except (RecursionError, ValueError):
    pass  # Its line is a bad document.


def split(text):
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
    found = split(block.decode())
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
  found = [line.strip() for line in split(text)]
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
    text = next((record[f] for f in fields if isinstance(record, dict)
                 and isinstance(record.get(f), str)), None)
    # Half of a surrogate pair is JSON, but no text.
    (text or "").encode()
  # Of numbers with thousands of digits json raises a bare ValueError.
  except (ValueError, RecursionError) as error:
    raise _NoDocument(
        f"is not JSON in UTF-8 ({' '.join(str(error).split())}); each line "
        'must be an object such as {"text": "..."}') from error
  if text is None:
    has = (f"it has {', '.join(map(str, record)) or 'nothing'}"
           if isinstance(record, dict) else "it is no object")
    has = has.encode(errors="replace").decode()
    raise _NoDocument(f"has no text under {' or '.join(fields)} ({has:.200}); "
                      "name its key in data.text_fields")
  return text.strip()


def _txt(file, path, first, stride, how, bad):
  cut, parse = DOCUMENTS[how.between]
  return _blocks(cut, parse, file, path, first, stride, how, bad)


def _objects(file, path, first, stride, how, bad):
  return _blocks(
      lines.blocks, _parse_objects, file, path, first, stride, how, bad)


def _blocks(cut, parse, file, path, first, stride, how, bad):
  """Yields (byte, text) of blocks first, first + stride, ... of a file.

  The place of a document is that of the line with which it begins: byte of the
  block + number of the line in it, which is below the byte of the next block.
  """
  for start, block in cut(file, first, stride, checked(path)):
    yield from filter(_TEXT, enumerate(
        parse(block, path, start, how.fields, bad), start))


def _rows(delimiter, file, path, first, stride, how, bad):
  """Yields (byte, text) of rows that begin in these blocks."""
  return delimited.documents(
      lines.blocks(file, 0, 1, checked(path)), path, delimiter, how.fields,
      bad, lambda start: start // lines.BLOCK_BYTES % stride == first)


class Format(typing.NamedTuple):
  """A row of `FORMATS`.

  Fields:
    check: refuses a file by (path, its first bytes), or does not.
    documents: (open file, path, first block, stride of blocks, `How`,
      `table.BadDocuments`) -> yields (place in the file, text); a place is one
      that no other document has, whatever the blocks.
    is_read_through: each reader begins at the beginning.
  """

  check: typing.Callable
  documents: typing.Callable
  is_read_through: bool = False


class How(typing.NamedTuple):
  """What a config says of the documents in files.

  Fields:
    fields: keys or columns, of which the first found holds the text.
    between: a row of `DOCUMENTS`.
  """

  fields: tuple[str, ...]
  between: str


# A quoted field may hold any number of lines, so that a row is found only by
# who has read all before it.
FORMATS = {
    ".txt": Format(_check_nothing, _txt),
    ".raw": Format(_check_nothing, _txt),  # WikiText's.
    ".jsonl": Format(_check_nothing, _objects),
    ".json": Format(_check_json, _objects),
    ".csv": Format(_check_nothing, functools.partial(_rows, ","), True),
    ".tsv": Format(_check_nothing, functools.partial(_rows, "\t"), True)}


def of(path):
  """Returns the `Format` of a file; None where its ending is not known."""
  return FORMATS.get(unpack.ending(path)[0])


def is_of_lines(path):
  """Returns whether documents of a file are lines, or groups of lines."""
  found = of(path)
  return found is not None and found.documents is _txt


def is_read_through(path):
  """Returns whether a file is read from its beginning, not entered midway."""
  return unpack.is_packed(path) or of(path).is_read_through
