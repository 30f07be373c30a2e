"""Vocabularies as they were published before there was a tokenizer.json.

What each class of stock transformers makes of its files: the JSON of the
library's object. Source: BertTokenizer and RobertaTokenizer of transformers 5.
"""

import json

import tokenizers as library

from latemask.data.tokenizers import specials as specials_lib


def described(files, settings):
  """Returns the content of tokenizer.json, as a dict.

  Args:
    files: {name: bytes} of what tokenizes: tokenizer.json itself, vocab.txt, or
      vocab.json and merges.txt.
    settings: what the files beside it say.
  """
  if "tokenizer.json" in files:
    return json.loads(files["tokenizer.json"])
  return json.loads(
      wordpiece(files["vocab.txt"], settings) if "vocab.txt" in files else
      byte_level(json.loads(files["vocab.json"]), files["merges.txt"].decode(),
                 settings))


def wordpiece(vocab_txt, settings):
  """Returns the JSON of BERT's tokenizer with the words of a vocab.txt."""
  words = vocab_txt.decode().splitlines()
  vocabulary = {word: index for index, word in enumerate(words)}
  found = library.Tokenizer(library.models.WordPiece(
      vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
  found.normalizer = library.normalizers.BertNormalizer(
      clean_text=True,
      handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
      strip_accents=settings.get("strip_accents"),
      lowercase=settings.get("do_lower_case", True))
  found.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
  found.decoder = library.decoders.WordPiece(prefix="##")
  _add_specials(found, vocabulary, ("[PAD]", "[UNK]", "[CLS]", "[SEP]",
                                    "[MASK]"), settings)
  found.post_processor = library.processors.TemplateProcessing(
      single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
      special_tokens=[(name, vocabulary[name])
                      for name in ("[CLS]", "[SEP]")])
  return found.to_str()


def byte_level(vocabulary, merges_txt, settings):
  """Returns the JSON of RoBERTa's tokenizer with a vocabulary and merges."""
  merges = [tuple(line.split(" ")) for line in merges_txt.splitlines()
            if line and not line.startswith("#version")]
  found = library.Tokenizer(library.models.BPE(
      vocabulary, merges, fuse_unk=False))
  space = settings.get("add_prefix_space", False)
  found.pre_tokenizer = library.pre_tokenizers.ByteLevel(
      add_prefix_space=space)
  found.decoder = library.decoders.ByteLevel()
  _add_specials(found, vocabulary, specials_lib.NAMES, settings)
  found.post_processor = library.processors.RobertaProcessing(
      *((name, vocabulary[name]) for name in ("</s>", "<s>")),
      add_prefix_space=space)
  return found.to_str()


def _add_specials(found, vocabulary, names, settings):
  """Makes those of some names that are there special tokens."""
  told = {value["content"]: value for value in settings.values()
          if isinstance(value, dict) and "content" in value}
  found.add_special_tokens([
      library.AddedToken(name, normalized=False, special=True, **{
          side: told[name][side] for side in ("lstrip", "rstrip")
          if name in told and side in told[name]})
      for name in names if name in vocabulary])
