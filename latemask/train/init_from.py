"""A run that begins with the parameters of another model (train.init_from)."""

import flax.traverse_util
import jax
import numpy as np

from latemask.data.tokenizers import added
from latemask import errors
from latemask.model import word_embedding
from latemask.runtime import distributed


# Fields of `ModelConfig` that must be the same for a run to begin with
# the parameters of another: they say which function the parameters are of.
# Each with the condition under which it does.
_COMPARED = {
    "architecture": lambda config: True,
    "width": lambda config: True,
    "heads": lambda config: True,
    "mlp": lambda config: True,
    "norm_eps": lambda config: True,
    "rotary_theta": lambda config: config.layer.architecture.rotary,
    "global_every": lambda config: True,
    "local_window": lambda config: any(config.local_layers),
    "local_rotary_theta": lambda config: any(config.local_layers),
}


def check(loaded, config, tokenizer):
  """Checks that a model can begin a run.

  Args:
    loaded: a `Pretrained`.
    config: the run's `ModelConfig`.
    tokenizer: the run's.

  Raises:
    InputError: it cannot; the message names the key.
  """
  for key, matters in _COMPARED.items():
    theirs, ours = getattr(loaded.config, key), getattr(config, key)
    if theirs != ours and matters(config):
      raise errors.InputError(
          f"model.{key} is {ours}; that of train.init_from is {theirs}")
  if config.max_length > loaded.config.max_length and (
      "positions" in loaded.params):
    raise errors.InputError(
        f"model.max_length is {config.max_length}; train.init_from has "
        f"{loaded.config.max_length} positions")
  if config.tied_output and word_embedding.OUTPUT in loaded.params:
    raise errors.InputError(
        "model.tied_output is True; train.init_from has an output embedding "
        "of its own")
  available = _num_layers(loaded.params, _plain_stacks(loaded.config))
  wanted = config.layers if config.decoder == "self" else (
      config.insertion_layer)
  if available > wanted:
    raise errors.InputError(
        f"train.init_from has {available} layers, more than the {wanted} "
        "that the run has for them")
  if loaded.config.decoder == config.decoder == "cross":
    late, ours = (c.layers - c.insertion_layer for c in (loaded.config, config))
    if late > ours:
      raise errors.InputError(
          f"train.init_from has {late} late layers, more than the {ours} that "
          "the run has for them")
  if added.new_ids(tokenizer, loaded.tokenizer) is None:
    raise errors.InputError(
        "the run's tokenizer is not that of train.init_from; leave "
        "data.tokenizer out to take that")


def begin(loaded, config, tokenizer, fresh, late):
  """Puts a model's parameters in the place of fresh ones; says which stay.

  Layers fill up from the first one.

  Args:
    loaded: a `Pretrained`.
    config: the run's `ModelConfig`.
    tokenizer: the run's.
    fresh: the run's parameters as initialised.
    late: how late layers begin that the model does not have
      (`train.init_late`, a row of `_INIT_LATE`).

  Returns:
    Parameters, laid out as `fresh`.

  Raises:
    InputError: see `check`.
  """
  check(loaded, config, tokenizer)
  theirs = flax.traverse_util.flatten_dict(loaded.params, sep="/")
  ours = flax.traverse_util.flatten_dict(fresh, sep="/")
  # What was tied so far begins alike.
  theirs.setdefault(word_embedding.OUTPUT, theirs[word_embedding.INPUT])
  same_late = loaded.config.decoder == config.decoder == "cross"
  stays, copied = [], 0
  for name, old in ours.items():
    stack, _, inside = name.partition("/layers/")
    if inside and not (same_late and stack == "late"):
      if stack == "late" and config.decoder == "cross":
        stays.append(name)
        continue
      first = config.insertion_layer if stack == "late" else 0
      layers = _layers(theirs, loaded.config, inside)
      new = layers[first:first + len(old)]
      if stack == "late":
        there = len(new)
        new = _INIT_LATE[late](layers, new, len(old) - there)
        copied = len(new) - there
    elif name not in theirs:
      stays.append(name)
      continue
    else:
      new = theirs[name][:len(old)]
    if len(new) < len(old):
      stays.append(f"{name}[{len(new)}:]")
    if len(new):
      ours[name] = jax.device_put(
          old.at[:len(new)].set(new), old.sharding)
  new = added.new_ids(tokenizer, loaded.tokenizer)
  if new:
    pieces = [added.replaced_pieces(tokenizer, index, loaded.tokenizer)
              for index in new]
    for name in {"embedding", "output_embedding", "output_bias"} & set(
        theirs) & set(ours):
      ours[name] = jax.device_put(ours[name].at[np.array(new)].set(np.stack(
          [theirs[name][ids].mean(0) for ids in pieces])), ours[name].sharding)
  distributed.say(
      f"parameters of {loaded.path}"
      + f", its last layers once more as the last {copied}" * bool(copied)
      + f"; {len(new)} tokens more, each the mean of what it replaces"
      * bool(new)
      + f"; as initialised: {', '.join(stays) or 'none'}"
      + _told_of_reach(loaded.config, config)
      + "; not read: its late layers, which have cross-attention" * (
          loaded.config.decoder == "cross" and not same_late)
      + f"; not read: {', '.join(loaded.unread)}" * bool(loaded.unread))
  return flax.traverse_util.unflatten_dict(ours, sep="/")


def _told_of_reach(theirs, ours):
  """Returns what to say of layers that were local, and are global; or ""."""
  other = [str(i) for i, (before, now) in enumerate(zip(
      theirs.local_layers, ours.local_layers)) if before and not now]
  return f"; layers that were local, and are not: {', '.join(other)}" * bool(
      other)


def _copies(layers, new, lacking):
  """Adds copies of the last layers there are, in their order."""
  return np.concatenate(
      [new, layers[np.arange(-lacking, 0) % len(layers)]])


_INIT_LATE = {"copy": _copies, "fresh": lambda layers, new, lacking: new}


def _plain_stacks(config):
  """Returns the stacks whose layers are plain ones of an encoder."""
  return ("early",) if config.decoder == "cross" else ("early", "late")


def _num_layers(params, stacks):
  return sum(len(params[stack]["layers"]["mlp_norm"]["scale"])
             for stack in stacks if stack in params)


def _layers(theirs, config, inside):
  """Returns one parameter of all layers that are plain encoder layers."""
  return np.concatenate([theirs[f"{stack}/layers/{inside}"]
                         for stack in _plain_stacks(config)
                         if f"{stack}/layers/{inside}" in theirs])
