"""What ends a program with one line and an exit code of its own.

It stands before every other module. `main` and the tools print the message of
an `Ending` as a single line; anything else that is raised is a bug of ours and
keeps its traceback.
"""

import contextlib
import sys


class Ending(Exception):
  """Ends a program; the message is one line, `code` the exit code."""

  code = 1


class InputError(Ending):
  """A config, file or command line that cannot be used.

  The message is one line: what is wrong, where, and what would be right.
  """

  code = 2


class MissingError(Ending):
  """Not all processes of a run are there."""

  code = 4


class SaveError(Ending):
  """A run cannot be kept on disk."""

  code = 5


@contextlib.contextmanager
def one_line_exit():
  """Ends the program with the message and the exit code of an `Ending`."""
  try:
    yield
  except Ending as error:
    print(f"latemask: {error}", file=sys.stderr, flush=True)
    sys.exit(error.code)


def choose(table, name, key):
  """Returns `table[name]`, the row that config key `key` asks for.

  Raises:
    InputError: `name` is no row of the table; the message lists the rows.
  """
  if name not in table:
    raise InputError(
        f"{key} is {name!r}; choose one of {', '.join(map(str, table))}")
  return table[name]
