"""Checkpoints: one unit of everything a run needs to go on, by Orbax.

WORKDIR/checkpoints/STEP/ holds `state` (step, parameters, optimizer) and
`run` (config, digest of the packed rows, probe of their order, tokenizer, rows
skipped, digests).
What holds, in order:
  1. A save runs beside training and is committed by a rename at its end: one
     that was cut off is never taken for a checkpoint.
  2. A save that fails (a full disk) is counted and training goes on; too many
     in a row, or a failed last one, end the run.
  3. What is read back must have the digests taken from the devices before the
     save. A damaged checkpoint is set aside as STEP.damaged and the one
     before is used; where all are damaged nothing is touched and the run does
     not start: never a silent restart from step 0.
"""

import contextlib
import dataclasses
import itertools
import threading
import time

import jax
from jax.experimental import multihost_utils
import orbax.checkpoint as ocp

from latemask.checkpoint import record as record_lib
from latemask.data import order
from latemask.data.tokenizers import kinds as tokenizers_lib
from latemask import errors
from latemask.runtime import distributed
from latemask.runtime import files
from latemask.runtime import workdir as workdir_lib


# What a busy disk, or a bucket, refused once may be there the next time.
_READS = 2
# How long an end waits for Orbax once a save has failed.
_CLOSE_SECS = 20
# How often, and when again, processes look whether they see the same.
_LOOKS, _LOOK_SECS = 60, 1
# What Orbax raises over a save: of several processes, where one of them failed,
# that the others' time was up.
_FAILURES = (OSError, ValueError, jax.errors.JaxRuntimeError)


@dataclasses.dataclass(frozen=True)
class Progress:
  """How far a run has come.

  Fields:
    state: its `step.TrainState`.
    skipped_steps: batches passed over by rollbacks: the next step reads the
      rows of step `state.step + skipped_steps`.
    num_rollbacks: how often that was.
    trained_length: tokens of the longest rows behind its parameters; None
      for `data.length`. Longer where a run began with another's.
  """

  state: object
  skipped_steps: int = 0
  num_rollbacks: int = 0
  trained_length: int | None = None


