"""A pre-trained model from wherever it lies, and as a run's beginning.

`load(path)` takes a run's workdir (its newest checkpoint), one checkpoint of
it (WORKDIR/checkpoints/STEP), or a Hugging Face folder (see folder.py).
"""

import dataclasses

from etils import epath

from latemask.checkpoint import record as record_lib
from latemask.data.tokenizers import kinds as tokenizers_lib
from latemask.data.tokenizers import tokenizer as tokenizer_lib
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.model import architecture

# The others may differ: sizes that `check` looks at by themselves, the place
# of the masks and the decoder, which a run may choose anew, what dropout and
# the way of computing are concerned with.
FREE_FIELDS = (
    "layers", "vocab_size", "max_length", "insertion_layer", "insertion",
    "decoder", "decoder_queries", "dropout", "attention_dropout",
    "tied_output",
    *architecture.COMPUTING)


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """What was learned, and what it takes to use it.

  Fields:
    path: where it was found.
    config: its `ModelConfig`.
    params: its parameters, numpy arrays.
    tokenizer: a `tokenizer.Tokenizer`.
    masking: `config.masking` of the run, {key: value}; None where no one knows.
    trained_length: tokens of the longest rows that it was trained on; what it
      does beyond says `beyond`.
    steps: of its training; None where no one knows.
    rows: digest of the packed rows of its training, 64 hex digits; or None.
    unread: names of weights of a Hugging Face folder that are not among them.
  """

  path: str
  config: architecture.ModelConfig
  params: dict
  tokenizer: tokenizer_lib.Tokenizer
  masking: dict | None
  trained_length: int
  steps: int | None = None
  rows: str | None = None
  unread: tuple = ()


def load(path, add_mask=False, average=False):
  """Loads a pre-trained model.

  Args:
    path: see the module.
    add_mask: see `folder.load`.
    average: of a run or checkpoint, the average of the parameters.

  Raises:
    InputError: `path` is none of the three, is damaged, or has no average.
  """
  path = epath.Path(path)
  if (path / "checkpoints").is_dir():
    steps = record_lib.steps(path)
    if not steps:
      raise errors.InputError(f"{path} is a run without a checkpoint so far")
    return _load_checkpoint(path / "checkpoints" / str(max(steps)), average)
  if (path / "run").is_dir() and (path / "state").is_dir():
    return _load_checkpoint(path, average)
  if hub_folder.is_folder(path):
    if average:
      raise errors.InputError(
          f"{path} is a Hugging Face folder; only a run has an average")
    *found, about = hub_folder.load(path, add_mask)
    return Pretrained(str(path), *found, **about)
  raise errors.InputError(
      f"{path} is no run (a folder with checkpoints/), no checkpoint of one "
      "and no Hugging Face folder (one with config.json)")


def class_head(path, head="text"):
  """Returns what lies there of a head for a task.

  Args:
    head: a row of `heads.HEADS`.

  Returns:
    See `folder.load_class_head`; {} for a run or a checkpoint: pre-training
    has none.

  Raises:
    InputError: see `folder.load_class_head`.
  """
  if (epath.Path(path) / "checkpoints").is_dir() or not hub_folder.is_folder(
      path):
    return {}
  return hub_folder.load_class_head(path, head)


def _load_checkpoint(path, average):
  config, tokenizer, params, trained_length, *origin = record_lib.read(
      path, average)
  fields = config["model"] | {
      "vocab_size": architecture.vocab_rows(
          config["model"]["vocab_size"], tokenizer.vocab_size)}
  return Pretrained(
      str(path), architecture.config_of(fields, path), params, tokenizer,
      config["masking"], trained_length, *origin)


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
  wants_it = config.train.init_from and not config.data.tokenizer
  return tokenizers_lib.of_config(config, load(
      config.train.init_from, config.data.add_mask_token).tokenizer
                                  if wants_it else None)
