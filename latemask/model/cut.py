"""What fine-tuning trains: the encoder that pre-training leaves, and a head.

The encoder is cut out of a pre-trained model as an ordinary one with
insertion_layer 0, so that everything downstream (fine-tuning, export) meets
one kind of model. The heads are those of the stock Hugging Face classes:
  roberta and its like  RobertaClassificationHead: dense, tanh, dense (in
                        BERT the first dense is called pooler)
  modern                ModernBertPredictionHead, then dense
Both read the state of bos (<s>, [CLS]).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from latemask import errors
from latemask.masking import masked as masked_lib
from latemask.model import architecture
from latemask.model import encoder as encoder_lib
from latemask.model import parts as parts_lib
from latemask.model import products
from latemask.model import tied_embedding

# What pre-training alone needs.
_NOT_ENCODER = ("mask_vector", "head", "output_bias", "decoder_norm", "early")


def cut(config, params, keep_layers=None):
  """Cuts the encoder out of a pre-trained model.

  Args:
    config: its `ModelConfig`.
    params: its parameters.
    keep_layers: how many layers stay; None for those that never meet a mask
      (all where masks stand at the input).

  Returns:
    (ModelConfig with insertion_layer 0, parameters of the encoder alone).

  Raises:
    InputError: there are not so many layers, or the late ones read the
      encoder by cross-attention, which no encoder does.
  """
  keep = keep_layers or config.insertion_layer or config.layers
  if not 1 <= keep <= config.layers:
    raise errors.InputError(
        f"keep_layers is {keep}; the model has {config.layers} layers")
  if keep > config.insertion_layer and config.decoder == "cross":
    raise errors.InputError(
        f"keep_layers is {keep}; late layers with cross-attention (those "
        f"after {config.insertion_layer}) cannot be kept in an encoder")
  encoder_config = dataclasses.replace(
      config, layers=keep, insertion_layer=0, decoder="self",
      # Nothing is inserted: the tokens stand in order.
      insertion="scatter" if any(config.local_layers) else config.insertion)
  for layer, kinds in enumerate(zip(config.local_layers,
                                    encoder_config.local_layers)):
    if kinds[0] != kinds[1]:
      raise errors.InputError(
          f"keep_layers is {keep}; layer {layer} is late and global where an "
          "encoder with model.global_every "
          f"{config.global_every} has a local one; keep at most {layer}")
  stacks = [params[name]["layers"] for name in ("early", "late")
            if name in params]
  if config.decoder == "cross":
    stacks = stacks[:1]
  encoder = {k: v for k, v in params.items() if k not in _NOT_ENCODER}
  encoder["late"] = {"layers": jax.tree.map(
      lambda *parts: jnp.concatenate(parts)[:keep], *stacks)}
  return encoder_config, encoder


def encode(config, encoder, ids_BxS, specials, key_drop=None,
           target_BxT=None, second_BxS=None):
  """Returns the final hidden states, [B, S, D], or those of targets alone.

  Args:
    config, encoder: of `cut`.
    ids_BxS: rows that begin with bos; pad at the end.
    specials: the `Specials` of the tokenizer.
    key_drop: for dropout while training; None for none.
    target_BxT: the tokens that are wanted; None for all.
    second_BxS: bool, the tokens of the second text of a pair; None for none.
      Architectures without types make no difference between the two.
  """
  looked_up_BxSxD = None
  if second_BxS is not None and config.layer.architecture.types:
    looked_up_BxSxD = tied_embedding.look_up(
        encoder["embedding"], ids_BxS) + jnp.where(
            second_BxS[..., None], encoder["second_text"][None, None], 0)
  # Flax wants these of a model, whether or not they are read.
  unread = {"mask_vector": jnp.zeros(config.width),
            "output_bias": jnp.zeros(config.padded_vocab_size)}
  rngs = {} if key_drop is None else {"dropout": key_drop}
  return encoder_lib.LateMaskModel(config).apply(
      {"params": encoder | unread}, masked_lib.unmasked(ids_BxS, specials),
      key_drop is not None, target_BxT, looked_up_BxSxD, rngs=rngs,
      method="encode")


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
          products.matmul(first_BxD, kernel_DxD.astype(first_BxD.dtype))
          + bias_D.astype(first_BxD.dtype)[None])
    kernel_DxC = self.param("out_kernel", init, (c.width, self.num_labels))
    bias_C = self.param(
        "out_bias", nn.initializers.zeros_init(), (self.num_labels,))
    return products.matmul(
        dropout(inside_BxD, train).astype(jnp.float32), kernel_DxC
    ) + bias_C[None]


def init_head(config, num_labels, key, known=None):
  """Returns parameters of the head: those known where they fit, or fresh.

  Args:
    known: {name: parameters} of any; an output layer may be one of other
      labels, and is fresh then. Stock does the same with a folder that has
      them (`ignore_mismatched_sizes`).
  """
  head = ClassificationHead(config, num_labels).init(
      key, jnp.zeros((1, config.width)))["params"]
  for name, part in (known or {}).items():
    if jax.tree.map(jnp.shape, part) == jax.tree.map(jnp.shape, head[name]):
      head[name] = jax.tree.map(jnp.asarray, part)
  return head


def logits(config, params, ids_BxS, specials, num_labels, key_drop=None,
           second_BxS=None):
  """Returns float32 logits, [B, labels].

  Args:
    params: {"encoder": of `cut`, "head": of `init_head`}.
    ids_BxS, specials, key_drop, second_BxS: as for `encode`.
  """
  keys = (None, None) if key_drop is None else jax.random.split(key_drop)
  # The last layer computes the state of bos alone: the head reads no other.
  first_Bx1 = jnp.zeros((len(ids_BxS), 1), jnp.int32)
  hidden_Bx1xD = encode(
      config, params["encoder"], ids_BxS, specials, keys[0], first_Bx1,
      second_BxS)
  rngs = {} if key_drop is None else {"dropout": keys[1]}
  return ClassificationHead(config, num_labels).apply(
      {"params": params["head"]}, hidden_Bx1xD[:, 0], key_drop is not None,
      rngs=rngs)
