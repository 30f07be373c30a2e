"""Parquet and Arrow files, by pyarrow: their groups of rows, and one column.

Below `columns`, the source. A file is known by its `Layout`, which is read once
and travels to the processes that pack. Then one column of one group is read, a
few MiB at a time, so that memory does not depend on how large a file or a
group is. pyarrow is slow to import, and few runs need it: it is imported when
it is called.
"""

import contextlib
import json
import os
import typing

from latemask import errors
from latemask.runtime import files as files_lib

# Of a column, what is held at a time, about.
_BATCH_BYTES = 1 << 22
_MOST_BATCH_ROWS = 1 << 14
_BUFFER_BYTES = 1 << 20
_MAGIC = b"ARROW1"


class Group(typing.NamedTuple):
  """Rows that are read without those before them.

  Fields:
    num_rows: how many.
    size_bytes: of the column, unpacked.
    key: number, or byte, by which the format finds it.
  """

  num_rows: int
  size_bytes: int
  key: int


class Layout(typing.NamedTuple):
  """What is known of a file: the column that is read, and its groups."""

  column: str
  groups: tuple[Group, ...]


class Format(typing.NamedTuple):
  """What reads a kind of file.

  Fields:
    layout: (path, fields) -> Layout.
    arrays: (path, Layout, Group) -> yields arrays of the column, in order.
  """

  layout: typing.Callable
  arrays: typing.Callable


@contextlib.contextmanager
def naming(path, what):
  """What pyarrow raises in its body is an InputError that names the file."""
  import pyarrow as pa
  try:
    yield
  except UnicodeEncodeError as error:
    raise errors.InputError(
        f"{path!r} is no name in UTF-8, which pyarrow needs") from error
  except (pa.lib.ArrowException, OSError, EOFError) as error:
    if isinstance(error, OSError) and error.strerror:
      said = f"{path} cannot be read ({error.strerror})"
    else:
      reason = " ".join(str(error).split())[:200]
      said = f"{path} is no {what} file, or is cut off ({reason})"
    raise errors.InputError(said) from error


def open_file(path):
  """Opens a file for pyarrow, which knows gs:// by itself."""
  import pyarrow as pa
  if files_lib.is_remote(path):
    from pyarrow import fs
    system, path = fs.FileSystem.from_uri(str(path))
    return system.open_input_file(path)
  return pa.OSFile(str(path))


def _map(path):
  """Opens a file of which little is read: only what is looked at."""
  import pyarrow as pa
  return open_file(path) if files_lib.is_remote(path) else pa.memory_map(path)


def check_once(path, names, column):
  """Raises InputError if a column's name stands twice among those of a file."""
  if names.count(column) > 1:
    raise errors.InputError(
        f"{path} has {names.count(column)} columns {column}; rename all but "
        "one")


def _column(path, schema, fields):
  """Returns the first of some fields that is a column.

  Raises:
    InputError: none is, or it does not hold text.
  """
  import pyarrow as pa
  column = next((field for field in fields if field in schema.names), None)
  if column is None:
    raise errors.InputError(
        f"{path} has no column {' or '.join(fields)}; it has "
        f"{', '.join(schema.names)}; name the one with the text in "
        "data.text_fields")
  check_once(path, schema.names, column)
  kind = schema.field(column).type
  if kind not in (pa.string(), pa.large_string(), pa.string_view()):
    raise errors.InputError(
        f"{path}: column {column} is of type {kind}, not string; name the one "
        "with the text in data.text_fields")
  return column


def _parquet_layout(path, fields):
  import pyarrow.parquet as pq
  with naming(path, "parquet"), open_file(path) as source:
    file = pq.ParquetFile(source)
    column = _column(path, file.schema_arrow, fields)
    number = next(i for i in range(len(file.schema))
                  if file.schema.column(i).path == column)
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    return Layout(column, tuple(
        Group(group.num_rows, group.column(number).total_uncompressed_size, i)
        for i, group in enumerate(groups)))


