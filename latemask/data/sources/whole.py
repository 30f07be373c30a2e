"""files:GLOB: a file is a document.

One of the sources of documents: books, pages or programs that lie in a file
each, whatever their endings are.
"""

import dataclasses
import typing

from latemask.data.sources import found
from latemask.data.sources import lines
from latemask.data.sources import unpack


@dataclasses.dataclass(frozen=True)
class Whole(found.Files):
  """Files that are a document each."""

  kind: typing.ClassVar[str] = "files"
  endings: typing.ClassVar[str] = ""

  @classmethod
  def open(cls, pattern, config, key, download):
    """Finds the files of a glob pattern; `**` crosses folders."""
    del config, download
    return cls.find(pattern, key)

  @classmethod
  def reads(cls, path):
    """Returns whether a file is of this kind: any is."""
    del path
    return True

  @property
  def max_parts(self):
    """Shards that hold something, at most."""
    return len(self.paths)

  def documents(self, shard, num_shards, bad):
    """Yields (place, text) of the files of one shard."""
    for number in range(shard, len(self.paths), num_shards):
      path = self.paths[number]
      with unpack.reading(path) as file:
        data = file.read().removeprefix(lines.UTF8_MARK)
      try:
        text = data.decode()
      except UnicodeDecodeError as error:
        bad.add(f"{path}: byte {error.start} is not UTF-8; convert the file, "
                "for example with iconv -t utf-8, or leave it out of the "
                "pattern")
        continue
      if "\0" in text:
        bad.add(f"{path} holds zeros, so it is no text in UTF-8; convert the "
                "file, or leave it out of the pattern")
        continue
      if text := text.replace("\r\n", "\n").replace("\r", "\n").strip():
        yield number << found.FILE_BITS, text
