"""The table of adapters: which parameters are trained, which stand still.

An encoder stands still as far as its adapter says; what is trained besides it
and the head are the parameters of the adapter, from which the whole encoder
follows. A new way is a row.
"""

import dataclasses
import re
from typing import Callable

import flax.traverse_util
import jax

from latemask import errors
from latemask.finetune.adapters import lora


@dataclasses.dataclass(frozen=True)
class Adapter:
  """A row of `ADAPTERS`.

  Fields:
    begin: (config.adapter, ModelConfig, encoder, key) -> its parameters before
      the first step, with which the encoder is what it was.
    whole: (config.adapter, ModelConfig, encoder, its parameters, key of
      dropout or None) -> the encoder that these make.
    stores_all: its parameters are a whole encoder.
  """

  begin: Callable
  whole: Callable
  stores_all: bool = False


def _biases(settings, config, encoder, key):
  """The biases of dense layers and norms. Source: arXiv 2106.10199."""
  del settings, key
  flat = flax.traverse_util.flatten_dict(encoder, sep="/")
  found = {path: leaf for path, leaf in flat.items()
           if re.search("bias$", path)}
  if not found:
    raise errors.InputError(
        f"adapter.name is bitfit, and {config.architecture} has no biases; "
        "lora, head or none can be trained")
  return flax.traverse_util.unflatten_dict(found, sep="/")


def _with(settings, config, encoder, params, key_drop):
  """Returns an encoder with some of its leaves replaced."""
  del settings, config, key_drop
  return flax.traverse_util.unflatten_dict(
      flax.traverse_util.flatten_dict(encoder)
      | flax.traverse_util.flatten_dict(params))


ADAPTERS = {
    "none": Adapter(
        lambda settings, config, encoder, key: encoder, _with,
        stores_all=True),
    "head": Adapter(lambda settings, config, encoder, key: {}, _with),
    "bitfit": Adapter(_biases, _with),
    "lora": Adapter(lora.begin, lora.whole),
}


def stores_all(config):
  """Whether the whole encoder is trained."""
  return ADAPTERS[config.adapter.name].stores_all


def check(config):
  """Checks `config.adapter` with the keys beside it.

  Raises:
    InputError: an adapter of an encoder that was never trained.
  """
  if config.from_scratch and not stores_all(config):
    raise errors.InputError(
        f"adapter.name is {config.adapter.name}, and from_scratch is True: an "
        "encoder that stands still must have been trained")


def num_params(params):
  """Returns how many numbers a tree of parameters holds."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