def _parquet_arrays(path, layout, group):
  import pyarrow.parquet as pq
  with naming(path, "parquet"), open_file(path) as source:
    # With a buffer a column is read page by page, not as a whole.
    file = pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    batch_rows = max(1, min(_MOST_BATCH_ROWS, group.num_rows * _BATCH_BYTES
                            // max(group.size_bytes, 1)))
    for batch in file.iter_batches(
        batch_rows, [group.key], [layout.column], use_threads=False):
      yield batch.column(batch.schema.names.index(layout.column))


def _arrow_layout(path, fields):
  import pyarrow as pa
  with naming(path, "Arrow"), _map(path) as source:
    if source.read(len(_MAGIC)) == _MAGIC:
      file = pa.ipc.open_file(source)
      column = _column(path, file.schema, fields)
      batches = (
          (i, file.get_batch(i)) for i in range(file.num_record_batches))
    else:
      source.seek(0)
      schema = pa.ipc.read_schema(source)
      column = _column(path, schema, fields)
      batches = _stream(path, source, schema)
    return Layout(column, tuple(
        Group(batch.num_rows, batch.column(column).nbytes, key)
        for key, batch in batches))


def _stream(path, source, schema):
  """Yields (byte, record batch) of a stream, behind its schema."""
  import pyarrow as pa
  while True:
    start = source.tell()
    try:
      message = pa.ipc.read_message(source)
    except EOFError:
      return
    if message.type != "record batch":
      raise errors.InputError(
          f"{path} is a stream with dictionaries, which cannot be read; write "
          "it as parquet")
    yield start, pa.ipc.read_record_batch(message, schema)


def _arrow_arrays(path, layout, group):
  import pyarrow as pa
  with naming(path, "Arrow"), open_file(path) as source:
    if source.read(len(_MAGIC)) == _MAGIC:
      names = pa.ipc.open_file(source).schema.names
      batch = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(
          included_fields=[names.index(layout.column)])).get_batch(group.key)
    else:
      source.seek(0)
      schema = pa.ipc.read_schema(source)
      source.seek(group.key)
      batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema)
    yield batch.column(layout.column)


def texts(format_, path, layout, group, first, stop):
  """Yields (row of the group, text) of rows first to stop - 1.

  None stands for a row without a text, bytes for one that is not UTF-8.
  """
  row = 0
  for array in format_.arrays(path, layout, group):
    begin, end = max(first - row, 0), min(stop - row, len(array))
    if begin < end:
      yield from enumerate(_strings(array[begin:end]), row + begin)
    row += len(array)
    if row >= stop:
      return


def _strings(array):
  import pyarrow as pa
  try:
    return array.to_pylist()
  except UnicodeDecodeError:  # Rare, and slow: one by one.
    return map(_decoded, array.cast(pa.large_binary()).to_pylist())


def _decoded(data):
  try:
    return data.decode()
  except (UnicodeDecodeError, AttributeError):
    return data  # No UTF-8, or nothing at all.


def saved_files(folder):
  """Returns the files of a set that `datasets` saved; None if none lies there.

  Raises:
    InputError: several sets lie there, or it cannot be read.
  """
  several = os.path.join(folder, "dataset_dict.json")
  state = os.path.join(folder, "state.json")
  try:
    if os.path.exists(several):
      with open(several) as file:
        splits = json.load(file)["splits"]
      raise errors.InputError(
          f"arrow:{folder} holds the sets {', '.join(splits)}; name one, as "
          f"arrow:{os.path.join(folder, splits[0])}")
    if not os.path.exists(state):
      return None
    with open(state) as file:
      return [os.path.join(folder, data["filename"])
              for data in json.load(file)["_data_files"]]
  except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
    raise errors.InputError(
        f"arrow:{folder} is no folder that datasets has saved "
        f"({' '.join(str(error).split()):.100})") from error


FORMATS = {".parquet": Format(_parquet_layout, _parquet_arrays)}
FORMATS |= dict.fromkeys(
    (".arrow", ".feather", ".ipc"), Format(_arrow_layout, _arrow_arrays))
