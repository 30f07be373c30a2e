"""A run that is made longer: the same command with more `train.num_steps`.

It goes on as if it had been begun so long, where that is no other run than the
one there is: the learning rates so far are the same, and so is the warm-up,
which from then on stands in config.json in steps, too.
"""

from latemask.checkpoint import record as record_lib
from latemask import errors
from latemask.runtime import workdir as workdir_lib
from latemask.train import schedule

# What config.json then says anew.
KEYS = ("train.num_steps", "optimizer.warmup_steps")
# How a schedule is asked whether it may be made longer: (its config as begun,
# step of the newest checkpoint) -> bool.
_MAY = {
    "constant": lambda config, step: True,
    "inverse_sqrt": lambda config, step: True,
    "wsd": lambda config, step: (
        step <= config.train.num_steps - schedule.decay_steps(config)),
}


def lengthened(config, workdir):
  """Returns (config with which a workdir goes on, whether its run is longer).

  Args:
    config: as given today; where no longer run is asked for, it comes back.

  Raises:
    InputError: the run cannot be made longer.
  """
  if not (workdir / "config.json").exists():
    return config, False
  begun = workdir_lib.read_config(workdir)
  try:  # What is no number, or not there, is refused elsewhere.
    if config.train.num_steps <= begun.train.num_steps:
      return config, False
  except (AttributeError, KeyError, TypeError):
    return config, False
  _check(begun, config, workdir)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    # The fraction stays beside it: it is what commands are compared by.
    config.optimizer.warmup_steps = schedule.warmup_steps(begun)
  return config, True


def _check(begun, config, workdir):
  refusal = (f"{workdir} cannot be made longer than its "
             f"{begun.train.num_steps:,} steps: ")
  if (begun.train.total_flops, config.train.total_flops) != (None, None):
    raise errors.InputError(refusal + "train.total_flops sets them")
  if begun.masking.phases:
    raise errors.InputError(
        refusal + "masking.phases are shares of these, and would begin at "
        "other ones")
  if begun.train.average_share:
    raise errors.InputError(
        refusal + "train.average_share is one of these, and the average so far "
        "is of fewer steps")
  kind = begun.optimizer.schedule
  step = max(record_lib.steps(workdir), default=0)
  if kind not in _MAY:
    raise errors.InputError(
        refusal + f"with optimizer.schedule {kind} all learning rates so far "
        f"would be others ({', '.join(_MAY)} can)")
  if not _MAY[kind](begun, step):
    raise errors.InputError(
        refusal + f"its decay has begun before step {step:,}, that of its "
        "newest checkpoint")
