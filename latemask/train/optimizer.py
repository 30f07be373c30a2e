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


# First match wins; a parameter that no rule covers raises. Biases, norms and
# the mask vector do not decay; embeddings do, as in RoBERTa.
_DECAY_RULES = (
    (r"(bias|scale|mask_vector)$", False),
    (r"(kernel|embedding|positions)$", True),
)


def make_schedule(config):
  """Returns the learning rate as a function of the step (0: the first).

  Linear warm-up to `learning_rate`, then `schedule` down towards
  `final_learning_rate`, which the step after the last one would have
  (inverse_sqrt only never falls below it).

  Raises:
    InputError: a final rate above the peak; see `warmup_steps`, too.
  """
  o, num_steps = config.optimizer, config.train.num_steps
  rising = warmup_steps(config)
  if o.final_learning_rate > o.learning_rate:
    raise errors.InputError(
        f"optimizer.final_learning_rate is {o.final_learning_rate}; it must "
        f"not be more than optimizer.learning_rate {o.learning_rate}")
  decay = _DECAYS[o.schedule]

  def learning_rate(step):
    # No update is lost to a rate of 0: warm-up begins above it, and the last
    # step lies one before the end of the decay.
    step = jnp.asarray(step, jnp.float32)
    warm = (step + 1) / max(rising, 1) * o.learning_rate
    share = (step - rising) / (num_steps - rising)
    return jnp.where(step < rising, warm,
                     decay(o, jnp.clip(share, 0, 1), step, rising))

  return learning_rate


def _linear(o, share, step, rising):
  del step, rising
  return o.learning_rate + share * (o.final_learning_rate - o.learning_rate)


def _cosine(o, share, step, rising):
  del step, rising
  return o.final_learning_rate + 0.5 * (1 + jnp.cos(jnp.pi * share)) * (
      o.learning_rate - o.final_learning_rate)


def _inverse_sqrt(o, share, step, rising):
  del share
  return jnp.maximum(o.final_learning_rate, o.learning_rate * jnp.sqrt(
      max(rising, 1) / (step + 1)))


_DECAYS = {"linear": _linear, "cosine": _cosine,
           "inverse_sqrt": _inverse_sqrt}


def make_optimizer(config, schedule=None):
  """Returns the optax transformation; it takes the mean gradient.

  Args:
    schedule: None makes that of the config.

  Raises:
    InputError: see `make_schedule`.
  """
  o = config.optimizer
  schedule = schedule or make_schedule(config)
  clip = (optax.identity() if o.clip_norm is None
          else optax.clip_by_global_norm(o.clip_norm))
  return optax.chain(
      clip, optax.scale_by_adam(o.b1, o.b2, o.eps),
      optax.add_decayed_weights(o.weight_decay, decay_mask),
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
