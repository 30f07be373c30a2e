"""The step of fine-tuning: batches of glue.py -> state, loss; or logits.

It is to fine-tuning what train/step.py is to pre-training. Learning rate and
seed are arguments, so one compiled step serves all cells of a batch size. There
is one for each length that rows are padded to.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from latemask.data.tokenizers import specials as specials_lib
from latemask.finetune import batches as batches_lib
from latemask.masking import masked as masked_lib
from latemask.model import architecture
from latemask.model import cut
from latemask.model import encoder as encoder_lib
from latemask.runtime import rng
from latemask.train import optimizer as optimizer_lib
from latemask.train import schedule as schedule_lib
from latemask.train import step as step_lib

_EVAL_BATCH = 64
# Streams of random numbers, folded into the key of the seed.
_HEAD, _ENCODER, _DROPOUT = range(3)


def _cross_entropy(logits_BxC, labels_B):
  return optax.softmax_cross_entropy_with_integer_labels(logits_BxC, labels_B)


def _squared_error(logits_Bx1, labels_B):
  return jnp.square(logits_Bx1[:, 0] - labels_B)


# By whether it is a regression.
_LOSSES = {False: _cross_entropy, True: _squared_error}


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
      head that are known}, see `cut.init_head`.
    specials: the `Specials` of the tokenizer.
    from_scratch: start from a fresh encoder of the same shapes.
    num_outputs: of the head; 1 is regression.
    optimizer: for learning rate 1.
  """

  model: architecture.ModelConfig
  params: dict
  specials: specials_lib.Specials
  from_scratch: bool
  num_outputs: int
  optimizer: optax.GradientTransformation

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
    params = jax.tree.map(jnp.copy, {"encoder": encoder, "head": cut.init_head(
        self.model, self.num_outputs, rng.stream(seed, _HEAD),
        self.params["head"])})
    return step_lib.TrainState(
        jnp.zeros((), jnp.int32), params, self.optimizer.init(params))

  @functools.cached_property
  def train_step(self):
    """Jitted (state, batch, learning_rate, seed) -> (state, mean loss).

    The state is donated. A batch is that of `batches.collate`.
    """
    return jax.jit(self._train_step, donate_argnums=0)

  @functools.cached_property
  def logits(self):
    """Jitted (params, rows) -> logits, [B, outputs], without dropout.

    Rows are those of `batches.pad`.
    """
    return jax.jit(self._logits)

  def _logits(self, params, rows, key_drop=None):
    ids_BxS, second_BxS = rows
    return cut.logits(self.model, params, ids_BxS, self.specials,
                      self.num_outputs, key_drop, second_BxS)

  def _train_step(self, state, batch, learning_rate, seed):
    rows, labels_B, weights_B = batch
    key_drop = jax.random.fold_in(
        rng.stream(seed, _DROPOUT, "hash"), state.step)

    def mean_loss(params):
      logits_BxC = self._logits(params, rows, key_drop)
      losses_B = _LOSSES[self.num_outputs == 1](logits_BxC, labels_B)
      return jnp.sum(losses_B * weights_B) / jnp.sum(weights_B)

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    updates, opt_state = self.optimizer.update(
        grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: learning_rate * u, updates)
    return step_lib.TrainState(
        state.step + 1, optax.apply_updates(state.params, updates),
        opt_state), loss

  def predict(self, params, encoded, lengths):
    """Returns the logits of all rows of a split, [R, outputs], in order."""
    # Every other length: a pass is short, and a program takes long to compile.
    lengths = lengths[::-2][::-1]
    batches = batches_lib.in_order(
        np.arange(len(encoded.ids)), encoded.lengths_R, _EVAL_BATCH)
    found = [self.logits(params, batches_lib.pad(
        encoded, rows, _EVAL_BATCH, lengths)) for rows in batches]
    logits_RxC = np.empty((len(encoded.ids), self.num_outputs), np.float32)
    for rows, logits_BxC in zip(batches, found):
      logits_RxC[rows] = np.asarray(logits_BxC)[:len(rows)]
    return logits_RxC
