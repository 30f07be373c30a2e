"""Texts that stand one a line, in a file or on standard input."""

import contextlib
import sys

from latemask import errors


def check(text):
  """Checks a text that may come from the command line.

  Raises:
    InputError: it has bytes that are no UTF-8, or half of a character.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise errors.InputError(f"{text!r:.80} is no UTF-8") from error


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
        sys.stdin.buffer)) as file:
      for number, line in enumerate(file, 1):
        yield f"{name}, line {number}", line.decode(
            "utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
  except OSError as error:
    raise errors.InputError(f"{name} cannot be read ({error.strerror})")
  except UnicodeDecodeError as error:
    raise errors.InputError(f"{name}, line {number}: {error}")
