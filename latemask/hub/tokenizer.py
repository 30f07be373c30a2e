"""A tokenizer as the files that stock transformers reads."""

import json

from latemask.config import keys
from latemask.data.tokenizers import huggingface
from latemask.data.tokenizers import published
from latemask.data.tokenizers import sentencepiece
from latemask.data.tokenizers import sentencepiece_json

# All that may be written.
FILES = huggingface.FILES


def check(tokenizer):
  """Checks that stock can have the same tokenizer.

  Raises:
    InputError: see `sentencepiece_json.check`.
  """
  if isinstance(tokenizer, sentencepiece.Tokenizer):
    sentencepiece_json.check(tokenizer)


def files(tokenizer, config, trained_length, max_length=None):
  """Returns {name: bytes}: the tokenizer's own files, and what stock needs.

  Args:
    config, trained_length, max_length: see `cuts_to`.

  Raises:
    InputError: see `check`.
  """
  # Not the stock class of every model reads a vocabulary alone.
  described = (sentencepiece_json.tokenizer_json(tokenizer)
               if isinstance(tokenizer, sentencepiece.Tokenizer)
               else tokenizer.described)
  found = {"tokenizer.json": huggingface.as_json(described)} | tokenizer.files
  settings = _settings(tokenizer, config, trained_length, max_length)
  if settings != _own_settings(tokenizer):
    found[huggingface.SETTINGS] = huggingface.as_json(settings)
  return found


def cuts_to(tokenizer, config, trained_length, max_length=None):
  """Returns the tokens that stock cuts texts to; None: it cuts none.

  Args:
    config: the model's `ModelConfig`.
    trained_length: taken where the tokenizer has no settings of its own.
    max_length: what is asked for; None: what the tokenizer's settings say.
  """
  length = _settings(tokenizer, config, trained_length, max_length).get(
      "model_max_length")
  # Where no one has said it, stock writes 1e30.
  return length if length and length <= keys.MOST_TOKENS else None


def _settings(tokenizer, config, trained_length, max_length):
  """Returns the content of tokenizer_config.json, as a dict.

  The tokenizer's own, but for what the model could not take, and for a class
  that would make another tokenizer of the file.
  """
  found = _own_settings(tokenizer) or tokenizer_config(
      tokenizer, trained_length)
  kind = config.layer.architecture
  if "tokenizer.json" in tokenizer.files and not published.is_rebuilt_alike(
      tokenizer.described, found):
    found = huggingface.stock_settings(tokenizer.names) | found | {
        "tokenizer_class": "PreTrainedTokenizerFast"}
  if max_length:
    found = found | {"model_max_length": max_length}
  elif not kind.rotary and config.max_length < (
      found.get("model_max_length") or 0) <= keys.MOST_TOKENS:
    found = found | {"model_max_length": config.max_length}
  # A second text of another type: what stock hands on must be what the model
  # was trained with.
  has_types = any(number for _, number in tokenizer.template.pair)
  if has_types and not (kind.types and _hands_on_types(found)):
    found = found | {"model_input_names": [
        "input_ids", *["token_type_ids"] * kind.types, "attention_mask"]}
  return found


def _hands_on_types(settings):
  """Returns whether stock hands types on by these settings."""
  names = settings.get("model_input_names")
  return "token_type_ids" in names if names else settings.get(
      "tokenizer_class", "").removesuffix("Fast") == "BertTokenizer"


def _own_settings(tokenizer):
  """Returns what its own tokenizer_config.json says; {}: nothing."""
  return json.loads(tokenizer.files.get(huggingface.SETTINGS, b"{}"))


def tokenizer_config(tokenizer, max_length):
  """Returns what tokenizer_config.json says of a tokenizer without one."""
  return huggingface.stock_settings(tokenizer.names) | {
      "model_max_length": max_length}
