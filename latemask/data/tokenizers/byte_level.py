"""Trains a byte-level BPE (data.tokenizer_kind bpe), as RoBERTa's."""

import tokenizers as library

from latemask.data.tokenizers import huggingface
from latemask.data.tokenizers import specials
from latemask.data.tokenizers import tokenizer as tokenizer_lib


def train(documents, vocab_size):
  """Returns a `huggingface.Tokenizer`, with the five special tokens first.

  A word at the beginning of a text is the same as one behind a space.

  Args:
    documents: strings.
    vocab_size: ids wanted, specials and 256 bytes included. A small corpus
      may give fewer.

  Raises:
    InputError: `vocab_size` is too small, or what `documents` itself raises.
  """
  tokenizer_lib.check_vocab_size(vocab_size)
  found = library.Tokenizer(library.models.BPE())
  found.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
  found.decoder = library.decoders.ByteLevel()
  names = specials.NAMES
  found.train_from_iterator(documents, library.trainers.BpeTrainer(
      vocab_size=vocab_size, show_progress=False, special_tokens=[
          library.AddedToken(name, normalized=False, special=True,
                             lstrip=name == "<mask>") for name in names],
      initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet()))
  found.post_processor = library.processors.RobertaProcessing(
      (names[specials.TRAINED.eos], specials.TRAINED.eos),
      (names[specials.TRAINED.bos], specials.TRAINED.bos),
      add_prefix_space=True)
  return huggingface.of_files(
      {"tokenizer.json": found.to_str(pretty=True).encode()})
