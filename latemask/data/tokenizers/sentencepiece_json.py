"""A SentencePiece model as tokenizer.json of Hugging Face's tokenizers.

It gives the same ids for the same text, also for a text with <mask> in it
(`Tokenizer.encode_masked`). A model for which that would not hold is refused.
Two things differ:
  - special tokens written out in the text: there <s>, <pad>, </s> and <unk>
    are special tokens, as in every stock tokenizer; in SentencePiece they are
    characters;
  - models that were trained before scores were rounded (see the tokenizer):
    where two ways to cut a word up are equally good, as in a row of equal
    letters, either may be taken.
"""

import re

from latemask.data.tokenizers import proto as proto_lib
from latemask.data.tokenizers import specials as specials_lib
from latemask.data.tokenizers import word_starts
from latemask import errors

_SPACE = word_starts.SPACE
_YES_NO = {0: "false", 1: "true"}
# Setting -> what it must be, and what its values are called.
_EXACT = {
    "trainer_spec.model_type": (1, {1: "unigram", 2: "bpe", 3: "word",
                                    4: "char"}),
    "trainer_spec.byte_fallback": (1, _YES_NO),
    "trainer_spec.treat_whitespace_as_suffix": (0, _YES_NO),
    "normalizer_spec.add_dummy_prefix": (1, _YES_NO),
    "normalizer_spec.remove_extra_whitespaces": (1, _YES_NO),
    "normalizer_spec.escape_whitespaces": (1, _YES_NO)}

def replace(pattern, content):
  """Returns the normalizer that replaces what matches."""
  return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def metaspace(space, scheme, split):
  """Returns the pre-tokenizer that writes `space` for a space."""
  return {"type": "Metaspace", "replacement": space, "prepend_scheme": scheme,
          "split": split}


