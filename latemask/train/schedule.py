"""How long a run is, and its learning rate from step to step."""

import bisect
from typing import NamedTuple

import jax
import jax.numpy as jnp

from latemask.config import domains
from latemask import errors


def within_budget(config, run_flops):
  """Returns a run's config with the steps that `train.total_flops` allows.

  `train.num_steps` becomes as many whole steps as fit. Without a budget the
  config comes back as it is.

  Args:
    config: the run's config; it is not changed.
    run_flops: function of a number of steps: FLOPs of such a run, a whole
      number.

  Raises:
    InputError: the budget pays for no step, or for too many.
  """
  budget_flops, given_steps = config.train.total_flops, config.train.num_steps
  if budget_flops is None:
    return config
  if not run_flops(1) <= budget_flops <= run_flops(domains.INT32):
    raise errors.InputError(
        f"train.total_flops is {budget_flops:g}; one step takes "
        f"{run_flops(1):.4g}, and a run has 1 to 2**31 - 1 of them")
  # Exact: as floats, a budget of whole steps could lose one to rounding.
  num_steps = bisect.bisect_right(
      range(domains.INT32 + 1), int(budget_flops), key=run_flops) - 1
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.train.num_steps = num_steps
    if "warmup_steps" in config.optimizer:  # A run of before: as then.
      config.optimizer.warmup_steps = (
          config.optimizer.warmup_steps * num_steps // given_steps)
  return config


def warmup_steps(config):
  """Returns for how many steps of a run the learning rate rises.

  Args:
    config: the run's, with the steps that it takes.

  Raises:
    InputError: a run of before, whose warm-up is as long as the run.
  """
  o, num_steps = config.optimizer, config.train.num_steps
  if "warmup_steps" not in o:
    return min(round(o.warmup_fraction * num_steps), num_steps - 1)
  if o.warmup_steps >= num_steps:
    raise errors.InputError(
        f"optimizer.warmup_steps is {o.warmup_steps}; it must be less than "
        f"train.num_steps {num_steps}")
  return o.warmup_steps


def decay_steps(config):
  """Returns in how many steps, the last ones, wsd falls; at least one.

  None of them is one of the warm-up's.
  """
  num_steps = config.train.num_steps
  wanted = round(config.optimizer.decay_fraction * num_steps)
  return max(min(wanted, num_steps - warmup_steps(config)), 1)


def schedule_of(config):
  """Returns the learning rate of a run as a function of the step.

  Raises:
    InputError: a final rate above the peak; see `warmup_steps`, too.
  """
  o = config.optimizer
  if o.final_learning_rate > o.learning_rate:
    raise errors.InputError(
        f"optimizer.final_learning_rate is {o.final_learning_rate}; it must "
        f"not be more than optimizer.learning_rate {o.learning_rate}")
  num_steps = config.train.num_steps
  return make_schedule(o.schedule, o.learning_rate, num_steps,
                       warmup_steps(config), o.final_learning_rate,
                       decay_steps(config))


def make_schedule(kind, peak, num_steps, num_warmup, final=0.0, num_decay=1):
  """Returns the learning rate as a function of the step (0: the first).

  Args:
    kind: a row of `_DECAYS`: how it falls from `peak` towards `final`, which
      the step after the last one would have (inverse_sqrt only never falls
      below it).
    num_warmup: steps of linear warm-up before that.
    num_decay: the last steps, in which wsd falls.
  """
  decay = _DECAYS[kind]

  def learning_rate(step):
    # No update is lost to a rate of 0: warm-up begins above it, and the last
    # step lies one before the end of the decay.
    step = jnp.asarray(step, jnp.float32)
    warm = (step + 1) / max(num_warmup, 1) * peak
    so_far = Decay(
        share=jnp.clip((step - num_warmup) / (num_steps - num_warmup), 0, 1),
        last=jnp.clip((step - (num_steps - num_decay)) / num_decay, 0, 1),
        warmup=max(num_warmup, 1) / (step + 1))
    return jnp.where(step < num_warmup, warm, decay(peak, final, so_far))

  return learning_rate


class Decay(NamedTuple):
  """Where a run is.

  Fields:
    share: of the steps behind the warm-up that are over.
    last: share of the last steps, in which wsd falls, that are over.
    warmup: length of the warm-up by that of the run so far.
  """

  share: jax.Array
  last: jax.Array
  warmup: jax.Array


# Functions of the peak, the final rate and a `Decay`.
_DECAYS = {
    "linear": lambda peak, final, at: peak + at.share * (final - peak),
    "cosine": lambda peak, final, at: (
        final + 0.5 * (1 + jnp.cos(jnp.pi * at.share)) * (peak - final)),
    "inverse_sqrt": lambda peak, final, at: jnp.maximum(
        final, peak * jnp.sqrt(at.warmup)),
    "constant": lambda peak, final, at: peak,
    "wsd": lambda peak, final, at: peak + at.last * (final - peak),
}
