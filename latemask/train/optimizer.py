"""AdamW with decay and no-decay parameters, warm-up, decay and clipping."""

import re

import jax
import jax.numpy as jnp
import optax

from latemask.config import domains
from latemask import errors
from latemask.model import partition


def within_budget(config, step_flops):
  """Returns a run's config with the steps that `train.total_flops` allows.

  `train.num_steps` becomes as many whole steps as fit. Without a budget the
  config comes back as it is.

  Args:
    config: the run's config; it is not changed.
    step_flops: FLOPs of a step, all rows.

  Raises:
    InputError: the budget pays for no step, or for too many.
  """
  budget_flops, given_steps = config.train.total_flops, config.train.num_steps
  if budget_flops is None:
    return config
  if not step_flops <= budget_flops <= step_flops * domains.INT32:
    raise errors.InputError(
        f"train.total_flops is {budget_flops:g}; one step takes "
        f"{step_flops:.4g}, and a run has 1 to 2**31 - 1 of them")
  # Exact: as floats, a budget of whole steps could lose one to rounding.
  num_steps = int(budget_flops) // step_flops
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


# First match wins; a parameter that no rule covers raises. Biases, norms, the
# mask vector and that of a second text do not decay; embeddings do, as in
# RoBERTa.
_DECAY_RULES = (
    (r"(bias|scale|mask_vector|second_text)$", False),
    (r"(kernel|embedding|positions)$", True),
)


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
  return make_schedule(o.schedule, o.learning_rate, config.train.num_steps,
                       warmup_steps(config), o.final_learning_rate)


def make_schedule(kind, peak, num_steps, num_warmup, final=0.0):
  """Returns the learning rate as a function of the step (0: the first).

  Args:
    kind: a row of `_DECAYS`: how it falls from `peak` towards `final`, which
      the step after the last one would have (inverse_sqrt only never falls
      below it).
    num_warmup: steps of linear warm-up before that.
  """
  decay = _DECAYS[kind]

  def learning_rate(step):
    # No update is lost to a rate of 0: warm-up begins above it, and the last
    # step lies one before the end of the decay.
    step = jnp.asarray(step, jnp.float32)
    warm = (step + 1) / max(num_warmup, 1) * peak
    share = jnp.clip((step - num_warmup) / (num_steps - num_warmup), 0, 1)
    return jnp.where(step < num_warmup, warm,
                     decay(peak, final, share, max(num_warmup, 1) / (step + 1)))

  return learning_rate


# Functions of the peak, the final rate, the share of the decay that is over,
# and the length of the warm-up by that of the run so far.
_DECAYS = {
    "linear": lambda peak, final, share, _: peak + share * (final - peak),
    "cosine": lambda peak, final, share, _: (
        final + 0.5 * (1 + jnp.cos(jnp.pi * share)) * (peak - final)),
    "inverse_sqrt": lambda peak, final, _, warmup: jnp.maximum(
        final, peak * jnp.sqrt(warmup)),
}


def make_optimizer(schedule, b1, b2, eps, weight_decay, clip_norm=None):
  """Returns the optax transformation; it takes the mean gradient."""
  clip = (optax.identity() if clip_norm is None
          else optax.clip_by_global_norm(clip_norm))
  return optax.chain(
      clip, optax.scale_by_adam(b1, b2, eps),
      optax.add_decayed_weights(weight_decay, decay_mask),
      optax.scale_by_learning_rate(schedule))


def decay_mask(params):
  """Returns a tree of bool: whether weight decay applies."""
  def one(path, _):
    name = partition.path_name(path)
    for rule, decays in _DECAY_RULES:
      if re.search(rule, name):
        return decays
    raise ValueError(f"no rule of the optimizer covers {name}")
  return jax.tree_util.tree_map_with_path(one, params)
