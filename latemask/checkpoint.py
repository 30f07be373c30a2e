"""Checkpoints: one unit of everything a run needs to go on, by Orbax.

WORKDIR/checkpoints/STEP/ holds `state` (step, parameters, optimizer) and
`run` (config, digest of the packed rows, tokenizer). Saves run beside
training and are committed by a rename at the end, so that a save that was cut
off is never taken for a checkpoint.
"""

import base64

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from latemask import errors


class Checkpoints:
  """The checkpoints of a workdir."""

  def __init__(self, workdir, config, packed):
    """Opens the folder, creating it where it must be.

    Args:
      packed: the `packing.Packed` that the run reads.
    """
    self._run = {
        "config": config.to_dict(),
        "manifest": packed.digest,
        "tokenizer": base64.b64encode(packed.tokenizer.proto).decode(),
    }
    self._manager = ocp.CheckpointManager(
        epath.Path(workdir).absolute() / "checkpoints",
        options=ocp.CheckpointManagerOptions(
            max_to_keep=config.checkpoint.keep,
            cleanup_tmp_directories=True))

  @property
  def latest_step(self):
    """The newest checkpoint's step, None where there is none."""
    return self._manager.latest_step()

  def save(self, step, state):
    """Starts saving; waits for the save before, if that still runs.

    A step that is already there is left alone.
    """
    if step in self._manager.all_steps():
      return
    self._manager.save(step, args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        run=ocp.args.JsonSave(self._run)), force=True)

  def restore(self, state_shapes):
    """Returns the newest state laid out as `state_shapes`; None without one.

    Raises:
      InputError: the checkpoint belongs to other packed rows.
    """
    step = self.latest_step
    if step is None:
      return None
    run = self._manager.restore(
        step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
    if run["manifest"] != self._run["manifest"]:
      raise errors.InputError(
          f"checkpoint {step} of {self._manager.directory} was trained on "
          "other packed rows; give the data.dir it had, or another --workdir")
    return self._manager.restore(step, args=ocp.args.Composite(
        state=ocp.args.StandardRestore(state_shapes)))["state"]

  def wait(self):
    """Returns once all saves are on disk."""
    self._manager.wait_until_finished()

  def close(self):
    """Waits, and frees Orbax's threads."""
    self._manager.wait_until_finished()
    self._manager.close()


def read(path):
  """Reads a checkpoint for something else than going on with its run.

  Args:
    path: WORKDIR/checkpoints/STEP.

  Returns:
    (config as a dict, serialised tokenizer, parameters as numpy arrays).

  Raises:
    InputError: there is no whole checkpoint.
  """
  path = epath.Path(path).absolute()
  try:
    run = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(path / "run")
    state = ocp.PyTreeCheckpointer()
    params = state.metadata(path / "state").item_metadata.tree["params"]
    # The parameters alone: the optimizer's state is twice as large.
    params = state.restore(path / "state", args=ocp.args.PyTreeRestore(
        item={"params": params}, partial_restore=True,
        restore_args={"params": jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), params)}))
  except (OSError, ValueError, KeyError) as error:
    raise errors.InputError(
        f"{path} is no whole checkpoint: {str(error).splitlines()[0]}"
    ) from error
  return (run["config"], base64.b64decode(run["tokenizer"]),
          params["params"])
