"""The config that a workdir belongs to: WORKDIR/config.json."""

import json

import flax.traverse_util
import jax

from latemask import errors
from latemask.data import local


def flatten(config):
  """Returns a config, given as a dict, as {dotted key: JSON value}."""
  return flax.traverse_util.flatten_dict(
      json.loads(json.dumps(config)), sep=".")


def compare_config(config, workdir, free_keys):
  """Refuses a workdir that was begun with another config.

  Args:
    free_keys: pattern of the keys that may differ.

  Raises:
    InputError: others differ; the message names them.
  """
  path = workdir / "config.json"
  if not path.exists():
    return
  try:
    begun = flatten(json.loads(path.read_text()))
  except json.JSONDecodeError as error:
    raise errors.InputError(
        f"{path} is not JSON ({error}); choose another --workdir") from error
  now = flatten(config.to_dict())
  differing = [
      f"{key} {begun.get(key)!r} (now {now.get(key)!r})"
      for key in sorted(begun | now)
      if begun.get(key) != now.get(key) and not free_keys.match(key)]
  if differing:
    raise errors.InputError(
        f"{workdir} was begun with {', '.join(differing)}; give the same "
        "config, or another --workdir")


def write_config(config, workdir):
  """Writes config.json on process 0, unless it is there."""
  path = workdir / "config.json"
  if jax.process_index() == 0 and not path.exists():
    local.write_json(path, config.to_dict())
