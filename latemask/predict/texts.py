"""Texts that stand one a line, in files, or where a shell reads and writes."""

import contextlib
import os
import sys

from etils import epath

from latemask import errors
from latemask.runtime import files


def check(text):
  """Checks a text that may come from the command line.

  Raises:
    InputError: it has bytes that are no UTF-8, or half of a character.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise errors.InputError(f"{text!r:.80} is no UTF-8") from error


def standard_input():
  """Returns the bytes of standard input.

  Raises:
    InputError: it is closed.
  """
  if sys.stdin is None:
    raise errors.InputError("standard input is closed")
  return sys.stdin.buffer


def lines(path=None):
  """Yields (where it stands, line), without the line's end.

  Args:
    path: of a file; None for standard input.

  Raises:
    InputError: it cannot be read, or is not UTF-8.
  """
  name = path or "standard input"
  try:
    with (open(path, "rb") if path else contextlib.nullcontext(
        standard_input())) as file:
      for number, line in enumerate(file, 1):
        yield f"{name}, line {number}", line.decode(
            "utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
  except OSError as error:
    raise errors.InputError(f"{name} cannot be read ({error.strerror})")
  except UnicodeDecodeError as error:
    raise errors.InputError(f"{name}, line {number}: {error}")


def check_out(path):
  """Refuses a file to write that is there, or in a folder that cannot be.

  Raises:
    InputError: see there.
  """
  if os.path.lexists(path) or epath.Path(path).exists():
    raise errors.InputError(
        f"--out {path} exists; name another file, or delete it")
  files.check_writable(path)


@contextlib.contextmanager
def writer(path=None):
  """Yields a function that writes a line.

  Args:
    path: of a file, which is there when it is whole; None for standard output.
  """
  if not path:
    yield print
    return
  files.make(epath.Path(path).parent)
  with files.writing(path) as part, open(part, "w", encoding="utf-8") as file:
    yield lambda line: print(line, file=file)
