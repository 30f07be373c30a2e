"""A config named on a tool's command line: FILE[:SIZE][,KEY=VALUE...].

  configs/base.py:large,model.unroll=24,data.length=512

main.py has flags for the same; tools that take several configs read them
here. Values are Python literals; what is none is text. A comma is part of a
value unless another KEY= follows it.
"""

import ast
import importlib.util
import json
import pathlib
import re
import sys

from latemask.config import keys
from latemask import errors

_NEXT_CHANGE = re.compile(r",(?=[\w.]+=)")


def load(spec):
  """Returns the locked config of a spec.

  Raises:
    InputError: no such file, size or key, or a value that a key cannot have.
  """
  name, comma, rest = spec.partition(",")
  changes = _NEXT_CHANGE.split(rest) if comma else ()
  path, _, size = name.partition(":")
  file = module(path)
  if not hasattr(file, "get_config"):
    raise errors.InputError(f"{path} has no get_config; is it a config?")
  try:
    config = file.get_config(size) if size else file.get_config()
  except (TypeError, ValueError) as error:
    raise errors.InputError(f"{name}: {error}") from error
  config.lock()
  for change in changes:
    key, equals, value = change.partition("=")
    if not equals:
      raise errors.InputError(
          f"{spec}: {change!r} is no KEY=VALUE, such as model.unroll=2")
    override(config, {key: _value(value)}, f"{spec}: {change!r}")
  keys.check(config)
  return config


def override(config, changes, where):
  """Sets {dotted key: value} in a locked config.

  Raises:
    InputError: no such key, or a value of another type; begins with `where`.
  """
  try:
    config.update_from_flattened_dict(changes)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    reason = str(error).strip().splitlines()[0]
    raise errors.InputError(f"{where}: {reason}") from error


def _value(text):
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


def module(path):
  """Returns what a config file defines.

  Raises:
    InputError: there is none, or it cannot be read.
  """
  file = pathlib.Path(path)
  if file.suffix != ".py" or not file.is_file():
    raise errors.InputError(
        f"there is no config file {path}; give FILE.py[:SIZE][,KEY=VALUE...]")
  # They import each other as `configs`, from the folder that it lies in.
  folder = file.resolve().parent
  configs = next((p for p in (folder, *folder.parents)
                  if p.name == "configs"), folder)
  root = str(configs.parent)
  if root not in sys.path:
    sys.path.insert(0, root)
  spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
  loaded = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(loaded)
  except (AttributeError, ImportError, NameError, SyntaxError) as error:
    raise errors.InputError(f"{path} cannot be read: {error}") from error
  return loaded


def flatten(config):
  """Returns a config, given as a dict, as {dotted key: JSON value}."""
  return keys.flat(json.loads(json.dumps(config)))
