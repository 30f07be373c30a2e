"""The losses of fine-tuning, a row of `LOSSES` for each kind of task.

(logits of a batch, their targets, is_pad_BxS, weights_B, class weights, [C] or
None) -> (sum, weight), whose quotient is the loss of the stock class. But for
spans: there padding cannot be where an answer begins or ends; stock lets it.
"""

import jax.numpy as jnp
import optax

from latemask.finetune.tasks import kinds


def _weighted(losses, weights):
  return jnp.sum(losses * weights), jnp.sum(weights)


def _classes(logits_BxC, targets_B, is_pad_BxS, weights_B, class_weights_C):
  del is_pad_BxS
  losses_B = optax.softmax_cross_entropy_with_integer_labels(
      logits_BxC, targets_B)
  if class_weights_C is not None:
    weights_B = weights_B * class_weights_C[targets_B]
  return _weighted(losses_B, weights_B)


def _multilabel(
    logits_BxC, targets_BxC, is_pad_BxS, weights_B, class_weights_C):
  del is_pad_BxS
  losses_BxC = optax.sigmoid_binary_cross_entropy(logits_BxC, targets_BxC)
  if class_weights_C is not None:  # Of the rows that have the label.
    losses_BxC *= jnp.where(targets_BxC > 0, class_weights_C[None], 1.0)
  return _weighted(jnp.mean(losses_BxC, axis=-1), weights_B)


def _number(logits_Bx1, targets_B, is_pad_BxS, weights_B, class_weights_C):
  del is_pad_BxS, class_weights_C
  return _weighted(jnp.square(logits_Bx1[:, 0] - targets_B), weights_B)


def _tokens(logits_BxSxC, targets_BxS, is_pad_BxS, weights_B, class_weights_C):
  is_asked_BxS = targets_BxS != kinds.NO_TARGET
  return _classes(
      logits_BxSxC, jnp.where(is_asked_BxS, targets_BxS, 0), is_pad_BxS,
      weights_B[:, None] * is_asked_BxS, class_weights_C)


def _span(logits_BxSx2, targets_Bx2, is_pad_BxS, weights_B, class_weights_C):
  del class_weights_C
  # Finite, as a row that fills a batch up is padding only.
  logits_Bx2xS = jnp.where(
      is_pad_BxS[:, None], -1e30, jnp.swapaxes(logits_BxSx2, 1, 2))
  losses_Bx2 = optax.softmax_cross_entropy_with_integer_labels(
      logits_Bx2xS, targets_Bx2)
  return _weighted(jnp.mean(losses_Bx2, axis=1), weights_B)


LOSSES = {"classes": _classes, "multilabel": _multilabel, "number": _number,
          "tokens": _tokens, "span": _span}
