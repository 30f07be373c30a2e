"""The kinds of tokenizers: which of them lies somewhere, and which to train.

`load` takes what a user names, `saved` and `save` a folder of packed rows,
`of_record` and `record` what a checkpoint says.
"""

import base64
import json

from etils import epath

from latemask.data.tokenizers import converted
from latemask.data.tokenizers import huggingface
from latemask.data.tokenizers import sentencepiece
from latemask.data.tokenizers import sentencepiece_json
from latemask import errors
from latemask.runtime import files as files_lib

# data.tokenizer_kind -> what trains it.
TRAINED = {"unigram": sentencepiece.train, "bpe": huggingface.train}
# In a folder of packed rows: a tokenizer of several files, as one.
_FILES = "tokenizer_files.json"


def load(path, called="data.tokenizer: "):
  """Reads a SentencePiece model, a tokenizer.json or a Hugging Face folder.

  A folder that was exported here gives the SentencePiece model back that it
  was made of. A model that stock cannot have as it is becomes one that it can,
  see converted.py.

  Args:
    called: what a message begins with.

  Raises:
    InputError: it is none of these, or cannot be used; see the kinds.
  """
  path = epath.Path(path)
  if path.is_dir():
    model = path / sentencepiece.FILE
    if model.is_file() and ((path / "latemask.json").is_file()
                            or not huggingface.is_there(path)):
      return _load_model(model, called)
    if huggingface.is_there(path):
      return huggingface.load(path, called)
    raise errors.InputError(
        f"{called}{path} holds no tokenizer that can be read: "
        "tokenizer.json, vocab.json and merges.txt, vocab.txt, or "
        f"{sentencepiece.FILE}")
  return (huggingface.load if path.suffix == ".json" else _load_model)(
      path, called)


def _load_model(path, called):
  found = sentencepiece.load(path, called)
  if found.is_ours and sentencepiece_json.is_same(found):
    return found
  try:
    return converted.convert(found.proto)
  except errors.InputError as error:
    raise errors.InputError(f"{called}{path}: {error}") from error


def train(kind, documents, vocab_size):
  """Trains a tokenizer.

  Args:
    kind: a row of `TRAINED`.
    documents, vocab_size: see there.
  """
  return TRAINED[kind](documents, vocab_size)


def saved(directory):
  """Returns the tokenizer of packed rows, None where none is.

  Raises:
    InputError: it is damaged.
  """
  directory = epath.Path(directory)
  if (directory / sentencepiece.FILE).exists():
    return sentencepiece.load(directory / sentencepiece.FILE, "")
  path = directory / _FILES
  if not path.exists():
    return None
  try:
    return of_record(json.loads(path.read_text()))
  except (AttributeError, TypeError, ValueError) as error:
    raise errors.InputError(
        f"{path} is damaged; restore it or delete the folder") from error


def save(tokenizer, directory):
  """Writes a tokenizer to a folder of packed rows, whole or not at all."""
  directory = epath.Path(directory)
  if list(tokenizer.files) == [sentencepiece.FILE]:
    with files_lib.writing(directory / sentencepiece.FILE) as part:
      part.write_bytes(tokenizer.files[sentencepiece.FILE])
  else:
    files_lib.write_json(directory / _FILES, record(tokenizer))


def record(tokenizer):
  """Returns a tokenizer as JSON has it."""
  files = {name: base64.b64encode(content).decode()
           for name, content in tokenizer.files.items()}
  # As before there were several kinds.
  return files.get(sentencepiece.FILE, files)


def of_record(found):
  """Returns the tokenizer of `record`."""
  if isinstance(found, str):
    return sentencepiece.Tokenizer(base64.b64decode(found))
  return huggingface.Tokenizer(tuple(sorted(
      (name, base64.b64decode(content)) for name, content in found.items())))
