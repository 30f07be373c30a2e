"""The kinds of tokenizers: which of them lies somewhere, and which to train.

`load` takes what a user names, `saved` and `save` a folder of packed rows,
`of_record` and `record` what a checkpoint says.
"""

import base64
import json

from etils import epath

from latemask.data.tokenizers import added
from latemask.data.tokenizers import converted
from latemask.data.tokenizers import byte_level
from latemask.data.tokenizers import huggingface
from latemask.data.tokenizers import sentencepiece
from latemask.data.tokenizers import sentencepiece_json
from latemask import errors
from latemask.runtime import files as files_lib

# data.tokenizer_kind -> what trains it.
TRAINED = {"unigram": sentencepiece.train, "bpe": byte_level.train}
# In a folder of packed rows: a tokenizer of several files, as one.
_FILES = "tokenizer_files.json"


def of_config(config, given=None):
  """Returns the tokenizer that a config asks for; None to train one.

  Args:
    given: that of `train.init_from`, taken where `data.tokenizer` names none.

  Raises:
    InputError: see `load`; or words are to be added to one that is trained.
  """
  data = config.data
  found = (load(data.tokenizer, add_mask=data.add_mask_token)
           if data.tokenizer else given)
  if not data.add_tokens or found is None and config.train.init_from:
    return found  # Or a run goes on: its rows have it.
  words = added.read_words(data.add_tokens)
  if found is None:
    raise errors.InputError(
        "data.add_tokens adds words to a tokenizer that is there; name it in "
        "data.tokenizer, or a model in train.init_from")
  return added.with_words(_huggingface(found), words)


def _huggingface(tokenizer):
  """Returns a tokenizer as one of Hugging Face's library, with equal ids."""
  if isinstance(tokenizer, huggingface.Tokenizer):
    return tokenizer
  return huggingface.of_files({"tokenizer.json": huggingface.as_json(
      sentencepiece_json.tokenizer_json(tokenizer))})


def load(path, called="data.tokenizer: ", add_mask=False):
  """Reads a SentencePiece model, a tokenizer.json or a Hugging Face folder.

  A SentencePiece model that stock cannot have as it is becomes one that it
  can, see converted.py.

  Args:
    called: what a message begins with.
    add_mask: a vocabulary without a mask token gets one.

  Raises:
    InputError: it is none of these, or cannot be used; see the kinds.
  """
  path = epath.Path(path)
  change = added.with_mask if add_mask else lambda tokenizer: tokenizer
  if path.is_dir():
    return _load_folder(path, called, change)
  if path.suffix == ".json":
    return huggingface.load(path, called, change)
  found = sentencepiece.load(path, called)
  return found if _is_native(found) else _converted(found, path, called, change)


def _load_folder(path, called, change):
  """Takes the SentencePiece model where it is what stock has, else the rest."""
  model, found = path / sentencepiece.FILE, None
  if model.is_file():
    found = sentencepiece.load(model, called)
    beside = path / "tokenizer.json"
    # It has more where stock added words to an export of ours.
    if _is_native(found) and (not beside.is_file() or _is_made_of(
        huggingface.load(beside, called), found)):
      return found
  if huggingface.is_there(path):
    return _without_another_model(huggingface.load(path, called, change), found)
  if found is None:
    raise errors.InputError(
        f"{called}{path} holds no tokenizer that can be read: "
        "tokenizer.json, vocab.json and merges.txt, vocab.txt, or "
        f"{sentencepiece.FILE}")
  return _converted(found, model, called, change)


def _without_another_model(tokenizer, found):
  """Returns a tokenizer without a model beside it that it was not made of.

  Args:
    tokenizer: a `huggingface.Tokenizer`.
    found: the `sentencepiece.Tokenizer` that lies there; None: there is none.
  """
  if found is None or _is_made_of(tokenizer, found):
    return tokenizer
  return huggingface.of_files({name: content for name, content in
                               tokenizer.files.items()
                               if name != sentencepiece.FILE})


def _is_made_of(tokenizer, found):
  """Returns whether a tokenizer has the pieces of a model; or a mask besides.

  Its mask it may have got here.
  """
  tokens = tokenizer.library_tokens
  made = {piece: index for index, piece in enumerate(found.pieces)}
  return made.items() <= tokens.items() and (
      tokens.keys() - made.keys() <= {tokenizer.mask_token})


def _is_native(found):
  return found.is_ours and sentencepiece_json.is_same(found)


def _converted(found, path, called, change):
  try:
    return converted.convert(found.proto, change)
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
    found = of_record(json.loads(path.read_text("utf-8")))
    found.template  # Reads all of it.
  except Exception as error:  # The library raises nothing more special.
    raise errors.InputError(
        f"{path} is damaged; restore it or delete the folder") from error
  return found


def save(tokenizer, directory):
  """Writes a tokenizer to a folder of packed rows, whole or not at all."""
  directory = epath.Path(directory)
  if isinstance(tokenizer, sentencepiece.Tokenizer):
    with files_lib.writing(directory / sentencepiece.FILE) as part:
      part.write_bytes(tokenizer.files[sentencepiece.FILE])
  else:
    files_lib.write_json(directory / _FILES, record(tokenizer))


def delete(directory):
  """Deletes the tokenizer of a folder of which no row is packed."""
  for name in (sentencepiece.FILE, _FILES):
    (epath.Path(directory) / name).unlink(missing_ok=True)


def record(tokenizer):
  """Returns a tokenizer as JSON has it."""
  files = {name: base64.b64encode(content).decode()
           for name, content in tokenizer.files.items()}
  # As before there were several kinds.
  return (files[sentencepiece.FILE]
          if isinstance(tokenizer, sentencepiece.Tokenizer) else files)


def of_record(found):
  """Returns the tokenizer of `record`."""
  if isinstance(found, str):
    return sentencepiece.Tokenizer(base64.b64decode(found))
  return huggingface.of_files({
      name: base64.b64decode(content) for name, content in found.items()})
