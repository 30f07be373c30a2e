"""Vocabularies as they were published before there was a tokenizer.json.

What each class of stock transformers makes of its files: the JSON of the
library's object. Source: BertTokenizer and RobertaTokenizer of transformers 5.
"""

import io
import json
import typing

import tokenizers as library

from latemask.data.tokenizers import specials as specials_lib
from latemask import errors

# Settings that switch something on or off.
_SWITCHES = ("tokenize_chinese_chars", "do_lower_case", "add_prefix_space")


def described(files, settings, added=b"{}"):
  """Returns the content of tokenizer.json, as a dict.

  Args:
    files: {name: bytes} of what tokenizes: tokenizer.json itself, vocab.txt, or
      vocab.json and merges.txt.
    settings: what the files beside it say.
    added: added_tokens.json.

  Raises:
    InputError: the files are those of another class of tokenizers.
  """
  if "tokenizer.json" in files:
    content = files["tokenizer.json"].decode()
    found = json.loads(content)
    if "type" not in found["model"]:  # Before tokenizers 0.9.
      found = json.loads(library.Tokenizer.from_str(content).to_str())
    return found
  name = "vocab.txt" if "vocab.txt" in files else "vocab.json"
  _check_class(name, settings)
  found = (
      wordpiece(files[name], settings) if name == "vocab.txt" else
      byte_level(json.loads(files[name]), files["merges.txt"].decode(),
                 settings))
  _add_others(found, settings, json.loads(added))
  return json.loads(found.to_str())


def _check_class(name, settings):
  classes = _KINDS[name].classes
  called = str(settings.get("tokenizer_class") or classes[0])
  # An export of latemask names none of them beside the vocabulary.
  if called.removesuffix("Fast") not in (*classes, "PreTrainedTokenizer"):
    raise errors.InputError(
        f"{name} is read as that of {classes[0]}, and it is of "
        f"{called}; save the folder with a tokenizer.json")
  if settings.get("word_tokenizer_type", "basic") != "basic":
    raise errors.InputError(
        f"its words are cut by {settings['word_tokenizer_type']!r}, which is "
        "not read")


def is_rebuilt_alike(described, settings):
  """Whether stock's class makes of a tokenizer.json what stands in it.

  Of one with a class of its own transformers 5 reads the vocabulary alone, and
  builds the rest anew, from the settings. Of the class that the settings name;
  of one that is not known here, or that says more than usual, no.
  """
  called = str(settings.get("tokenizer_class")).removesuffix("Fast")
  if called in ("PreTrainedTokenizer", "TokenizersBackend"):
    return True  # The file as it stands.
  kind = next((k for k in _KINDS.values() if called in k.classes), None)
  if kind is None:
    return False
  found = library.Tokenizer.from_str(json.dumps(described))
  there = json.loads(found.to_str())
  model = {key: value or None for key, value in there["model"].items()}
  if model | kind.model != model or None in map(
      found.token_to_id, kind.ends) or not all(
          isinstance(settings.get(key, True), bool) for key in _SWITCHES):
    return False
  kind.steps(found, settings)
  return json.loads(found.to_str()) == there


def _is_on(settings, key, usual):
  """Returns what a setting says, which may be null."""
  found = settings.get(key)
  return usual if found is None else found


def _steps_of_words(found, settings):
  """Gives a tokenizer what stands before and behind BERT's vocabulary."""
  found.normalizer = library.normalizers.BertNormalizer(
      clean_text=True,
      handle_chinese_chars=_is_on(settings, "tokenize_chinese_chars", True),
      strip_accents=settings.get("strip_accents"),
      lowercase=_is_on(settings, "do_lower_case", True))
  found.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
  found.post_processor = library.processors.TemplateProcessing(
      single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
      special_tokens=[(name, found.token_to_id(name))
                      for name in _KINDS["vocab.txt"].ends])


def _steps_of_bytes(found, settings):
  """Gives a tokenizer what stands before and behind RoBERTa's vocabulary."""
  space = _is_on(settings, "add_prefix_space", False)
  found.normalizer = None
  found.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=space)
  found.post_processor = library.processors.RobertaProcessing(
      *((name, found.token_to_id(name))
        for name in _KINDS["vocab.json"].ends),
      add_prefix_space=space)


