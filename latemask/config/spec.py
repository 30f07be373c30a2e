"""A config named on a tool's command line: FILE[:SIZE][,KEY=VALUE...].

  configs/base.py:large,model.unroll=24,data.length=512

main.py has flags for the same, which `flags` makes of it; tools that take
several configs read them here. Values are Python literals; what is none is
text. A comma is part of a value unless another KEY= follows it.
"""

import ast
import difflib
import importlib.util
import json
import os
import pathlib
import re
import sys

import ml_collections

from latemask.config import keys
from latemask import errors

_NEXT_CHANGE = re.compile(r",(?=[\w.]+=)")
# What a value of a type is called.
_KINDS = {int: "a whole number", float: "a number", str: "text",
          bool: "True or False", tuple: "a list, such as (1, 2)"}


def load(spec, is_finetuning=None):
  """Returns the locked config of a spec.

  Args:
    is_finetuning: which kind it must be; None: any.

  Raises:
    InputError: no such file, size or key, a value that a key cannot have, or a
      config of the other kind.
  """
  name, comma, rest = spec.partition(",")
  changes = _NEXT_CHANGE.split(rest) if comma else ()
  path, _, size = name.partition(":")
  file = module(path)
  if not hasattr(file, "get_config"):
    raise errors.InputError(f"{path} has no get_config; is it a config?")
  config = asked(name, lambda: (
      file.get_config(size) if size else file.get_config()))
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.InputError(f"{path}: get_config returns no ConfigDict")
  config.lock()
  for change in changes:
    key, equals, value = change.partition("=")
    if not equals:
      raise errors.InputError(
          f"{spec}: {change!r} is no KEY=VALUE, such as model.unroll=2")
    override(config, {key: value_of(value)}, f"{spec}: {change!r}")
  keys.check(config)
  if is_finetuning not in (None, "task" in config):
    raise errors.InputError(f"{name} is {kind(config)}; give one that " + (
        "fine-tunes" if is_finetuning else "pre-trains"))
  return config


def kind(config):
  """Returns in words what a config, or a dict of one, is for."""
  return "a config that " + ("fine-tunes" if "task" in config else "pre-trains")


def asked(where, function):
  """Returns what a function of a config file returns.

  Raises:
    InputError: it raises anything; the file may be anybody's. Begins with
      `where`.
  """
  try:
    return function()
  except errors.InputError:
    raise
  except Exception as error:
    said = " ".join(str(error).split())
    if not isinstance(error, (TypeError, ValueError)):  # They say what it is.
      said = f"{type(error).__name__}: {said}"
    raise errors.InputError(f"{where}: {said}") from error


def flags(spec):
  """Returns a spec as the flags of latemask.main."""
  name, *changes = _NEXT_CHANGE.split(spec)
  return [f"--config={name}"] + [f"--config.{change}" for change in changes]


def override(config, changes, where):
  """Sets {dotted key: value} in a locked config.

  Raises:
    InputError: no such key, or a value of another type; begins with `where`.
  """
  known = flatten(config.to_dict())
  for key, value in changes.items():
    if key not in known:
      close = difflib.get_close_matches(key, known, n=1)
      raise errors.InputError(
          f"{where}: there is no key {key}"
          + (f" (did you mean {close[0]}?)" if close else ""))
    try:
      config.update_from_flattened_dict({key: value})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      group, _, name = key.rpartition(".")
      kind = (config[group] if group else config).get_type(name)
      raise errors.InputError(
          f"{where}: {key} is {value!r}; it must be "
          + _KINDS.get(kind, kind.__name__)) from error


def value_of(text):
  """Returns what stands on a command line as a value; see the module."""
  try:
    return ast.literal_eval(text)
  except (SyntaxError, TypeError, ValueError):
    return text


def module(path):
  """Returns what a config file defines.

  Raises:
    InputError: there is none, or it cannot be read.
  """
  file = pathlib.Path(path)
  if file.suffix != ".py" or not os.path.isfile(file):
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
  asked(f"{path} cannot be read", lambda: spec.loader.exec_module(loaded))
  return loaded


def flatten(config):
  """Returns a config, given as a dict, as {dotted key: JSON value}."""
  return keys.flat(json.loads(json.dumps(config)))
