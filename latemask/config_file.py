"""A config named on a tool's command line: FILE[:SIZE][,KEY=VALUE...].

  configs/base.py:large,model.unroll=24,data.length=512

main.py has flags for the same; tools that take several configs read them
here. Values are Python literals; what is none is text.
"""

import ast
import importlib.util
import pathlib
import sys

from latemask import errors


def load(spec):
  """Returns the locked config of a spec.

  Raises:
    InputError: no such file, size or key, or a value of another type.
  """
  name, *changes = spec.split(",")
  path, _, size = name.partition(":")
  module = _module(path)
  if not hasattr(module, "get_config"):
    raise errors.InputError(f"{path} has no get_config; is it a config?")
  try:
    config = module.get_config(size) if size else module.get_config()
  except (TypeError, ValueError) as error:
    raise errors.InputError(f"{name}: {error}") from error
  config.lock()
  for change in changes:
    key, equals, value = change.partition("=")
    if not equals:
      raise errors.InputError(
          f"{spec}: {change!r} is no KEY=VALUE, such as model.unroll=2")
    try:
      config.update_from_flattened_dict({key: _value(value)})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      reason = str(error).strip().splitlines()[0]
      raise errors.InputError(f"{spec}: {change!r}: {reason}") from error
  return config


def _value(text):
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


def _module(path):
  file = pathlib.Path(path)
  if file.suffix != ".py" or not file.is_file():
    raise errors.InputError(
        f"there is no config file {path}; give FILE.py[:SIZE][,KEY=VALUE...]")
  # configs/*.py import each other as `configs`, from the root of the project.
  root = str(file.resolve().parent.parent)
  if root not in sys.path:
    sys.path.insert(0, root)
  spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except (AttributeError, ImportError, NameError, SyntaxError) as error:
    raise errors.InputError(f"{path} cannot be read: {error}") from error
  return module
