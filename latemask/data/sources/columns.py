"""parquet:GLOB and arrow:GLOB: a column of strings in tables on disk.

One of the sources of documents. Shards are dealt groups of rows: row groups of
parquet, record batches of Arrow. A group that is larger than a shard is cut
into equal runs of rows, and who reads one of them unpacks those before it.
"""

import dataclasses
import functools
import glob
import os
import typing

from latemask.data.sources import arrow
from latemask.data.sources import found
from latemask import errors
from latemask.runtime import files as files_lib


# Runs of the largest group, at most, as each is behind those before it; and
# the bytes of a group that are not worth being careful about.
_MAX_RUNS = 16
_LARGE_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class _Columns(found.Files):
  """Files of columns, of which one is read.

  Fields:
    fields: columns; the first that a file has holds the text.
  """

  fields: tuple[str, ...]

  @classmethod
  def open(cls, pattern, config, key, download):
    """Finds the files of a glob pattern; `**` crosses folders."""
    del download
    return cls.find(pattern, key, cls._in_folders(pattern),
                    fields=tuple(config.data.text_fields))

  @classmethod
  def _in_folders(cls, pattern):
    """Returns the files of folders that match, and are one set each."""
    del pattern
    return frozenset()

  @classmethod
  def reads(cls, path):
    """Returns whether a file is of this kind, by its ending."""
    return _ending(path) in cls.endings.split(", ")

  @functools.cached_property
  def _layouts(self):
    """`arrow.Layout` by path; read once, and sent along."""
    return {path: _format(path).layout(path, self.fields)
            for path in self.paths}

  @property
  def fingerprint(self):
    """Bytes of the column by path."""
    return {path: sum(group.size_bytes for group in layout.groups)
            for path, layout in self._layouts.items()}

  @property
  def max_shards(self):
    """More shards than this would unpack rows too often; or None."""
    largest = max((group.size_bytes for layout in self._layouts.values()
                   for group in layout.groups), default=0)
    return (_MAX_RUNS * self.size_bytes // largest
            if largest > _LARGE_BYTES else None)

  def documents(self, shard, num_shards, bad):
    """Yields (place, text) of the documents of one shard."""
    size_bytes, first_run = self.size_bytes or 1, 0
    for number, path in enumerate(self.paths):
      layout, place = self._layouts[path], number << found.FILE_BITS
      for group in layout.groups:
        # No run is larger than a shard; and so no shard has two of a group.
        runs = min(-(-group.size_bytes * num_shards // size_bytes) or 1,
                   group.num_rows)
        mine = (shard - first_run) % num_shards
        first_run += runs
        if mine < runs:
          yield from self._read(path, place, group, (
              group.num_rows * mine // runs,
              group.num_rows * (mine + 1) // runs), bad)
        place += group.num_rows

  def _read(self, path, place, group, rows, bad):
    """Yields (place, text) of some rows of a group that begins at a place."""
    layout = self._layouts[path]
    for row, text in arrow.texts(_format(path), path, layout, group, *rows):
      if not isinstance(text, str):
        number = (place + row) % (1 << found.FILE_BITS)
        bad.add(f"{path}: {layout.column} of row {number:,} is "
                + ("empty (null)" if text is None else "not UTF-8"))
      elif text := text.strip():
        yield place + row, text


class Parquet(_Columns):
  """Files of parquet."""

  kind: typing.ClassVar[str] = "parquet"
  endings: typing.ClassVar[str] = ".parquet"


class Arrow(_Columns):
  """Arrow files, and folders that `datasets` saved (`save_to_disk`)."""

  kind: typing.ClassVar[str] = "arrow"
  endings: typing.ClassVar[str] = ".arrow, .feather, .ipc"

  @classmethod
  def _in_folders(cls, pattern):
    if files_lib.is_remote(pattern):
      return frozenset()
    saved = [arrow.saved_files(folder) for folder in glob.glob(pattern)
             if os.path.isdir(folder)]
    paths = frozenset(path for paths in saved if paths for path in paths)
    for path in sorted(paths):
      if not os.path.isfile(path):
        raise errors.InputError(
            f"arrow:{pattern}: {path} is missing; its folder names it")
    return paths


def _ending(path):
  return os.path.splitext(path)[1].lower()


def _format(path):
  return arrow.FORMATS[_ending(path)]
