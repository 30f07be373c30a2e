"""A run that goes on with the whole state of another (train.init_state = all).

Runs are chained so: each is a phase, with a length, masks, data or a schedule
of its own. Parameters and the optimizer's moments go on, the step counts anew,
and so do the learning rate and the average of the parameters. A phase has a
number (train.phase) which is part of all its random keys, so that it does not
meet the masks, dropout and order of rows of the phases before it.
"""

from etils import epath
import jax

from latemask.checkpoint import record
from latemask.config import keys
from latemask.data.tokenizers import added
from latemask import errors
from latemask.model import partition
from latemask.runtime import distributed
from latemask.train import optimizer

# What goes on, of a `step.TrainState`.
_FIELDS = ("params", "opt_state")


def check(beginning, program, tokenizer):
  """Checks that a run can go on with the state of a model.

  Args:
    beginning: a `Pretrained`; None where `train.init_from` names none.
    program: the run's `step.Program`.
    tokenizer: the run's.

  Raises:
    InputError: it cannot; the message names the key.
  """
  if not beginning:
    raise errors.InputError(
        "train.init_state is all; name in train.init_from the run, or the "
        "checkpoint of one, whose state that is")
  path = epath.Path(beginning.path)
  if not (path / "state").is_dir():
    raise errors.InputError(
        f"train.init_state is all, and {path} has no optimizer's state; name "
        "a run, or a checkpoint of one, in train.init_from")
  config, theirs = record.described(path)
  _check_config(config, program.config)
  if added.new_ids(tokenizer, beginning.tokenizer):
    raise errors.InputError(
        "train.init_state is all, and the run's tokenizer has tokens that that "
        "of train.init_from does not have; leave data.tokenizer and "
        "data.add_tokens as they were")
  _check_shapes(theirs, program.state_shapes)


def _check_config(theirs, ours):
  """Checks the optimizer, and that the phase is a later one."""
  # None is there in runs that are older than the key.
  for key in ("optimizer.name", "train.mask_vector"):
    group, _, name = key.partition(".")
    theirs_is = theirs[group].get(name, keys.BEFORE[key])
    if theirs_is != ours[group][name]:
      raise errors.InputError(
          f"train.init_state is all, and {key} is {ours[group][name]}; that "
          f"of train.init_from is {theirs_is}")
  phase = theirs["train"].get("phase", keys.BEFORE["train.phase"])
  if ours.train.phase <= phase:
    raise errors.InputError(
        f"train.phase is {ours.train.phase}; train.init_from is phase {phase}, "
        "and its masks, dropout and order of rows would be met again: it must "
        "be more")


def _check_shapes(theirs, ours):
  """Checks that what goes on has the same shapes."""
  ours = {partition.path_name(path): leaf.shape
          for path, leaf in jax.tree_util.tree_leaves_with_path(
              {field: getattr(ours, field) for field in _FIELDS})}
  theirs = {name: shape for name, shape in theirs.items()
            if name.partition("/")[0] in _FIELDS}
  for name in sorted(ours | theirs):
    if ours.get(name) != theirs.get(name):
      raise errors.InputError(
          f"train.init_state is all, and {name} is {ours.get(name)}; that of "
          f"train.init_from is {theirs.get(name)}: the model must be the same")


def begin(beginning, program, state):
  """Returns a state with the optimizer's of a model in the place of its own.

  Args:
    beginning: a `Pretrained`, see `check`.
    program: the run's `step.Program`.
    state: before the first step, with the parameters of the model.

  Raises:
    InputError: the checkpoint is damaged.
  """
  opt_state = record.read_field(
      beginning.path, "opt_state", program.state_shapes.opt_state)
  distributed.say(
      f"phase {program.config.train.phase}: the optimizer's state of "
      f"{beginning.path} goes on; steps, learning rate and average begin anew")
  return state.replace(opt_state=optimizer.go_on(opt_state, state.opt_state))
