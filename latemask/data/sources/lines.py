"""Files as blocks of lines: finding, starting in the middle.

What all sources that read files share. CR, LF and CRLF
end a line. A file is cut into blocks of `BLOCK_BYTES`, each with the lines
that begin in it, so that a block is read without those before it.
"""

import collections
import functools
import glob
import hashlib
import itertools
import json
import os
import re

from etils import epath

from latemask.data.sources import unpack
from latemask.runtime import files as files_lib

BLOCK_BYTES = 1 << 20
UTF8_MARK = b"\xef\xbb\xbf"
# Of what `find` passes over: paths to folders that were entered already.
AGAIN = "again"
# A file in a folder of packed rows, a workdir -> some of its keys.
_MARKS = {"manifest.json": {"settings", "complete"},
          "claim.json": {"token", "beats"}, "packing.json": {"token", "beats"},
          "config.json": {"checkpoint", "train", "seed"}}
_LINE_END = re.compile(rb"\r\n?|\n")
# `**`, alone between slashes, once or in a row.
_ALL_FOLDERS = re.compile(r"(?:(?<=/)|^)(?:\*\*/)*\*\*(?:/|$)")
_READ_BYTES = 1 << 13
# Of a file, what its hash is taken of: beginning, middle and end.
_HASHED_BYTES = 1 << 20


def find(pattern):
  """Returns ({paths that match}, Counter of what was passed over).

  `**` crosses folders (on gs:// and the like it does not) and enters each
  once, however many links lead there. Folders do not count as matches. Where a
  pattern matches nothing, but is itself the name of a file, it is that file.
  Workdirs and packed rows that lie among local ones are passed over.
  """
  passed = collections.Counter()
  if files_lib.is_remote(pattern):
    root, star, rest = pattern.partition("*")
    root, _, start = root.rpartition("/")
    return {str(p) for p in epath.Path(root).glob(start + star + rest)
            if p.is_file()}, passed
  found = set(_expand(pattern, passed)) or (
      {pattern} if os.path.lexists(pattern) else set())
  files = {path for path in found if os.path.isfile(path)}
  passed["broken link or the like"] += sum(
      not os.path.isdir(path) for path in found - files)
  named, is_ours = os.path.dirname(pattern), functools.cache(_is_ours)
  while glob.has_magic(named):
    named = os.path.dirname(named)
  ours = {path for path in files if any(map(is_ours, _below(named, path)))}
  passed["of runs and packed rows"] += len(ours)
  return files - ours, +passed


def _below(top, path):
  """Yields the folders around a file, up to one that is left out."""
  while (folder := os.path.dirname(path)) not in (top, path, ""):
    yield folder
    path = folder


def _is_ours(folder):
  """Returns whether this program writes there: that is no text."""
  for name, keys in _MARKS.items():
    try:
      with open(os.path.join(folder, name), "rb") as file:
        described = json.load(file)
    except (OSError, ValueError, RecursionError):
      continue
    if isinstance(described, dict) and keys <= described.keys():
      return True
  return False


def _expand(pattern, passed):
  """Yields the paths that match a glob pattern of local files."""
  stars = _ALL_FOLDERS.search(pattern)
  if not stars:
    yield from glob.glob(pattern)
    return
  top, rest = pattern[:stars.start()], pattern[stars.end():] or "*"
  for root in glob.glob(top) if top else [""]:
    for folder in _folders(root, passed):
      yield from _expand(glob.escape(folder) + rest, passed)


def _folders(root, passed):
  """Yields a folder and those below it, each once; not the hidden ones."""
  seen, folders, links = set(), [root], collections.deque()
  while folders or links:
    # Links last, so that a folder has the name that it has without them.
    folder = folders.pop() if folders else links.popleft()
    try:
      status = os.stat(folder or ".")
      entries = sorted(os.scandir(folder or "."), key=lambda e: e.name)
    except OSError:
      passed["unreadable folder"] += 1
      continue
    if (status.st_dev, status.st_ino) in seen:
      passed[AGAIN] += 1
      continue
    seen.add((status.st_dev, status.st_ino))
    yield folder
    for entry in entries:
      if entry.is_dir() and not entry.name.startswith("."):
        (links if entry.is_symlink() else folders).append(
            f"{folder}{entry.name}/")


def identity(path):
  """Returns what two paths have in common if they lead to one file."""
  if files_lib.is_remote(path):
    return path
  status = os.stat(path)
  # Size and time besides: some mounted file systems number files anew.
  return (status.st_dev, status.st_ino or os.path.realpath(path),
          status.st_size, status.st_mtime_ns)


def describe(path):
  """Returns what tells later whether a file has changed, as JSON.

  The hash is of its first, middle and last MiB. Of a file elsewhere nothing
  is read.
  """
  if files_lib.is_remote(path):
    return {"bytes": files_lib.size(path)}
  status = os.stat(path)
  return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns,
          "sha256": _sampled_sha256(path, status.st_size)}


