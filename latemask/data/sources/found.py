"""Files that match a pattern: what sources of files have in common.

Which files there are, which are left out, which another source reads, too, and
how it is told later that they have changed. A place of a document is the
number of its file << `FILE_BITS` + its place in the file.
"""

import abc
import dataclasses
import functools
import glob
import os
import typing

from latemask.data.sources import lines
from latemask.data.sources import unpack
from latemask import errors

FILE_BITS = 42
# Of files that are left out: how many endings a message names.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Files(abc.ABC):
  """A source of documents that lie in files.

  Fields:
    pattern: what they match.
    paths: where they lie, sorted.
    left_out: (how many, which) files match and are not read.
    again: paths that lead to a file or folder which is read already.
  """

  pattern: str
  paths: tuple[str, ...]
  left_out: tuple[tuple[int, str], ...]
  again: int

  # The kind of source; what its files end in, in words ("" if in anything);
  # and shards of them at most: that read fast enough, that hold something.
  kind: typing.ClassVar[str]
  endings: typing.ClassVar[str]
  max_shards: typing.ClassVar[int | None] = None
  max_parts: typing.ClassVar[int | None] = None

  @classmethod
  def find(cls, pattern, key, others=frozenset(), **fields):
    """Returns the source of the files that match; `**` crosses folders.

    Args:
      others: files to be read besides, found in folders that match.
      fields: those of the kind.

    Raises:
      InputError: there is none.
    """
    found, passed = lines.find(pattern)
    paths = {path for path in found if cls.reads(path)}
    again = passed.pop(lines.AGAIN, 0)
    passed.update(_label(path) for path in found - paths)
    left_out = sorted((-count, label) for label, count in passed.items())
    source = cls(
        pattern, tuple(sorted(paths | others)),
        tuple((-count, label) for count, label in left_out), again, **fields)
    if not source.paths:
      raise errors.InputError(f"{key} {source.name} {source._no_file()}")
    return source

  @classmethod
  @abc.abstractmethod
  def reads(cls, path):
    """Returns whether a file is of this kind, by its ending."""

  def part_bytes(self, shard, num_shards, place=None):
    """Returns the bytes of text of a shard; None where it is no whole files.

    Args:
      place: those before this place in it; None: all.
    """
    del shard, num_shards, place
    return None

  @functools.cached_property
  def fingerprint(self):
    """What tells whether a stopped preparation may go on, with `files`.

    Bytes of text by path.
    """
    return {path: unpack.text_bytes(path) for path in self.paths}

  @property
  def size_bytes(self):
    """Bytes of text, for the progress bar."""
    return sum(self.fingerprint.values())

  @property
  def name(self):
    """The source as a config names it."""
    return f"{self.kind}:{self.pattern}"

  def _no_file(self):
    """Returns what is wrong with a pattern of which no file can be read."""
    if self.left_out and not glob.has_magic(self.pattern):
      return f"is no file whose name ends in {self.endings}"
    reason = "matches no file"
    if self.endings:
      reason += f" ending in {self.endings}"
    if self.left_out:
      reason += f"; left out: {self._listed()}"
    if os.path.isdir(self.pattern):
      reason += (f"; for what lies in that folder give {self.kind}:"
                 f"{self.pattern.rstrip('/')}/*")
    if "," in self.pattern:
      reason += ("; a comma is part of the name unless a kind of source "
                 "follows, such as text:")
    return reason

  def _listed(self):
    named = [f"{count:,} {label}" for count, label in self.left_out[:_NAMED]]
    others = sum(count for count, _ in self.left_out[_NAMED:])
    return ", ".join(named + [f"{others:,} others"] * bool(others))

  @property
  def notes(self):
    """What to know of the files before they are packed, a line each."""
    notes = []
    if self.left_out:
      total = len(self.paths) + sum(count for count, _ in self.left_out)
      notes.append(f"{self.name}: {len(self.paths):,} of {total:,} files are "
                   f"read; left out: {self._listed()}")
    if self.again:
      notes.append(f"{self.name}: paths that lead to a file or folder which is "
                   f"read already, and are passed over: {self.again:,}")
    return notes

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
      if isinstance(source, Files):
        source.without(known)
    return [p for p in self.paths if lines.identity(p) in known]

  @property
  def files(self):
    """What tells whether a file has changed, by path."""
    return {path: lines.describe(path) for path in self.paths}


def _label(path):
  """Returns what stands for a file that is left out: its ending."""
  ending = "".join(unpack.ending(path))
  known = 1 < len(ending) <= 10 and ending.replace(".", "").isalnum()
  return ending if known else "without an ending"
