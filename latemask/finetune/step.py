"""The step of fine-tuning: batches of windows -> state, loss; or logits.

It is to fine-tuning what train/step.py is to pre-training. Learning rate and
seed are arguments, so one compiled step serves all cells of a batch size. There
is one for each length that rows are padded to.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from latemask.data.tokenizers import specials as specials_lib
from latemask.finetune.adapters import table as adapters
from latemask.finetune import batches as batches_lib
from latemask.finetune import losses
from latemask.finetune.tasks import kinds
from latemask.masking import masked as masked_lib
from latemask.model import architecture
from latemask.model import cut
from latemask.model import heads
from latemask.model import encoder as encoder_lib
from latemask.runtime import rng
from latemask.train import optimizer as optimizer_lib
from latemask.train import schedule as schedule_lib
from latemask.train import step as step_lib

_EVAL_BATCH = 64
# Streams of random numbers, folded into the key of the seed.
_HEAD, _ENCODER, _DROPOUT, _ADAPTER = range(4)


def make_optimizer(config):
  """Returns AdamW at a constant rate of 1: the step is told the rate."""
  return optimizer_lib.make_optimizer(
      "adamw", config.optimizer, lambda step: 1.0)


def schedule(config, num_steps):
  """Returns the learning rate of each step, relative to its peak."""
  o = config.optimizer
  return np.asarray(schedule_lib.make_schedule(
      o.schedule, 1.0, num_steps, int(o.warmup_fraction * num_steps))(
          np.arange(num_steps)))


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """What trains and predicts a task with one batch size.

  Fields:
    model: the encoder's `ModelConfig`.
    params: on the device, {"encoder": its parameters, "head": those of a class
      head that are known}, see `heads.init`.
    specials: the `Specials` of the tokenizer.
    from_scratch: start from a fresh encoder of the same shapes.
    kind: a row of `kinds.KINDS`.
    num_outputs: of the head.
    class_weights: of the loss of each class; None: all alike.
    units: see `kinds.scaled`.
    optimizer: for learning rate 1.
    adapter: `config.adapter`: what of the encoder is trained.
  """

  model: architecture.ModelConfig
  params: dict
  specials: specials_lib.Specials
  from_scratch: bool
  kind: str
  num_outputs: int
  class_weights: tuple[float, ...] | None
  units: tuple[float, float] | None
  optimizer: optax.GradientTransformation
  adapter: ml_collections.ConfigDict

  def init_state(self, seed):
    """Returns the state before the first step."""
    encoder = self.params["encoder"]
    if self.from_scratch:
      fresh = encoder_lib.LateMaskModel(self.model).init(
          rng.stream(seed, _ENCODER),
          masked_lib.unmasked(jnp.zeros((1, 1), jnp.int32), self.specials),
          method="encode")["params"]
      encoder = {name: fresh[name] for name in encoder}
    # Copied, since a step takes its state away.
    params = jax.tree.map(jnp.copy, {
        "encoder": self._adapter.begin(
            self.adapter, self.model, encoder, rng.stream(seed, _ADAPTER)),
        "head": heads.init(
            self.model, self.num_outputs, rng.stream(seed, _HEAD),
            kinds.scaled(self.units, self.params["head"]), self._head)})
    return step_lib.TrainState(
        jnp.zeros((), jnp.int32), params, self.optimizer.init(params))

  @property
  def _adapter(self):
    return adapters.ADAPTERS[self.adapter.name]

  def whole(self, params, encoder=None, key_drop=None):
    """Returns what is trained as {"encoder": all of it, "head": the head}.

    Args:
      params: of a state.
      encoder: the one that stands still; None for that of `params` here.
      key_drop: for dropout of the adapter; None for none.
    """
    return params | {"encoder": self._adapter.whole(
        self.adapter, self.model,
        self.params["encoder"] if encoder is None else encoder,
        params["encoder"], key_drop)}

  @property
  def _head(self):
    return kinds.KINDS[self.kind].head

  @functools.cached_property
  def train_step(self):
    """Jitted (state, batch, learning_rate, seed) -> (state, mean loss).

    The state is donated. A batch is that of `batches.collate`.
    """
    step = jax.jit(self._train_step, donate_argnums=0)
    return lambda *args: step(*args, self.params["encoder"])

  @functools.cached_property
  def logits(self):
    """Jitted (params, rows) -> logits, without dropout.

    Rows are those of `batches.pad`; see `cut.logits`.
    """
    logits = jax.jit(lambda params, rows, encoder: self._logits(
        self.whole(params, encoder), rows))
    return lambda *args: logits(*args, self.params["encoder"])

  def _logits(self, params, rows, key_drop=None):
    ids_BxS, second_BxS = rows
    return cut.logits(self.model, params, ids_BxS, self.specials,
                      self.num_outputs, key_drop, second_BxS, self._head)

  def _train_step(self, state, batch, learning_rate, seed, encoder):
    rows, targets, weights_B = batch
    key_drop = jax.random.fold_in(
        rng.stream(seed, _DROPOUT, "hash"), state.step)
    key_adapter = jax.random.fold_in(rng.stream(seed, _ADAPTER), state.step)

    def mean_loss(params):
      whole = self.whole(params, encoder, key_adapter)
      loss_sum, weight = losses.LOSSES[self.kind](
          self._logits(whole, rows, key_drop), targets,
          rows[0] == self.specials.pad, weights_B,
          self.class_weights and jnp.array(self.class_weights))
      # Windows within one endless word have nothing to learn from.
      return loss_sum / jnp.where(weight > 0, weight, 1)

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    updates, opt_state = self.optimizer.update(
        grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: learning_rate * u, updates)
    return step_lib.TrainState(
        state.step + 1, optax.apply_updates(state.params, updates),
        opt_state), loss

  def predict(self, params, encoded, lengths):
    """Returns the logits of all windows of a split, in order.

    An array [W, outputs]; of a head for tokens a list of [S, outputs].
    """
    batches = batches_lib.in_order(
        np.arange(len(encoded.ids)), encoded.lengths_W, _EVAL_BATCH)
    running = [self.logits(params, batches_lib.pad(
        encoded, windows, _EVAL_BATCH, lengths)) for windows in batches]
    found = [None] * len(encoded.ids)
    for windows, logits in zip(batches, running):
      for window, one in zip(windows, np.asarray(logits)):
        found[window] = (one if self._head == "text"
                         else one[:encoded.lengths_W[window]])
    return np.stack(found) if self._head == "text" else found


def make_program(config, model, params, specials, kind, num_outputs,
                 class_weights=None, units=None):
  """Returns the `Program` of all tasks that these describe."""
  return Program(model, params, specials, config.from_scratch, kind,
                 num_outputs, class_weights, units, make_optimizer(config),
                 config.adapter)
