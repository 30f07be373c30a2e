"""A pre-trained model from wherever it lies: `load(path)`.

A run's workdir (its newest checkpoint), one checkpoint of it
(WORKDIR/checkpoints/STEP), or a Hugging Face folder (see hf.py).
"""

import dataclasses

from etils import epath

from latemask import checkpoint
from latemask import errors
from latemask import model as model_lib
from latemask.data import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """What was learned, and what it takes to use it.

  Fields:
    config: its `model.ModelConfig`.
    params: its parameters, numpy arrays.
    tokenizer: a `tokenizer.Tokenizer`.
  """

  config: model_lib.ModelConfig
  params: dict
  tokenizer: tokenizer_lib.Tokenizer


def load(path):
  """Loads a pre-trained model.

  Raises:
    InputError: `path` is none of the three, or is damaged.
  """
  path = epath.Path(path)
  if (path / "checkpoints").is_dir():
    steps = [int(child.name) for child in (path / "checkpoints").iterdir()
             if child.name.isdigit()]
    if not steps:
      raise errors.InputError(f"{path} is a run without a checkpoint so far")
    return _load_checkpoint(path / "checkpoints" / str(max(steps)))
  if (path / "run").is_dir() and (path / "state").is_dir():
    return _load_checkpoint(path)
  raise errors.InputError(
      f"{path} is no run (a folder with checkpoints/), no checkpoint of one "
      "and no Hugging Face folder (one with config.json)")


def _load_checkpoint(path):
  config, proto, params = checkpoint.read(path)
  tokenizer = tokenizer_lib.Tokenizer(proto)
  fields = config["model"] | {
      "vocab_size": config["model"]["vocab_size"] or tokenizer.vocab_size}
  return Pretrained(model_lib.ModelConfig(**fields), params, tokenizer)