def decoder(has_first_space):
  """Returns the decoder of models that write \u2581, and bytes by name."""
  strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
  return {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"}, *[strip] * has_first_space]}


# Normalizers of a stretch of text between special tokens: spaces that are more
# than one, and those at its end, which a mask behind it takes.
EXTRA_SPACES = [replace(r" {2,}", " "), replace(rf"[ {_SPACE}]+\z", "")]
# A space at the very start of the text, where there is none. One that wrote
# \u2581 there would take a literal \u2581 for it.
FIRST_SPACE = metaspace(" ", "first", False)
_TYPES = {proto_lib.USER_DEFINED: "user-defined", proto_lib.UNUSED: "unused"}


def check(tokenizer):
  """Checks that tokenizer.json can be the same tokenizer.

  Raises:
    InputError: it cannot; the message names the field of the model.
  """
  reason = next(_reasons(tokenizer), None)
  if reason:
    raise errors.InputError(
        f"this tokenizer cannot be exported: {reason}. Training, fine-tuning "
        "and fill_mask go on with it; one that is trained here (no "
        "data.tokenizer) can be exported")


def is_same(tokenizer):
  """Returns whether tokenizer.json can be the same tokenizer."""
  return next(_reasons(tokenizer), None) is None


def _reasons(tokenizer):
  settings = tokenizer.settings
  for key, (right, names) in _EXACT.items():
    if settings[key] != right:
      yield (f"its {key} is {names.get(settings[key], settings[key])}, and "
             f"must be {names[right]}")
  # Nothing else may be replaced than single characters by spaces.
  for source, target in proto_lib.rules(
      settings["normalizer_spec.precompiled_charsmap"]):
    if len(source) > 1 or target != " ":
      yield (f"its normalizer_spec.precompiled_charsmap "
             f"({settings['normalizer_spec.name'].decode()}) turns "
             f"{source!a} into {target!a}, and may only turn single "
             "characters into spaces (identity turns none)")
  if settings["denormalizer_spec.precompiled_charsmap"]:
    yield "it has a denormalizer_spec.precompiled_charsmap"
  types = proto_lib.piece_types(tokenizer.proto)
  for piece, kind in zip(tokenizer.pieces, types):
    if kind in _TYPES:
      yield f"its piece {piece!r} is {_TYPES[kind]}"
  ordinary = [piece for piece, kind in zip(tokenizer.pieces, types)
              if kind == proto_lib.NORMAL]
  known = set(ordinary)
  for piece in ordinary:
    if _SPACE in piece[1:]:
      yield f"its piece {piece!r} goes on behind a space"
    # Or the score of what is unknown would have a say, see `_model`.
    for char in piece:
      if char not in known:
        yield f"its piece {piece!r} has {char!r}, which is no piece"


def tokenizer_json(tokenizer):
  """Returns the content of tokenizer.json, as a dict.

  Raises:
    InputError: see `check`.
  """
  check(tokenizer)
  ids = tokenizer.specials
  bos, eos = tokenizer.pieces[ids.bos], tokenizer.pieces[ids.eos]
  special = lambda token: {"SpecialToken": {"id": token, "type_id": 0}}
  text = lambda name: {"Sequence": {"id": name, "type_id": 0}}
  model, breaks = _model(tokenizer)
  return {
      "version": "1.0", "truncation": None, "padding": None,
      "added_tokens": [
          {"id": i, "content": token, "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False, "special": True}
          for i, token in enumerate(specials_lib.NAMES)],
      "normalizer": _normalizer(tokenizer),
      "pre_tokenizer": _pre_tokenizer(breaks),
      "post_processor": {
          "type": "TemplateProcessing",
          "single": [special(bos), text("A"), special(eos)],
          "pair": [special(bos), text("A"), special(eos), special(eos),
                   text("B"), special(eos)],
          "special_tokens": {
              token: {"id": token, "ids": [i], "tokens": [token]}
              for token, i in ((bos, ids.bos), (eos, ids.eos))}},
      "decoder": decoder(has_first_space=True),
      "model": model}


def _normalizer(tokenizer):
  """Returns what is done to each stretch of text between special tokens.

  So nothing is added in front here, and nothing cut off there: a space behind
  <mask> is one. At the end, a space before <mask> is the mask's.
  """
  spaces = "".join(
      rf"\x{{{ord(source):X}}}" for source, _ in proto_lib.rules(
          tokenizer.settings["normalizer_spec.precompiled_charsmap"]))
  return {"type": "Sequence", "normalizers": [
      *([replace(f"[{spaces}]", " ")] if spaces else []),
      *EXTRA_SPACES]}


def _pre_tokenizer(breaks):
  return {"type": "Sequence", "pretokenizers": [
      FIRST_SPACE, metaspace(_SPACE, "never", True),
      *({"type": "Split", "pattern": {"Regex": pattern},
         "behavior": "MergedWithPrevious", "invert": False}
        for pattern in breaks)]}


def _model(tokenizer):
  """Returns (the model, patterns behind whose matches no piece goes on).

  Its trie holds the bytes by name, which would be found in a text that has
  <0x0A> in it. Where two neighbouring characters of such a name are in no
  piece together, the text is cut between them: any text, nothing is changed
  by it. Where there are no such two, a byte costs more than the name's
  characters do; that lowers the score of unknown characters, too, which no
  piece has (`check`), so there is nothing else to be chosen for them.
  """
  processor = tokenizer.processor
  scores = [processor.get_score(i) for i in range(tokenizer.vocab_size)]
  is_byte = [processor.is_byte(i) for i in range(tokenizer.vocab_size)]
  joined = {piece[i:i + 2] for piece, byte in zip(tokenizer.pieces, is_byte)
            if not byte for i in range(len(piece) - 1)}
  apart = {next((name[i:i + 2] for i in range(len(name) - 1)
                 if name[i:i + 2] not in joined), None)
           for name, byte in zip(tokenizer.pieces, is_byte) if byte}
  cost = len("<0x0A>") * min(scores) - 1
  patterns = [f"{re.escape(pair[0])}(?={re.escape(pair[1])})"
              for pair in sorted(apart - {None})]
  return {
      "type": "Unigram", "unk_id": tokenizer.specials.unk,
      "byte_fallback": True,
      "vocab": [[piece, cost if byte else score] for piece, byte, score
                in zip(tokenizer.pieces, is_byte, scores)]}, patterns