def has_changed(path, described):
  """Returns whether a local file is no longer what `describe` returned.

  It is read only where its size is the same and its time is not. Of what was
  packed before there was `describe`, `text_bytes` is all that is known.
  """
  if described.keys() == {"text_bytes"}:
    return unpack.text_bytes(path) != described["text_bytes"]
  status = os.stat(path)
  return status.st_size != described["bytes"] or (
      status.st_mtime_ns != described["mtime_ns"]
      and _sampled_sha256(path, status.st_size) != described["sha256"])


def are_same(before, now):
  """Returns whether files are the same, {path: `describe`}, but for times."""
  return all(before[path] | {"mtime_ns": 0} == now[path] | {"mtime_ns": 0}
             for path in before.keys() & now.keys())


def _sampled_sha256(path, size):
  digest = hashlib.sha256()
  with unpack.reading(path, unpacks=False) as file:
    if size <= 3 * _HASHED_BYTES:
      digest.update(file.read())
    else:
      for start in (0, (size - _HASHED_BYTES) // 2, size - _HASHED_BYTES):
        file.seek(start)
        digest.update(file.read(_HASHED_BYTES))
  return digest.hexdigest()


def blocks(file, first, stride, check):
  """Yields (start, bytes) of blocks first, first + stride, ... of lines.

  A line belongs to the block in which it begins; the blocks in which none
  does are passed over. Seeks go forward only, as in a packed file they read
  all that they pass.

  Args:
    file: from `unpack.reading`.
    check: called with the beginning of the file, if it is among the blocks,
      before anything is yielded; a byte order mark of UTF-8 is then dropped.
  """
  for low, window in _windows(file, first, stride, check):
    size = window.lines_to(low + BLOCK_BYTES)
    if size:
      yield window.start, window.data[:size]
      window.drop(size)


def passages(file, first, stride, check):
  """Yields (start, bytes) of blocks of what stands between blank lines.

  A passage belongs to the block in which the blank line before it begins, or
  to the first. So each block begins with a blank line (but the first), and
  with a passage that ends behind it it goes on to that end. Else as `blocks`.
  """
  no_blank_to = 0
  for low, window in _windows(file, first, stride, check):
    high = low + BLOCK_BYTES
    if high <= no_blank_to:
      continue
    size = window.lines_to(high)
    begin = window.blank_line(0, size) if low else 0
    if begin < size:
      stop = window.blank_line(size)
      yield window.start + begin, window.data[begin:stop]
      no_blank_to = window.start + stop
    # What stands behind is kept: the next block may be ours, too.
    window.drop(size)


def _windows(file, first, stride, check):
  """Yields (byte at which a block begins, window on its first line)."""
  window = _Window(file)
  if first == 0:
    window.fill(BLOCK_BYTES)
    check(window.data)
    if window.data.startswith(UTF8_MARK):
      window.drop(len(UTF8_MARK))
  for low in itertools.count(first * BLOCK_BYTES, stride * BLOCK_BYTES):
    if window.start < low:
      # One byte early: a line that begins at `low` must not be taken for the
      # tail of the one before.
      window.move(low - 1)
      window.drop(window.line_end(0))
    window.fill(1)
    if not window.data:
      return
    yield low, window


class _Window:
  """What has been read of a file and is still to be used.

  Attributes:
    start: byte of the file at which it begins.
    data: its bytes.
  """

  def __init__(self, file):
    self.start, self.data, self._file = 0, b"", file

  def fill(self, size):
    """Reads until there are `size` bytes, or the file ends."""
    while len(self.data) < size:
      more = self._file.read(size - len(self.data))
      if not more:
        return
      self.data += more

  def drop(self, size):
    """Lets go of the first bytes."""
    self.start += size
    self.data = self.data[size:]

  def move(self, place):
    """Goes forward to a byte of the file."""
    if place > self.start + len(self.data):
      self._file.seek(place)
      self.data, self.start = b"", place
    else:
      self.drop(place - self.start)

  def line_end(self, place):
    """Returns where the first line ends that does at `place` or behind."""
    while True:
      found = _LINE_END.search(self.data, place)
      if found and (found[0] != b"\r" or found.end() < len(self.data)):
        return found.end()
      # What stands behind a CR tells whether it is a CRLF.
      place, size = found.start() if found else len(self.data), len(self.data)
      # In proportion to a long line, as what is there is copied.
      self.fill(size + max((size - BLOCK_BYTES) // 4, _READ_BYTES))
      if len(self.data) == size:
        return size

  def lines_to(self, high):
    """Returns the size of the lines that begin before a byte of the file."""
    if self.start >= high:
      return 0
    self.fill(high - self.start + _READ_BYTES)
    return self.line_end(min(high - self.start, len(self.data)) - 1)

  def blank_line(self, place, stop=None):
    """Returns where the first blank line begins, from a line's start on.

    Args:
      stop: where to give up; None: at the end of the file.
    """
    while stop is None or place < stop:
      end = self.line_end(place)
      if end == place or not self.data[place:end].decode(
          errors="replace").strip():
        break
      place = end
    return place
