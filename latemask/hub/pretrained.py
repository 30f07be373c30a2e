"""A pre-trained model from wherever it lies, and as a run's beginning.

`load(path)` takes a run's workdir (its newest checkpoint), one checkpoint of
it (WORKDIR/checkpoints/STEP), or a Hugging Face folder (see hf.py).
"""

import dataclasses

from etils import epath
import flax.traverse_util
import jax
import numpy as np

from latemask.checkpoint import checkpoints
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.model import architecture


# Fields of `model.ModelConfig` that must be the same for a run to begin with
# the parameters of another: they say which function the parameters are of.
# Each with the condition under which it does.
_COMPARED = {
    "architecture": lambda config: True,
    "width": lambda config: True,
    "heads": lambda config: True,
    "mlp": lambda config: True,
    "norm_eps": lambda config: True,
    "rotary_theta": lambda config: config.layer.architecture.rotary,
}
# The others may differ: sizes that `check` looks at by themselves, the place
# of the masks and the decoder, which a run may choose anew, what dropout and
# the way of computing are concerned with.
FREE_FIELDS = (
    "layers", "vocab_size", "max_length", "insertion_layer", "insertion",
    "decoder", "decoder_queries", "dropout", "attention_dropout", "dtype",
    "unroll", "remat", "loss_chunk")


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """What was learned, and what it takes to use it.

  Fields:
    path: where it was found.
    config: its `model.ModelConfig`.
    params: its parameters, numpy arrays.
    tokenizer: a `tokenizer.Tokenizer`.
    masking: `config.masking` of the run, {key: value}; None where no one knows.
    trained_length: tokens of the longest rows that it was trained on; what it
      does beyond says `beyond`.
  """

  path: str
  config: architecture.ModelConfig
  params: dict
  tokenizer: tokenizer_lib.Tokenizer
  masking: dict | None
  trained_length: int


def load(path):
  """Loads a pre-trained model.

  Raises:
    InputError: `path` is none of the three, or is damaged.
  """
  path = epath.Path(path)
  if (path / "checkpoints").is_dir():
    steps = checkpoints.steps(path)
    if not steps:
      raise errors.InputError(f"{path} is a run without a checkpoint so far")
    return _load_checkpoint(path / "checkpoints" / str(max(steps)))
  if (path / "run").is_dir() and (path / "state").is_dir():
    return _load_checkpoint(path)
  if hub_folder.is_folder(path):
    return Pretrained(str(path), *hub_folder.load(path))
  raise errors.InputError(
      f"{path} is no run (a folder with checkpoints/), no checkpoint of one "
      "and no Hugging Face folder (one with config.json)")


def _load_checkpoint(path):
  config, proto, params, trained_length = checkpoints.read(path)
  tokenizer = tokenizer_lib.Tokenizer(proto)
  fields = config["model"] | {
      "vocab_size": config["model"]["vocab_size"] or tokenizer.vocab_size}
  return Pretrained(
      str(path), architecture.config_of(fields, path), params, tokenizer,
      config["masking"], trained_length)


def beyond(params, trained_length, length):
  """Returns what rows mean that are longer than those of training.

  Args:
    params: the model's, or its encoder's.
  """
  what = ("positions behind that are as they were initialised"
          if "positions" in params else
          "distances beyond that were never met in training")
  return (f"rows of up to {length} tokens, and the model was trained on rows "
          f"of at most {trained_length}: {what}")


def trained_length(beginning, config):
  """Returns that of a run of `config` which begins with a `Pretrained`."""
  return max(config.data.length, min(
      beginning.trained_length, config.model.max_length))


def tokenizer_of_rows(config):
  """Returns the tokenizer that a config asks for; None to train one."""
  if config.data.tokenizer:
    return tokenizer_lib.load(config.data.tokenizer)
  if config.train.init_from:
    return load(config.train.init_from).tokenizer
  return None


def check(loaded, config, tokenizer):
  """Checks that a model can begin a run.

  Args:
    loaded: a `Pretrained`.
    config: the run's `model.ModelConfig`.
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
  available = _num_layers(loaded.params)
  wanted = config.layers if config.decoder == "self" else (
      config.insertion_layer)
  if loaded.config.decoder == "self" and available > wanted:
    raise errors.InputError(
        f"train.init_from has {available} layers, more than the {wanted} "
        "that the run has for them")
  if tokenizer.proto != loaded.tokenizer.proto:
    raise errors.InputError(
        "the run's tokenizer is not that of train.init_from; leave "
        "data.tokenizer out to take that")


def begin(loaded, config, tokenizer, fresh):
  """Puts a model's parameters in the place of fresh ones; says which stay.

  Layers fill up from the first one.

  Args:
    loaded: a `Pretrained`.
    config: the run's `model.ModelConfig`.
    tokenizer: the run's.
    fresh: the run's parameters as initialised.

  Returns:
    Parameters, laid out as `fresh`.

  Raises:
    InputError: see `check`.
  """
  check(loaded, config, tokenizer)
  theirs = flax.traverse_util.flatten_dict(loaded.params, sep="/")
  ours = flax.traverse_util.flatten_dict(fresh, sep="/")
  same_late = loaded.config.decoder == config.decoder == "cross"
  stays = []
  for name, old in ours.items():
    stack, _, inside = name.partition("/layers/")
    if inside and not (same_late and stack == "late"):
      if stack == "late" and config.decoder == "cross":
        stays.append(name)
        continue
      first = config.insertion_layer if stack == "late" else 0
      new = _layers(theirs, loaded.config, inside)[first:first + len(old)]
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
  print(f"parameters of {loaded.path}; as initialised: "
        f"{', '.join(stays) or 'none'}", flush=True)
  return flax.traverse_util.unflatten_dict(ours, sep="/")


def _num_layers(params):
  return sum(len(params[stack]["layers"]["mlp_norm"]["scale"])
             for stack in ("early", "late") if stack in params)


def _layers(theirs, config, inside):
  """Returns one parameter of all layers that are plain encoder layers."""
  stacks = ("early",) if config.decoder == "cross" else ("early", "late")
  return np.concatenate([theirs[f"{stack}/layers/{inside}"]
                         for stack in stacks
                         if f"{stack}/layers/{inside}" in theirs])
