"""Rows of people's own files, as cells by column.

A row of `FORMATS` an ending; all of them may be compressed as the sources of
data/sources/ may (.gz, .zst, .bz2, .xz), but for parquet. Files are read row
by row: nothing holds one as a whole.
"""

import csv
import json

from etils import epath

from latemask.data.sources import arrow
from latemask.data.sources import unpack
from latemask import errors

_BATCH_ROWS = 1024
# A quote that is never closed would take in all that follows.
_MOST_CHARS = 1 << 26


def read(path, columns):
  """Yields (where it stands, [cell of each column]) of the rows of a file.

  Cells are text, or what JSON or parquet holds: numbers, lists, None.

  Args:
    columns: names, as the file has them. A file of lines (.txt) has the one
      column, text; .conll has two, tokens and tags.

  Raises:
    InputError: an ending that is not known, no such file or column (those
      that there are are named), or a row that cannot be read.
  """
  path = str(path)
  kind = FORMATS.get(unpack.ending(path)[0])
  if kind is None:
    raise errors.InputError(
        f"{path}: files of rows end in {', '.join(FORMATS)}"
        f" (or one of them and {', '.join(unpack.ENDINGS)})")
  if not epath.Path(path).is_file():
    raise errors.InputError(f"there is no file {path}")
  yield from kind(path, columns)


def _places(path, columns, there):
  """Returns where some columns stand among those that there are."""
  for column in columns:
    if column not in there:
      raise errors.InputError(
          f"{path} has no column {column!r}; it has {', '.join(there)}")
    arrow.check_once(path, there, column)
  return [there.index(column) for column in columns]


def _lines(path):
  """Yields (where, line) of the text of a file; lines keep their ends."""
  with unpack.reading(path) as file:
    for number, line in enumerate(file, 1):
      try:
        yield f"{path}, line {number:,}", line.decode(
            "utf-8-sig" if number == 1 else "utf-8")
      except UnicodeDecodeError as error:
        raise errors.InputError(
            f"{path}, line {number:,}: it is not UTF-8; convert the file, for "
            "example with iconv -t utf-8") from error


def _delimited(delimiter):
  def read_rows(path, columns):
    csv.field_size_limit(_MOST_CHARS)
    # Strict: a quote that the file ends within is an error, no cell.
    rows = csv.reader((line for _, line in _lines(path)), delimiter=delimiter,
                      strict=True)
    places, number = None, 1
    try:
      for row in rows:
        where, number = f"{path}, line {number:,}", rows.line_num + 1
        if not row:
          continue
        if places is None:
          header, places = row, _places(path, columns, row)
          continue
        if len(row) != len(header):
          raise errors.InputError(
              f"{where}: it has {len(row)} columns, and the header has "
              f"{len(header)}")
        yield where, [row[place] for place in places]
    except csv.Error as error:
      raise errors.InputError(
          f"{path}: the row of line {number:,} cannot be read: {error}"
      ) from error
    if places is None:
      raise errors.InputError(f"{path} is empty")
  return read_rows


def _objects(path, columns):
  for where, line in _lines(path):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise errors.InputError(
          f"{where}: it is no JSON ({error}); each line must be an object"
      ) from error
    if not isinstance(row, dict):
      raise errors.InputError(f"{where}: it is no JSON object")
    _places(where, columns, list(row))
    yield where, [row[column] for column in columns]


def _parquet(path, columns):
  import pyarrow.parquet as pq
  with arrow.naming(path, "parquet"), arrow.open_file(path) as source:
    file = pq.ParquetFile(source)
    _places(path, columns, file.schema_arrow.names)
    first = 1
    for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
      try:
        cells = [batch.column(column).to_pylist() for column in columns]
      except UnicodeDecodeError as error:
        raise errors.InputError(
            f"{path}, rows {first:,} to {first + batch.num_rows - 1:,}: a text "
            f"is not UTF-8 ({error})") from error
      for number, row in enumerate(zip(*cells), first):
        yield f"{path}, row {number:,}", list(row)
      first += batch.num_rows


def _texts(path, columns):
  _places(path, columns, ["text"])
  for where, line in _lines(path):
    yield where, [line.rstrip("\r\n")]


def _conll(path, columns):
  """A word a line, its tag last; a blank line between sentences."""
  places = _places(path, columns, ["tokens", "tags"])
  begin, found = None, ([], [])
  for where, line in _lines(path):
    cells = line.strip().split("\t" if "\t" in line.strip() else None)
    if cells and cells[0] != "-DOCSTART-":
      if len(cells) == 1:
        raise errors.InputError(
            f"{where}: it has one column; a word and its tag are needed")
      begin = begin or where
      found[0].append(cells[0])
      found[1].append(cells[-1])
    elif begin:
      yield begin, [found[place] for place in places]
      begin, found = None, ([], [])
  if begin:
    yield begin, [found[place] for place in places]


# Ending -> (path, columns) -> rows.
FORMATS = {".csv": _delimited(","), ".tsv": _delimited("\t"),
           ".jsonl": _objects, ".parquet": _parquet, ".txt": _texts,
           ".conll": _conll}
