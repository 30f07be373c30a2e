"""The grid of a command line: --grid KEY=VALUE,VALUE... --grid KEY=...

What a sweep file says in sweep() and columns(), said on the command line over
any config: each value of one key with each value of the others. A sweep file
can have a grid, too: then each of its points is taken with each of the grid's.
"""

import ast
import itertools
import re

from latemask.config import spec as spec_lib
from latemask import errors

# Commas, but for those inside of brackets.
_COMMA = re.compile(r",(?![^(\[]*[)\]])")


def parse(options):
  """Returns {dotted key: list of values} of what was given as --grid.

  Values are read as on the command line of main: Python literals, and what is
  none is text.

  Raises:
    InputError: an option that is no KEY=VALUE,VALUE..., or a key given twice.
  """
  grid = {}
  for option in options:
    key, _, values = option.partition("=")
    if not key or not values:
      raise errors.InputError(
          f"--grid {option}: it must be KEY=VALUE,VALUE..., such as "
          "masking.rate=0.15,0.5")
    if key in grid:
      raise errors.InputError(
          f"--grid names {key} twice; give all its values in one --grid")
    grid[key] = _values(values)
  return grid


def _values(text):
  try:
    return list(ast.literal_eval(f"({text},)"))
  except (SyntaxError, TypeError, ValueError):
    return [spec_lib.value_of(part.strip()) for part in _COMMA.split(text)]


def points(grid, beginnings):
  """Yields the overrides of each point.

  Args:
    grid: see `parse`.
    beginnings: overrides of a file's sweep(); [{}] where there is none.

  Raises:
    InputError: the file's points have a key of the grid already.
  """
  for beginning in beginnings:
    for key in grid.keys() & beginning.keys():
      raise errors.InputError(
          f"--grid {key}: the file of --config already sweeps this key")
    for values in itertools.product(*grid.values()):
      yield beginning | dict(zip(grid, values))
