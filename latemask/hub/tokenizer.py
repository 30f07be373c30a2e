"""A tokenizer as the files that stock transformers reads."""

import json

from latemask.config import keys
from latemask.data.tokenizers import huggingface
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


def files(tokenizer, trained_length, max_length=None):
  """Returns {name: bytes}: the tokenizer's own files, and what stock needs.

  Args:
    trained_length, max_length: see `cuts_to`.

  Raises:
    InputError: see `check`.
  """
  # Not the stock class of every model reads a vocabulary alone.
  described = (sentencepiece_json.tokenizer_json(tokenizer)
               if isinstance(tokenizer, sentencepiece.Tokenizer)
               else tokenizer.described)
  found = {"tokenizer.json": huggingface.as_json(described)} | tokenizer.files
  if max_length or not _own_settings(tokenizer):
    found[huggingface.SETTINGS] = huggingface.as_json(
        _settings(tokenizer, trained_length, max_length))
  return found


def cuts_to(tokenizer, trained_length, max_length=None):
  """Returns the tokens that stock cuts texts to; None: it cuts none.

  Args:
    trained_length: taken where the tokenizer has no settings of its own.
    max_length: what is asked for; None: what the tokenizer's settings say.
  """
  length = _settings(tokenizer, trained_length, max_length).get(
      "model_max_length")
  # Where no one has said it, stock writes 1e30.
  return length if length and length <= keys.MOST_TOKENS else None


def _settings(tokenizer, trained_length, max_length):
  """Returns the content of tokenizer_config.json, as a dict."""
  own = _own_settings(tokenizer)
  if not own:
    return tokenizer_config(tokenizer, max_length or trained_length)
  asked = {"model_max_length": max_length} if max_length else {}
  return own | asked


def _own_settings(tokenizer):
  """Returns what its own tokenizer_config.json says; {}: nothing."""
  return json.loads(tokenizer.files.get(huggingface.SETTINGS, b"{}"))


def tokenizer_config(tokenizer, max_length):
  """Returns what tokenizer_config.json says of a tokenizer without one."""
  return huggingface.stock_settings(tokenizer.names) | {
      "model_max_length": max_length}
