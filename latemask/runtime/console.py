"""What the command lines of the tools have in common."""

import argparse


def parser(name, description, **options):
  """Returns the parser of `python -m latemask.tools.NAME`.

  Args:
    description: the tool's module docstring.
    options: further ones of `argparse.ArgumentParser`.
  """
  return argparse.ArgumentParser(
      prog=f"python -m latemask.tools.{name}", description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter, **options)
