"""A workdir belongs to one config, and to one running program.

The config is WORKDIR/config.json, the program's claim WORKDIR/claim.json. Of
several processes the first one holds the claim, for all.
"""

import contextlib
import itertools
import json
import time

from etils import epath
import flax.traverse_util
import jax
import ml_collections

from latemask.config import keys
from latemask.config import spec
from latemask import errors
from latemask.runtime import claims
from latemask.runtime import distributed
from latemask.runtime import files

_count = itertools.count()
_NAMED = 8  # Keys, in a message.
# How long NFS may take to show a new file on other hosts.
_SEEN_SECS = 60


@contextlib.contextmanager
def owned(workdir):
  """Its body runs while this program has a workdir to itself.

  All processes of the program come here; each is yielded a `claims.Claim`.

  Raises:
    HeldError: another program has it; on all processes.
    InputError: not all processes see it; or there are metrics of something
      else.
  """
  workdir = epath.Path(workdir)
  if (workdir / "metrics.jsonl").exists() and not (
      workdir / "config.json").exists():
    raise errors.InputError(
        f"{workdir} holds a metrics.jsonl and no config.json; choose another "
        "--workdir")
  path, claim, refusal = claims.inside(workdir), None, None
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      try:
        claim = stack.enter_context(claims.held(path))
      except errors.Ending as error:
        refusal = error
    distributed.meet(f"claim {next(_count)}")  # It may take a minute.
    token = distributed.from_first(claim.token if claim else "")
    if not token:
      raise refusal or claims.HeldError(
          f"process 0 could not have {workdir}; its line says why")
    # Else the first save would wait for a folder that never comes.
    claim = claim or claims.Claim(path, token)
    is_seen = _is_seen(claim)
    distributed.meet(f"seen {next(_count)}")
    if not distributed.everywhere(is_seen):
      raise errors.InputError(
          f"{workdir} is not the same folder on all {jax.process_count()} "
          "processes; --workdir must lie where all hosts see it")
    yield claim


def _is_seen(claim):
  deadline = time.monotonic() + _SEEN_SECS
  while time.monotonic() <= deadline:
    with contextlib.suppress(OSError):
      if claim.is_there():
        return True
    time.sleep(claims.LOOK_SECS)
  return False


def check_owned(claim):
  """Checks, on all processes together, that a claim is still theirs.

  Raises:
    HeldError: it is another's, or gone; on all processes.
  """
  refusal = None
  if jax.process_index() == 0:
    try:
      claim.check()
    except claims.HeldError as error:
      refusal = error
  if not distributed.everywhere(refusal is None):
    raise refusal or claims.HeldError(
        "process 0 found the workdir another's; its line says whose")


def compare_config(config, workdir, but=()):
  """Refuses a workdir that was begun with another config.

  Args:
    but: keys in which it may differ.

  Raises:
    InputError: others differ; the message names them.
  """
  begun = _begun(workdir, config)
  if begun is None:
    return
  now = spec.flatten(config.to_dict())
  begun = keys.fill(begun, now)
  free = keys.names(keys.table(config), "free")
  differing = [
      f"{key} {begun.get(key)!r} (now {now.get(key)!r})"
      for key in sorted(begun | now)
      if begun.get(key) != now.get(key) and key not in free.union(but)]
  if differing:
    more = len(differing) - _NAMED
    raise errors.InputError(
        f"{workdir} was begun with {', '.join(differing[:_NAMED])}"
        + f" and {more} others" * (more > 0)
        + "; give the same config, or another --workdir")


def keep_meaning(config, workdir):
  """Returns the config with which a workdir goes on.

  It is the one that was given, unless the workdir is older than a key whose
  default does something else than was done before: then the run goes on as
  it was begun, and says so.
  """
  begun = _begun(workdir, config)
  if begun is None:
    return config
  now = keys.flat(config)
  kept = keys.as_begun(begun, now)
  changed = {key: value for key, value in kept.items()
             if key not in now or now[key] != value}
  if not changed:
    return config
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for key in now.keys() - kept.keys():
      group, _, name = key.rpartition(".")
      del config[group][name]
    config.update_from_flattened_dict(changed)
  if jax.process_index() == 0:
    print(f"{workdir} goes on as it was begun, with " + ", ".join(
        f"{key} {value}" for key, value in changed.items()), flush=True)
  return config


def read_config(workdir):
  """Returns the config of a run, with the keys that it is too old to have.

  Raises:
    InputError: there is no config.json, or it cannot be read.
  """
  begun = _begun(epath.Path(workdir))
  if begun is None:
    raise errors.InputError(f"{workdir} is no run: no config.json")
  return ml_collections.ConfigDict(flax.traverse_util.unflatten_dict(
      keys.fill(begun, keys.BEFORE), sep="."))


def _begun(workdir, config=None):
  """Returns the flat config in config.json; None where there is none.

  Args:
    config: what is to go on there; None: nothing is.
  """
  path = workdir / "config.json"
  if not path.exists():
    return None
  try:
    found = json.loads(path.read_text("utf-8"))
  except OSError as error:
    raise errors.InputError(
        f"{path} cannot be read ({error.strerror})") from error
  except ValueError as error:
    raise errors.InputError(
        f"{path} is not JSON ({error}); choose another --workdir") from error
  if not isinstance(found, dict):
    raise errors.InputError(
        f"{path} holds no object; choose another --workdir")
  if "model_type" in found:
    raise errors.InputError(
        f"{workdir} is a Hugging Face folder, no run; choose another --workdir")
  if config and spec.kind(found) != spec.kind(config):
    raise errors.InputError(
        f"{workdir} was begun with {spec.kind(found)}, and this is "
        f"{spec.kind(config)}; choose another --workdir")
  return spec.flatten(found)


def write_config(config, workdir, anew=False):
  """Writes config.json on process 0, unless it is there and not wanted anew."""
  path = workdir / "config.json"
  if jax.process_index() == 0 and (anew or not path.exists()):
    files.write_json(path, config.to_dict())
