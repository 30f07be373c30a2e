"""The heads of fine-tuned encoders: states of tokens -> numbers.

Those of the stock Hugging Face classes, a row of `HEADS` each:
  text    ...ForSequenceClassification: roberta and its like have dense, tanh,
          dense (in BERT the first dense is called pooler), modern has
          ModernBertPredictionHead, then dense; both read the state of bos (<s>,
          [CLS])
  tokens  ...ForTokenClassification: dropout, dense on every token; in modern
          behind its prediction head
  span    ...ForQuestionAnswering: the same, without dropout but in modern
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from latemask.model import architecture
from latemask.model import encoder as encoder_lib
from latemask.model import parts as parts_lib
from latemask.model import products


class ClassificationHead(nn.Module):
  """From the state of bos to a number per label."""

  config: architecture.ModelConfig
  num_labels: int

  @nn.compact
  def __call__(self, first_BxD, train=False):
    """Returns logits, float32 [B, labels]."""
    c = self.config
    dropout = parts_lib.Dropout(c.dropout)
    init = parts_lib.kernel_init(c.width)
    first_BxD = dropout(
        first_BxD, train and c.layer.architecture.first_dropout)
    if c.layer.architecture.rotary:
      inside_BxD = encoder_lib.Head(c, name="head")(first_BxD[:, None])[:, 0]
    else:
      kernel_DxD = self.param("dense_kernel", init, (c.width, c.width))
      bias_D = self.param(
          "dense_bias", nn.initializers.zeros_init(), (c.width,))
      inside_BxD = jnp.tanh(
          products.dense(first_BxD, kernel_DxD.astype(first_BxD.dtype))
          + bias_D.astype(first_BxD.dtype)[None])
    return _out(self, dropout(inside_BxD, train))


class TokenHead(nn.Module):
  """From the state of each token to a number per label.

  Fields:
    drops_states: dropout of states that come from no prediction head, too.
  """

  config: architecture.ModelConfig
  num_labels: int
  drops_states: bool = True

  @nn.compact
  def __call__(self, hidden_BxSxD, train=False):
    """Returns logits, float32 [B, S, labels]."""
    c = self.config
    has_head = c.layer.architecture.rotary
    if has_head:
      hidden_BxSxD = encoder_lib.Head(c, name="head")(hidden_BxSxD)
    drops = train and (has_head or self.drops_states)
    return _out(self, parts_lib.Dropout(c.dropout)(hidden_BxSxD, drops))


# What a head reads and says -> what makes it of (ModelConfig, labels).
HEADS = {"text": ClassificationHead, "tokens": TokenHead,
         "span": functools.partial(TokenHead, drops_states=False)}


def _out(head, hidden):
  """Returns hidden states as float32 logits."""
  c = head.config
  kernel_DxC = head.param(
      "out_kernel", parts_lib.kernel_init(c.width), (c.width, head.num_labels))
  bias_C = head.param(
      "out_bias", nn.initializers.zeros_init(), (head.num_labels,))
  return products.dense(hidden.astype(jnp.float32), kernel_DxC) + (
      bias_C.reshape((1,) * (hidden.ndim - 1) + (-1,)))


def init(config, num_labels, key, known=None, head="text"):
  """Returns parameters of a head: those known where they fit, or fresh.

  Args:
    known: {name: parameters} of any; an output layer may be one of other
      labels, and is fresh then. Stock does the same with a folder that has
      them (`ignore_mismatched_sizes`).
    head: a row of `HEADS`.
  """
  states = (1, config.width) if head == "text" else (1, 1, config.width)
  params = HEADS[head](config, num_labels).init(
      key, jnp.zeros(states))["params"]
  for name, part in (known or {}).items():
    if jax.tree.map(jnp.shape, part) == jax.tree.map(
        jnp.shape, params.get(name)):
      params[name] = jax.tree.map(jnp.asarray, part)
  return params
