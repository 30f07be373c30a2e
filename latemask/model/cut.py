"""What fine-tuning trains: the encoder that pre-training leaves, and a head.

The encoder is cut out of a pre-trained model as an ordinary one with
insertion_layer 0, so that everything downstream (fine-tuning, export) meets
one kind of model. The heads stand in heads.py.
"""

import dataclasses

import jax
import jax.numpy as jnp

from latemask import errors
from latemask.masking import masked as masked_lib
from latemask.model import encoder as encoder_lib
from latemask.model import heads
from latemask.model import word_embedding

# What pre-training alone needs.
_NOT_ENCODER = ("mask_vector", "head", "output_bias", "output_embedding",
                "decoder_norm", "early")


def encoder_config(config, keep_layers=None):
  """Returns the `ModelConfig` of the encoder alone, with insertion_layer 0.

  Args:
    config: that of a pre-trained model.
    keep_layers: how many layers stay; None for those that never meet a mask
      (all where masks stand at the input).

  Raises:
    InputError: there are not so many layers, or the late ones read the
      encoder by cross-attention, which no encoder does.
  """
  keep = (config.insertion_layer or config.layers
          if keep_layers is None else keep_layers)
  if not 1 <= keep <= config.layers:
    raise errors.InputError(
        f"keep_layers is {keep}; the model has {config.layers} layers")
  if keep > config.insertion_layer and config.decoder == "cross":
    raise errors.InputError(
        f"keep_layers is {keep}; late layers with cross-attention (those "
        f"after {config.insertion_layer}) cannot be kept in an encoder")
  found = dataclasses.replace(
      config, layers=keep, insertion_layer=0, decoder="self", tied_output=True,
      # Nothing is inserted: the tokens stand in order.
      insertion="scatter" if any(config.local_layers) else config.insertion)
  for layer, kinds in enumerate(zip(config.local_layers, found.local_layers)):
    if kinds[0] != kinds[1]:
      raise errors.InputError(
          f"keep_layers is {keep}; layer {layer} is late and global where an "
          "encoder with model.global_every "
          f"{config.global_every} has a local one; keep at most {layer}")
  return found


def cut(config, params, keep_layers=None):
  """Cuts the encoder out of a pre-trained model.

  Args:
    config: its `ModelConfig`.
    params: its parameters.
    keep_layers: see `encoder_config`.

  Returns:
    (ModelConfig with insertion_layer 0, parameters of the encoder alone).

  Raises:
    InputError: see `encoder_config`.
  """
  found = encoder_config(config, keep_layers)
  stacks = [params[name]["layers"] for name in ("early", "late")
            if name in params]
  if config.decoder == "cross":
    stacks = stacks[:1]
  encoder = {k: v for k, v in params.items() if k not in _NOT_ENCODER}
  encoder["late"] = {"layers": jax.tree.map(
      lambda *parts: jnp.concatenate(parts)[:found.layers], *stacks)}
  return found, encoder


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
    looked_up_BxSxD = word_embedding.look_up(
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


def logits(config, params, ids_BxS, specials, num_labels, key_drop=None,
           second_BxS=None, head="text"):
  """Returns float32 logits, [B, labels]; [B, S, labels] of a head for tokens.

  Args:
    params: {"encoder": of `cut`, "head": of `heads.init`}.
    ids_BxS, specials, key_drop, second_BxS: as for `encode`.
    head: a row of `heads.HEADS`.
  """
  keys = (None, None) if key_drop is None else jax.random.split(key_drop)
  # The last layer computes the state of bos alone where the head reads no
  # other.
  first_Bx1 = (jnp.zeros((len(ids_BxS), 1), jnp.int32) if head == "text"
               else None)
  hidden = encode(
      config, params["encoder"], ids_BxS, specials, keys[0], first_Bx1,
      second_BxS)
  rngs = {} if key_drop is None else {"dropout": keys[1]}
  return heads.HEADS[head](config, num_labels).apply(
      {"params": params["head"]}, hidden[:, 0] if head == "text" else hidden,
      key_drop is not None, rngs=rngs)