class Checkpoints:
  """The checkpoints of a workdir."""

  def __init__(self, workdir, config, packed, claim=None):
    """Opens the folder, creating it where it must be.

    Args:
      packed: the `packed_set.Packed` or `Mixture` that the run reads.
      claim: the `claims.Claim` on the workdir; None: nobody else knows of it.
    """
    self._claim = claim
    self._run = {
        "format": record_lib.FORMAT,
        "config": config.to_dict(),
        "manifest": packed.digest,
        "order": order.of(packed, config).probe,
        "tokenizer": tokenizers_lib.record(packed.tokenizer),
    }
    self._max_failed = config.checkpoint.max_failed_saves
    self._num_failed = 0  # In a row.
    self._failed_steps = set()
    self._saving = None  # The step of the save that runs beside training.
    self._manager = ocp.CheckpointManager(
        files.absolute(workdir) / "checkpoints",
        options=ocp.CheckpointManagerOptions(
            max_to_keep=config.checkpoint.keep,
            cleanup_tmp_directories=True))
    self._agree()

  @property
  def latest_step(self):
    """The newest checkpoint's step, None where there is none."""
    return self._manager.latest_step()

  @property
  def is_saving(self):
    """Whether a save runs beside training."""
    return self._manager.is_saving_in_progress()

  def notice(self):
    """Raises a HeldError once the workdir is known to be another program's.

    Several processes find out together, at the next save.
    """
    if self._claim and jax.process_count() == 1:
      self._claim.notice()

  def _check_owned(self):
    if self._claim:
      workdir_lib.check_owned(self._claim)

  def compile(self, state):
    """Compiles what a save runs before it writes."""
    record_lib.digests(state)

  def save(self, step, progress):
    """Starts saving; waits for the save before, if that still runs.

    A step that is already there is left alone.

    Raises:
      SaveError: too many saves have failed in a row.
      HeldError: the workdir is another program's now.
    """
    self._finish()
    if step in self._manager.all_steps():
      return
    self._check_owned()
    run = self._run | {
        "skipped_steps": progress.skipped_steps,
        "num_rollbacks": progress.num_rollbacks,
        "trained_length": (progress.trained_length
                           or self._run["config"]["data"]["length"]),
        "digests": record_lib.digests(progress.state)}
    self._saving = step
    try:
      self._manager.save(step, args=ocp.args.Composite(
          state=ocp.args.StandardSave(_tree(progress.state)),
          run=ocp.args.JsonSave(run | {"sha256": record_lib.sha256(run)})),
                         force=True)
    except _FAILURES as error:
      if "RESOURCE_EXHAUSTED" in str(error):  # The device's memory.
        raise
      self._finish(error)

  def restore(self, state_shapes):
    """Returns the newest `Progress`, laid out as `state_shapes`; or None.

    Waits for the save under way, if there is one.

    Raises:
      InputError: all checkpoints are damaged, or they belong to other packed
        rows.
    """
    self._finish()
    damaged = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      progress, error = self._try(step, state_shapes)
      if progress:
        for bad in damaged:
          self._set_aside(bad, "damaged")
        return progress
      damaged.append(step)
      print(f"checkpoint {step} of {self._manager.directory} is damaged: "
            f"{record_lib.line(error)[:300]}", flush=True)
    if damaged:
      raise errors.InputError(
          f"all checkpoints of {self._manager.directory} are damaged "
          f"({', '.join(map(str, damaged))}); nothing was changed. Put a "
          "whole one back, or begin anew in another --workdir")
    return None

  def _try(self, step, state_shapes):
    """Returns (`Progress` of a step, None), or (None, what is wrong).

    All processes find the same.
    """
    read = None
    for _ in range(_READS):
      try:
        read, error = self._read(step, state_shapes), None
        break
      except (errors.InputError, MemoryError):
        raise
      # On damaged files Orbax raises anything, a bare Exception included.
      except Exception as found:
        if "RESOURCE_EXHAUSTED" in str(found):  # The device's memory.
          raise
        # Its frames hold the state's memory, which the next one needs.
        error = found.with_traceback(None)
    if not distributed.everywhere(read is not None):
      return None, error or ValueError("another process cannot read it")
    state, run = read
    try:
      record_lib.compare(record_lib.digests(state), run["digests"])
    except ValueError as found:
      error = found.with_traceback(None)
    if not distributed.everywhere(error is None):
      return None, error or ValueError("another process found other bits")
    return Progress(state, run["skipped_steps"], run["num_rollbacks"],
                    record_lib.trained_length(run)), None

  def _read(self, step, state_shapes):
    """Returns (state, `run`) of a step.

    Each process reads what its devices hold, and waits for no other: it may be
    the only one that meets the damage.
    """
    path = self._manager.directory / str(step)
    where = f"checkpoint {step} of {self._manager.directory}"
    run = record_lib.checked(
        ocp.JsonCheckpointHandler().restore(path / "run"), where)
    if run["manifest"] != self._run["manifest"]:
      raise errors.InputError(
          f"{where} was trained on other packed rows; give the data.dir it "
          "had, or another --workdir")
    if "order" in run:  # Older ones have none.
      order.check_probe(run["order"], self._run["order"], where)
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
      return type(state_shapes)(**handler.restore(
          path / "state", args=ocp.args.StandardRestore(
              _tree(state_shapes)))), run

  def set_newest_aside(self, word):
    """Takes the newest checkpoint out of the run, renamed to STEP.word."""
    self._finish()
    self._check_owned()
    step = self._manager.latest_step()
    if step is not None:
      self._set_aside(step, word)

  def _set_aside(self, step, word):
    if jax.process_index() == 0:
      path = self._manager.directory / str(step)
      names = (path.with_name(f"{step}.{word}{'-' * bool(n)}{n or ''}")
               for n in itertools.count())
      path.rename(next(name for name in names if not name.exists()))
    multihost_utils.sync_global_devices(f"set aside {step}")
    self._manager.reload()
    self._agree()

  def _agree(self):
    """Waits until all processes see the same checkpoints: NFS shows some late.

    Raises:
      InputError: they do not.
    """
    for _ in range(_LOOKS):
      if distributed.is_same(str(sorted(self._manager.all_steps()))):
        return
      time.sleep(_LOOK_SECS)
      self._manager.reload()
    raise errors.InputError(
        f"the processes see other checkpoints in {self._manager.directory}; "
        "--workdir must lie where all hosts see it")

  def wait(self):
    """Returns once the last save is on disk.

    Raises:
      SaveError: it failed.
    """
    self._finish()
    if self._num_failed:
      raise errors.SaveError(
          "the last state could not be saved; the same command goes on from "
          f"step {self.latest_step or 0:,}")

  def close(self):
    """Waits, and frees Orbax's threads.

    After a failed save it waits for a while only: a thread may hang with it.
    """
    if not self._num_failed:
      self._close()
      return
    thread = threading.Thread(target=self._close, daemon=True)
    thread.start()
    thread.join(_CLOSE_SECS)

  def _close(self):
    # What `wait` would tell; something else ends the run already.
    with contextlib.suppress(*_FAILURES):
      self._manager.wait_until_finished()
    self._sweep()
    self._manager.close()

  def _finish(self, error=None):
    """Waits for the save under way, and counts it if it failed.

    Args:
      error: what went wrong with it already.
    """
    try:
      self._manager.wait_until_finished()
    except _FAILURES as found:
      error = error or found
    step, self._saving = self._saving, None
    if error and step is not None:
      self._failed_steps.add(step)
    self._sweep()
    if step is None:
      return
    if error is None:
      self._num_failed = 0
      return
    self._num_failed += 1
    if isinstance(error, jax.errors.JaxRuntimeError):
      if jax.process_count() == 1:
        raise error
      # Others may have counted otherwise.
      raise errors.SaveError(
          f"step {step:,}: a process could not save, and the others waited in "
          f"vain (...{record_lib.line(error)[-120:]}); the same command goes "
          "on from the checkpoint before")
    # Orbax forgot those that it would have deleted; they are there.
    with contextlib.suppress(OSError, ValueError):
      self._manager.reload()
    print(f"step {step:,}: the save failed ({self._num_failed} in a row): "
          f"...{record_lib.line(error)[-120:]}", flush=True)
    if self._num_failed > self._max_failed:
      raise errors.SaveError(
          f"{self._num_failed} saves in a row have failed; make room, and the "
          f"same command goes on from step {self.latest_step or 0:,}")

  def _sweep(self):
    """Deletes what failed saves left on disk.

    More than once: one of their threads may still be writing.
    """
    is_ours = not (self._claim and self._claim.is_lost)
    if jax.process_index() == 0 and is_ours:
      for step in self._failed_steps - set(self._manager.all_steps()):
        for path in self._manager.directory.glob(
            f"{step}.orbax-checkpoint-tmp*"):
          with contextlib.suppress(OSError):  # Just then it wrote.
            path.rmtree(missing_ok=True)


def _tree(state):
  """Returns {field: tree} of a state, without what it does not have."""
  fields = {field.name: getattr(state, field.name)
            for field in dataclasses.fields(state)}
  return {name: tree for name, tree in fields.items() if tree is not None}
