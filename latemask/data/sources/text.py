"""text:GLOB: files of lines, objects or rows: .txt, .raw, .jsonl, .csv, .tsv.

One of the sources of documents. In a .txt file a line is a document, or what
stands between blank lines is one (`data.documents`). In .jsonl (or .json) a
line is an object; its text stands under the first of `data.text_fields` that it
has. In .csv and .tsv a row is one; the first of them that is a column holds the
text.
"""

import dataclasses
import itertools
import typing

from latemask.data.sources import formats
from latemask.data.sources import found
from latemask.data.sources import lines
from latemask.data.sources import unpack

# Every shard reads through a file that it shares with others.
_MAX_READ_THROUGH_SHARDS = 16
# Lines that are shorter on average, in characters, are hardly documents: 32
# tokens, or twice that where blank lines part groups of them (a sentence a
# line). So many must be seen, in the first blocks of so many files.
_SHORT_CHARS = 128
_LINES_A_GROUP = 3
_MIN_LINES = 100
_SAMPLED_FILES = 5
_CHARS_A_TOKEN = 4


@dataclasses.dataclass(frozen=True)
class Text(found.Files):
  """Files of lines, objects or rows.

  Fields:
    how: where documents stand in them.
    packing: how rows are packed of them (`data.packing`).
  """

  how: formats.How
  packing: str

  kind: typing.ClassVar[str] = "text"
  endings: typing.ClassVar[str] = (
      f"{', '.join(formats.FORMATS)}, or in one of these and one of "
      f"{', '.join(unpack.ENDINGS)}")

  @classmethod
  def open(cls, pattern, config, key, download):
    """Finds the files of a glob pattern; `**` crosses folders."""
    del download
    return cls.find(
        pattern, key, packing=config.data.packing, how=formats.How(
            tuple(config.data.text_fields), config.data.documents))

  @classmethod
  def reads(cls, path):
    """Returns whether a file is of this kind, by its ending."""
    return formats.of(path) is not None

  @property
  def notes(self):
    """What to know of the files before they are packed, a line each."""
    notes = super().notes
    count, chars, groups = self._sampled_lines()
    in_groups = len(self.paths) < groups and groups * _LINES_A_GROUP <= count
    if count >= _MIN_LINES and chars < _SHORT_CHARS * (1 + in_groups) * count:
      notes.append(
          f"{self.name}: documents of {chars / count:.0f} characters on "
          f"average, about {chars / count / _CHARS_A_TOKEN:.0f} tokens: is a "
          "line a document? If blank lines part the documents, set "
          "data.documents=blank_lines; else join their lines, or set "
          "data.packing=stream")
    return notes

  def _sampled_lines(self):
    """Returns (lines of .txt, their characters, groups) of a few blocks."""
    count = chars = groups = 0
    if self.how.between != "lines" or self.packing == "stream":
      return count, chars, groups
    paths = [p for p in self.paths if formats.is_of_lines(p)]
    for path in paths[::-(-len(paths) // _SAMPLED_FILES) or 1]:
      with unpack.reading(path) as file:
        for _, block in itertools.islice(
            lines.blocks(file, 0, 1, formats.checked(path)), 1):
          rows = list(map(
              str.strip, formats.split(block.decode(errors="replace"))))
          count += sum(map(bool, rows))
          chars += sum(map(len, rows))
          groups += sum(is_text for is_text, _ in itertools.groupby(
              rows, bool))
    return count, chars, groups

  @property
  def max_shards(self):
    """More shards than this would read files through too often; or None."""
    return self._num_read_through and max(
        _MAX_READ_THROUGH_SHARDS, self._num_read_through)

  @property
  def max_parts(self):
    """Where all are read through, a part is some whole files; see `Files`."""
    return (self._num_read_through
            if self._num_read_through == len(self.paths) else None)

  def part_bytes(self, shard, num_shards, place=None):
    """See `Files`; as `documents` deals them out."""
    number, byte = (len(self.paths), 0) if place is None else divmod(
        place, 1 << found.FILE_BITS)
    return byte + sum(self.fingerprint[path] for path
                      in self.paths[shard:number:num_shards])

  @property
  def _num_read_through(self):
    return sum(map(formats.is_read_through, self.paths))

  def documents(self, shard, num_shards, bad):
    """Yields (place, text) of the documents of one shard."""
    all_whole = self._num_read_through >= num_shards
    first_block = 0
    for number, path in enumerate(self.paths):
      # Some files cannot be entered midway: with enough of them each shard
      # reads its own ones; with few, all shards read through all of them.
      is_read_through = formats.is_read_through(path)
      whole = all_whole and is_read_through
      blocks = 1 if whole else (
          -(-self.fingerprint[path] // lines.BLOCK_BYTES) or 1)
      mine = (shard - first_block) % num_shards
      first_block += blocks
      # How much a packed file holds is only an estimate.
      if mine < blocks or (is_read_through and not whole):
        yield from self._read(
            number, *((0, 1) if whole else (mine, num_shards)), bad)

  def _read(self, number, first, stride, bad):
    """Yields (place, text) of blocks first, first + stride, ... of a file."""
    path, place = self.paths[number], number << found.FILE_BITS
    with unpack.reading(path) as file:
      for start, text in formats.of(path).documents(
          file, path, first, stride, self.how, bad):
        yield place + start, text
