"""Files that may be compressed, opened as the bytes of their text.

Below all sources that read files. What a file is compressed with is told by
its ending. A compressed file is read through: its middle is not reached without
what stands before it.
"""

import bz2
import contextlib
import io
import lzma
import os

from etils import epath
from isal import igzip
from isal import isal_zlib

from latemask import errors
from latemask.runtime import files

_BUFFER_BYTES = 1 << 20
# Of compressed bytes, so few at a time, as they may become very many.
_ZSTD_BYTES = 1 << 14
# The window of zstd --ultra --long=31, as large archives are written with.
_ZSTD_WINDOW_BYTES = 1 << 31


class _Damaged(Exception):
  """A .zst file that is not whole."""


# What reading a damaged file raises, besides an OSError that no system sent.
_DAMAGED = (EOFError, isal_zlib.error, lzma.LZMAError, _Damaged)


def _gunzip(file):
  return io.BufferedReader(igzip.GzipFile(fileobj=file), _BUFFER_BYTES)


def _unzstd(file):
  return io.BufferedReader(_Zstd(file), _BUFFER_BYTES)


class _Zstd(io.RawIOBase):
  """The text of a .zst file of any number of frames, to be read forwards.

  The reader of `zstandard` takes a file that is cut off for a whole one.
  """

  def __init__(self, file):
    import zstandard
    self._error = zstandard.ZstdError
    self._new_frame = zstandard.ZstdDecompressor(
        max_window_size=_ZSTD_WINDOW_BYTES).decompressobj
    self._file, self._frame = file, None
    self._packed = self._text = b""
    self._place = 0

  def readable(self):
    return True

  def seekable(self):
    return True

  def tell(self):
    return self._place

  def seek(self, place, whence=io.SEEK_SET):
    if whence != io.SEEK_SET or place < self._place:
      raise io.UnsupportedOperation("a .zst file is read forwards")
    while self._place < place and self.read(
        min(place - self._place, _BUFFER_BYTES)):
      pass
    return self._place

  def readinto(self, buffer):
    while not self._text:
      self._packed = self._packed or self._file.read(_ZSTD_BYTES)
      if not self._packed:
        if self._frame:
          raise _Damaged("it is cut off")
        return 0
      self._unpack()
    size = min(len(buffer), len(self._text))
    buffer[:size] = self._text[:size]
    self._text = self._text[size:]
    self._place += size
    return size

  def _unpack(self):
    self._frame = self._frame or self._new_frame()
    try:
      self._text = memoryview(self._frame.decompress(self._packed))
    except self._error as error:
      raise _Damaged(str(error)) from error
    self._packed = b""
    if self._frame.eof:
      self._packed, self._frame = self._frame.unused_data, None


def _gzip_bytes(path, size):
  """Returns the bytes of the last member, modulo 4 GiB; at least `size`."""
  if size < 4:
    return size
  with epath.Path(path).open("rb") as file:
    file.seek(size - 4)
    return max(size, int.from_bytes(file.read(4), "little"))


# Ending -> (what unpacks an open file, bytes of its text by path and size).
# Most do not tell how much they hold: prose is packed to a third or a quarter.
_PACKINGS = {
    ".gz": (_gunzip, _gzip_bytes),
    ".zst": (_unzstd, lambda path, size: 3 * size),
    ".bz2": (bz2.BZ2File, lambda path, size: 4 * size),
    ".xz": (lzma.LZMAFile, lambda path, size: 4 * size)}
ENDINGS = tuple(_PACKINGS)


def ending(path):
  """Returns the endings of a path in small letters: (".txt", ".gz").

  Each is "" where there is none; the second is one of `ENDINGS`.
  """
  stem = os.path.basename(path).lower()
  packing = next((e for e in ENDINGS if stem.endswith(e)), "")
  return os.path.splitext(stem.removesuffix(packing))[1], packing


def is_packed(path):
  """Returns whether a file is compressed: read through, not entered midway."""
  return ending(path)[1] != ""


def text_bytes(path):
  """Returns the bytes of text in a file; of a packed one an estimate."""
  size = files.size(path)
  packing = ending(path)[1]
  return _PACKINGS[packing][1](path, size) if packing else size


@contextlib.contextmanager
def reading(path, unpacks=True):
  """Yields a file, opened to read the bytes of its text.

  Args:
    unpacks: False: those that lie there, packed or not.

  Raises:
    InputError: it cannot be read, or is damaged.
  """
  packing = ending(path)[1] if unpacks else ""
  try:
    with contextlib.ExitStack() as stack:
      file = stack.enter_context(epath.Path(path).open("rb"))
      if packing:
        # To some libraries nothing at all is a whole file.
        if not files.size(path):
          raise EOFError("it is empty")
        file = stack.enter_context(_PACKINGS[packing][0](file))
      yield file
  except (*_DAMAGED, OSError) as error:
    said = getattr(error, "strerror", None)
    if said or not packing:
      raise errors.InputError(
          f"{path} cannot be read ({said or error})") from error
    raise errors.InputError(
        f"{path} cannot be decompressed ({error}); make it anew") from error
