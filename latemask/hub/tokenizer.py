"""A tokenizer as the files that stock transformers reads."""

import json

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
  if _is_one_model(tokenizer):
    sentencepiece_json.check(tokenizer)


def files(tokenizer, max_length):
  """Returns {name: bytes}: the tokenizer's own files, and what stock needs.

  Args:
    max_length: tokens that stock cuts texts to, where they do not say.

  Raises:
    InputError: see `check`.
  """
  settings = _json(tokenizer_config(tokenizer, max_length))
  if not _is_one_model(tokenizer):
    # Not the stock class of every model reads a vocabulary alone.
    return {huggingface.SETTINGS: settings,
            "tokenizer.json": _json(tokenizer.described)} | tokenizer.files
  return tokenizer.files | {
      "tokenizer.json": _json(sentencepiece_json.tokenizer_json(tokenizer)),
      huggingface.SETTINGS: settings}


def tokenizer_config(tokenizer, max_length):
  """Returns the content of tokenizer_config.json, as a dict."""
  return {"tokenizer_class": "PreTrainedTokenizerFast",
          "model_max_length": max_length,
          "clean_up_tokenization_spaces": False,
          **{key: name for role, name in tokenizer.names.items()
             for key in huggingface.KEYS[role]}}


def _is_one_model(tokenizer):
  return list(tokenizer.files) == [sentencepiece.FILE]


def _json(content):
  return json.dumps(content, indent=1, ensure_ascii=False).encode()
