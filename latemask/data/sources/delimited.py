"""Rows of .csv and .tsv files: a header line, then a document a row.

Read as Python's csv module reads them: a field in quotes may hold delimiters,
line ends and doubled quotes.
"""

import csv

from latemask.data.sources import arrow
from latemask import errors

# A quote that is never closed would take in all that follows.
_MOST_CHARS = 1 << 26


def documents(blocks, path, delimiter, fields, bad, is_mine):
  """Yields (byte at which its row begins, text) of some rows with a text.

  Args:
    blocks: (byte, whole lines) of the whole file, in order.
    fields: columns; the first that is there holds the text.
    bad: the `table.BadDocuments` that counts rows which cannot be read.
    is_mine: tells of a byte whether the row that begins there is wanted.

  Raises:
    InputError: there is no such column.
  """
  # The limit is the process's, and 131,072 characters unless it is set.
  csv.field_size_limit(_MOST_CHARS)
  lines = _Lines(blocks)
  rows = csv.reader(lines, delimiter=delimiter)
  header = column = None
  while True:
    lines.begin_row()
    try:
      row = next(rows)
    except StopIteration:
      return
    except csv.Error as error:
      row, wrong = None, str(error)
    else:
      wrong = lines.wrong or (header and _wrong(row, header))
    if row == []:  # A blank line.
      continue
    if header is None:
      header = row or []
      column = _column(header, path, fields, wrong)
    elif not is_mine(lines.first_byte):
      continue
    elif wrong:
      bad.add(f"{path}: line {lines.first_line:,}: {wrong}")
    elif text := row[column].strip():
      try:
        text.encode()
      except UnicodeEncodeError:
        bad.add(f"{path}: line {lines.first_line:,}: it is not UTF-8; convert "
                "the file, for example with iconv -t utf-8")
      else:
        yield lines.first_byte, text


class _Lines:
  """The lines of a file, one after the other, knowing where a row begins.

  Attributes:
    first_line, first_byte: of the row that is read just now, from 1 and 0.
    wrong: what is wrong with it, if the file ends in it; else None.
  """

  def __init__(self, blocks):
    self._lines = ((start, line) for block_start, block in blocks
                   for start, line in _places(block_start, block))
    self._num_lines = self._num_of_row = 0
    self.first_line = self.first_byte = self.wrong = None

  def begin_row(self):
    """Says that the next line begins a row."""
    self._num_of_row = 0

  def __iter__(self):
    return self

  def __next__(self):
    start, line = next(self._lines, (None, None))
    if line is None:
      if self._num_of_row:
        self.wrong = "a quote begins in this row, and the file ends within it"
      raise StopIteration
    self._num_lines += 1
    self._num_of_row += 1
    if self._num_of_row == 1:
      self.first_line, self.first_byte = self._num_lines, start
    return line.decode(errors="surrogateescape")


def _places(start, block):
  for line in block.splitlines(keepends=True):
    yield start, line
    start += len(line)


def _wrong(row, header):
  if len(row) != len(header):
    return f"it has {len(row):,} columns, and the header has {len(header):,}"
  return None


def _column(header, path, fields, wrong):
  """Returns where the text stands in a row."""
  if not wrong:
    for field in fields:
      if field in header:
        arrow.check_once(path, header, field)
        return header.index(field)
    wrong = f"its columns are {', '.join(header)}"
  raise errors.InputError(
      f"{path} has no column {' or '.join(fields)} in its first line "
      f"({wrong:.200}); name the one with the text in data.text_fields")