class _Kind(typing.NamedTuple):
  """A vocabulary as stock reads it.

  Fields:
    classes: of stock, whose files say all of what they do, by the first.
    ends: tokens at the ends of a text.
    model: what the class says of the model, besides its words; None: nothing.
    steps: function (the library's object, settings) that gives it what stands
      before and behind the vocabulary.
  """

  classes: tuple
  ends: tuple
  model: dict
  steps: typing.Callable


_KINDS = {
    "vocab.txt": _Kind(
        ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer",
         "MobileBertTokenizer", "LayoutLMTokenizer", "SqueezeBertTokenizer"),
        ("[CLS]", "[SEP]"),
        {"type": "WordPiece", "unk_token": "[UNK]",
         "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
        _steps_of_words),
    "vocab.json": _Kind(
        ("RobertaTokenizer", "GPT2Tokenizer", "BartTokenizer",
         "LongformerTokenizer"),
        ("</s>", "<s>"),
        {"type": "BPE", **dict.fromkeys((
            "dropout", "unk_token", "continuing_subword_prefix",
            "end_of_word_suffix", "fuse_unk", "byte_fallback",
            "ignore_merges"))},
        _steps_of_bytes)}


def wordpiece(vocab_txt, settings):
  """Returns BERT's tokenizer with the words of a vocab.txt."""
  # Ends of lines alone, and not all that str.splitlines takes for one.
  words = [line.removesuffix("\n") for line in io.StringIO(
      vocab_txt.decode(), newline=None)]
  vocabulary = {word: index for index, word in enumerate(words)}
  found = library.Tokenizer(library.models.WordPiece(
      vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
  _steps_of_words(found, settings)
  found.decoder = library.decoders.WordPiece(prefix="##")
  _add_specials(found, vocabulary, ("[PAD]", "[UNK]", "[CLS]", "[SEP]",
                                    "[MASK]"), settings)
  return found


def byte_level(vocabulary, merges_txt, settings):
  """Returns RoBERTa's tokenizer with a vocabulary and merges.

  Raises:
    InputError: these are of characters, not of bytes.
  """
  lacking = set(library.pre_tokenizers.ByteLevel.alphabet()) - set(vocabulary)
  if lacking:
    raise errors.InputError(
        f"vocab.json has not all 256 bytes ({len(lacking)} are missing): it is "
        "not RoBERTa's; save the folder with a tokenizer.json")
  merges = [tuple(line.split(" ")) for line in merges_txt.splitlines()
            if line and not line.startswith("#version")]
  found = library.Tokenizer(library.models.BPE(
      vocabulary, merges, fuse_unk=False))
  _steps_of_bytes(found, settings)
  found.decoder = library.decoders.ByteLevel()
  _add_specials(found, vocabulary, specials_lib.NAMES, settings)
  return found


def _add_others(found, settings, added):
  """Adds the tokens that a vocabulary got later, at the ids that they have.

  Args:
    added: {token: id} of added_tokens.json, where the settings say nothing.

  Raises:
    InputError: an id that is not the next one.
  """
  of_id = {int(index): token for index, token in
           settings.get("added_tokens_decoder", {}).items()} or {
               index: {"content": content} for content, index in added.items()}
  for index, token in sorted(of_id.items()):
    name = token["content"]
    if found.token_to_id(name) is None:
      special = token.get("special", False)
      add = found.add_special_tokens if special else found.add_tokens
      add([library.AddedToken(
          name, special=special, normalized=token.get(
              "normalized", not special),
          **{key: token.get(key, False)
             for key in ("lstrip", "rstrip", "single_word")})])
    if found.token_to_id(name) != index:
      raise errors.InputError(
          f"the added token {name!r} has the id {index}, and would get "
          f"{found.token_to_id(name)} here")


def _add_specials(found, vocabulary, names, settings):
  """Makes those of some names that are there special tokens."""
  told = {value["content"]: value for value in (
      *settings.values(), *settings.get("added_tokens_decoder", {}).values())
          if isinstance(value, dict) and "content" in value}
  found.add_special_tokens([
      library.AddedToken(name, normalized=False, special=True, **{
          side: told[name][side] for side in ("lstrip", "rstrip")
          if name in told and side in told[name]})
      for name in names if name in vocabulary])
