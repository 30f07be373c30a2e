"""What the commands of latemask/tools and bench share: parser and table."""

import argparse
import importlib
import math
import os
import shlex

from latemask import errors


class _Parser(argparse.ArgumentParser):
  """Says in one line what is wrong with the arguments."""

  def error(self, message):
    with errors.one_line_exit():
      raise errors.InputError(f"{message}; {self.prog} --help says more")


def parser(module, description, **options):
  """Returns the parser of `python -m latemask.MODULE`.

  Args:
    module: tools.export, bench.step, ...
    description: its docstring.
    options: further ones of `argparse.ArgumentParser`.
  """
  return _Parser(
      prog=f"python -m latemask.{module}", description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter, **options)


def add_out(parser):
  """Adds --out and --overwrite, those of a folder that is replaced whole."""
  parser.add_argument("--out", required=True, help="folder to make")
  parser.add_argument("--overwrite", action="store_true",
                      help="replace an earlier export at --out, and nothing "
                      "else")


def at_least(least, most=math.inf):
  """Returns a `type` of arguments: whole numbers from `least` to `most`."""
  bounds = (f"of at least {least}" if most == math.inf else
            f"from {least} to {most}")

  def read(text):
    try:
      number = int(text)
    except ValueError:
      number = None
    if number is None or not least <= number <= most:
      raise argparse.ArgumentTypeError(f"{text!r} is no whole number {bounds}")
    return number
  return read


count = at_least(1)
seed = at_least(0, 2**32 - 1)


def positive(text):
  """Returns a finite number above 0: a `type` of arguments."""
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not 0 < number < math.inf:
    raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
  return number


def installed(what, *names):
  """Returns libraries that only some commands need.

  Args:
    what: needs them.

  Raises:
    InputError: one is not installed.
  """
  try:
    return [importlib.import_module(name) for name in names]
  except ModuleNotFoundError as error:
    raise errors.InputError(
        f"{what}: {error.name} is not installed: pip install "
        f"{' '.join(names)}") from error


def command(module, *arguments):
  """Returns `python -m latemask.MODULE ...` as one can paste it.

  Behind launch/local.sh, where that started this program.
  """
  return " ".join(filter(None, [
      os.environ.get("LATEMASK_LAUNCHER"),
      shlex.join(["python", "-m", f"latemask.{module}",
                  *map(str, arguments)])]))


def table(rows):
  """Returns rows of texts, the first its head, as the lines of a table."""
  rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
  widths = [max(3, *map(len, column)) for column in zip(*rows)]
  rows.insert(1, ["-" * width for width in widths])
  return "".join("| " + " | ".join(
      cell.ljust(width) for cell, width in zip(row, widths)) + " |\n"
                 for row in rows)


def duration(secs):
  """Returns seconds as H:MM:SS or M:SS."""
  minutes, secs = divmod(round(secs), 60)
  hours, minutes = divmod(minutes, 60)
  return (f"{hours}:{minutes:02d}:{secs:02d}" if hours
          else f"{minutes}:{secs:02d}")
