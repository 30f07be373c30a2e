"""A tokenizer as the files that stock transformers reads."""

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


def files(tokenizer, max_length):
  """Returns {name: bytes}: the tokenizer's own files, and what stock needs.

  Args:
    max_length: tokens that stock cuts texts to, where they do not say.

  Raises:
    InputError: see `check`.
  """
  # Not the stock class of every model reads a vocabulary alone.
  described = (sentencepiece_json.tokenizer_json(tokenizer)
               if isinstance(tokenizer, sentencepiece.Tokenizer)
               else tokenizer.described)
  return {"tokenizer.json": huggingface.as_json(described),
          huggingface.SETTINGS: huggingface.as_json(
              tokenizer_config(tokenizer, max_length))} | tokenizer.files


def tokenizer_config(tokenizer, max_length):
  """Returns the content of tokenizer_config.json, as a dict."""
  return {"tokenizer_class": "PreTrainedTokenizerFast",
          "model_max_length": max_length,
          "clean_up_tokenization_spaces": False,
          **{key: name for role, name in tokenizer.names.items()
             for key in huggingface.KEYS[role]}}
