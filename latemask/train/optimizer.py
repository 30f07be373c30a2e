"""From the mean gradient to the update: a table of optimizers, what decays."""

import dataclasses
import re

import jax
import optax

from latemask.model import partition
from latemask.train import muon

# First match wins; a parameter that no rule covers raises. Biases, norms, the
# mask vector and that of a second text do not decay; embeddings do, as in
# RoBERTa.
_DECAY_RULES = (
    (r"(bias|scale|mask_vector|second_text)$", False),
    (r"(kernel|embedding|positions)$", True),
)


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """A row of the table.

  Fields:
    direction: config.optimizer -> the optax transformation that makes a
      direction, about as large as Adam's, of a gradient.
    update_flops: (parameters or their shapes) -> FLOPs of an update in matrix
      products, all devices together.
  """

  direction: object
  update_flops: object


def _adam(o):
  return optax.scale_by_adam(o.b1, o.b2, o.eps)


OPTIMIZERS = {
    "adamw": Optimizer(_adam, lambda params: 0),
    "muon": Optimizer(
        lambda o: muon.with_rest(o.momentum, _adam(o)), muon.update_flops),
}


def make_optimizer(name, o, schedule):
  """Returns the optax transformation; it takes the mean gradient.

  Args:
    name: a row of `OPTIMIZERS`.
    o: `config.optimizer`.
    schedule: the learning rate as a function of the step.
  """
  clip = (optax.identity() if o.clip_norm is None
          else optax.clip_by_global_norm(o.clip_norm))
  return optax.chain(
      clip, OPTIMIZERS[name].direction(o),
      optax.add_decayed_weights(o.weight_decay, decay_mask),
      optax.scale_by_learning_rate(schedule))


def go_on(theirs, fresh):
  """Returns the state of another run with the schedule at its beginning.

  Args:
    theirs, fresh: of what `make_optimizer` returns.
  """
  *moments, _ = theirs
  return (*moments, fresh[-1])  # The last one counts for the learning rate.


def decay_mask(params):
  """Returns a tree of bool: whether weight decay applies."""
  def one(path, _):
    name = partition.path_name(path)
    for rule, decays in _DECAY_RULES:
      if re.search(rule, name):
        return decays
    raise ValueError(f"no rule of the optimizer covers {name}")
  return jax.tree_util.tree_map_with_path(one, params)
