"""The one exception that stands for "what was given cannot be used".

It stands before every other module. `main` and the tools print its message
as a single line and exit with code 2; anything else that is raised is a bug
of ours and keeps its traceback.
"""

import contextlib
import sys


class InputError(Exception):
  """A config, file or command line that cannot be used.

  The message is one line: what is wrong, where, and what would be right.
  """


@contextlib.contextmanager
def one_line_exit():
  """Ends the program with an InputError's message and exit code 2."""
  try:
    yield
  except InputError as error:
    print(f"latemask: {error}", file=sys.stderr)
    sys.exit(2)


def choose(table, name, key):
  """Returns `table[name]`, the row that config key `key` asks for.

  Raises:
    InputError: `name` is no row of the table; the message lists the rows.
  """
  if name not in table:
    raise InputError(
        f"{key} is {name!r}; choose one of {', '.join(map(str, table))}")
  return table[name]
