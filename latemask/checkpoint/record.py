"""What a checkpoint says of itself: digests, config, tokenizer, rows."""

import contextlib
import hashlib
import inspect
import json
import logging as std_logging
import sys
import warnings

from absl import logging
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from latemask.data.tokenizers import kinds as tokenizers_lib
from latemask import errors
from latemask.model import partition
from latemask.runtime import files
from latemask.runtime import rng


# Orbax logs each step of a save, formats of earlier versions, and errors of its
# threads. Who runs a command needs none of it: the errors are raised here, too.
logging.get_absl_logger().addFilter(
    lambda record: "orbax" not in record.pathname)
# Nor what is left of a save or a read that failed: futures that nobody asks any
# more, coroutines of Orbax, and TensorStore's threads, which call back into a
# loop that is closed.
std_logging.getLogger("asyncio").addFilter(
    lambda record: "never retrieved" not in record.getMessage())
warnings.filterwarnings("ignore", "coroutine .* was never awaited")


def _pass_over_what_is_left(found, tell=sys.unraisablehook):
  is_theirs = (inspect.iscoroutine(found.object)
               and "orbax" in found.object.cr_code.co_filename)
  if not is_theirs and str(found.exc_value) != "Event loop is closed":
    tell(found)


sys.unraisablehook = _pass_over_what_is_left

# Of checkpoints and of exported folders; a higher one is not ours.
FORMAT = 1


def check_format(record, where):
  """Refuses what a later version has written.

  Raises:
    InputError: the record's `format` is not ours.
  """
  found = record.get("format", FORMAT)
  if found != FORMAT:
    raise errors.InputError(
        f"{where} has the format {found!r:.60}, and this version reads "
        f"{FORMAT}; it was written by a later one")


def steps(workdir):
  """Returns the steps of the whole checkpoints of a workdir, in no order."""
  return ocp.utils.checkpoint_steps(epath.Path(workdir) / "checkpoints")


def tokenizer(workdir):
  """Returns the tokenizer of a workdir's newest whole checkpoint, or None."""
  for step in sorted(steps(workdir), reverse=True):
    path = files.absolute(workdir) / "checkpoints" / str(step)
    with contextlib.suppress(errors.InputError), _whole(path):
      return tokenizers_lib.of_record(_run(path)["tokenizer"])
  return None


def read(path, average=False):
  """Reads a checkpoint for something else than going on with its run.

  Args:
    path: WORKDIR/checkpoints/STEP.
    average: the average of the parameters, see train/average.py, not these.

  Returns:
    (config as a dict, tokenizer, parameters as numpy arrays,
    `Progress.trained_length`, step, digest of the packed rows).

  Raises:
    InputError: there is no whole checkpoint, or it has no average.
  """
  path = files.absolute(path)
  params_of = "average" if average else "params"
  with _whole(path):
    run, tree = _run_and_tree(path)
    state = ocp.PyTreeCheckpointer()
    if not tree.get(params_of):
      raise errors.InputError(
          f"{path} has no average of its parameters: it is of a run without "
          "train.average_share")
    # Without the optimizer's state, which is twice as large.
    tree = {name: tree[name] for name in (params_of, "step")}
    found = state.restore(path / "state", args=ocp.args.PyTreeRestore(
        item=tree, partial_restore=True, restore_args=jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)))
    params, step = found[params_of], int(found["step"])
    found = digests(found)
    compare(found, {name: run["digests"][name] for name in found})
    if average:
      params = jax.tree.map(lambda x: x / params["weight"], params["params"])
  return (run["config"], tokenizers_lib.of_record(run["tokenizer"]),
          params, trained_length(run), step, run["manifest"])


def described(path):
  """Returns what a checkpoint holds, without the arrays themselves.

  Args:
    path: WORKDIR/checkpoints/STEP.

  Returns:
    (config of its run as a dict, {name in its state: shape}).

  Raises:
    InputError: there is no whole checkpoint.
  """
  with _whole(path):
    run, tree = _run_and_tree(files.absolute(path))
    return run["config"], {
        partition.path_name(name): tuple(leaf.shape)
        for name, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def read_field(path, field, shapes):
  """Reads a field of the state of a checkpoint, laid out as another.

  Args:
    path: WORKDIR/checkpoints/STEP.
    field: of `step.TrainState`.
    shapes: the tree that it becomes, ShapeDtypeStructs with shardings; of the
      shapes that `described` tells.

  Raises:
    InputError: there is no whole checkpoint.
  """
  path, wanted = files.absolute(path), {field: shapes}
  with _whole(path):
    run, _ = _run_and_tree(path)
    found = ocp.PyTreeCheckpointer().restore(
        path / "state", args=ocp.args.PyTreeRestore(
            item=wanted, partial_restore=True,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)))
    names = digests(found)
    compare(names, {name: run["digests"][name] for name in names})
    return found[field]


@contextlib.contextmanager
def _whole(path):
  """Its body reads a checkpoint, on whose damage Orbax raises anything."""
  try:
    yield
  except errors.InputError:
    raise
  except Exception as error:
    raise errors.InputError(
        f"{path} is no whole checkpoint: {line(error)[:300]}") from error


def _run(path):
  """Returns `run` of a checkpoint."""
  return checked(ocp.Checkpointer(
      ocp.JsonCheckpointHandler()).restore(path / "run"), path)


def _run_and_tree(path):
  """Returns (`run` of a checkpoint, the tree of what describes its arrays)."""
  return _run(path), ocp.PyTreeCheckpointer().metadata(
      path / "state").item_metadata.tree


def trained_length(run):
  """Returns `Progress.trained_length`, also of a checkpoint too old for it."""
  return run.get("trained_length", run["config"]["data"]["length"])


def digests(tree):
  """Returns {path: 16 hex digits} of a tree of arrays, wherever they lie.

  Two sums of hashes of each element's bits and place, computed where the
  elements are: a changed bit always changes them, the mesh never does.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  sums_Nx2 = jax.device_get(_digest([leaf for _, leaf in leaves]))
  return {partition.path_name(path): f"{high:08x}{low:08x}"
          for (path, _), (high, low) in zip(leaves, sums_Nx2)}


@jax.jit
def _digest(leaves):
  return jnp.stack([_digest_one(jnp.asarray(leaf)) for leaf in leaves])


def _digest_one(x):
  width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
  index = rng.index(x.shape)
  # Every step of the mixer can be undone, so other bits are another hash.
  return jnp.stack([
      jnp.sum(rng.mix(bits ^ rng.mix(index, salt), salt), dtype=jnp.uint32)
      for salt in (np.uint32(0x9E3779B9), np.uint32(0x85EBCA6B))])


def compare(found, wanted):
  """Raises ValueError, naming them, where digests differ."""
  differing = [name for name in sorted(found | wanted)
               if found.get(name) != wanted.get(name)]
  if differing:
    raise ValueError("other bits than were saved in " + ", ".join(
        differing[:3]) + (", ..." if len(differing) > 3 else ""))


def sha256(run):
  """Returns the SHA-256 of the `run` of a checkpoint, 64 hex digits."""
  # Through JSON once: what is read back has lists where tuples were.
  text = json.dumps(json.loads(json.dumps(run)), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def checked(run, where):
  """Returns the `run` of a checkpoint without its SHA-256, if that holds."""
  run = dict(run)
  if run.pop("sha256", None) != sha256(run):
    raise ValueError("`run` is not what was saved")
  check_format(run, where)
  return run


def line(error):
  """Returns the first line of what an error says, or what it is."""
  return (str(error).strip().splitlines() or [repr(error)])[0]
