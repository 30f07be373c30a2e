"""SentencePiece models of others, as tokenizers of Hugging Face's library.

Some cannot be the very same there as SentencePiece has them: normalisers work
on other stretches of text, byte-pair merges have other ties. So such a model
is converted before it tokenizes anything, and stock has exactly the ids that
the model was trained with. Source: sentencepiece_model.proto; how BPE models
hold merges: google/sentencepiece, bpe_model.cc.
"""

import base64

from latemask.data.tokenizers import huggingface
from latemask.data.tokenizers import proto as proto_lib
from latemask.data.tokenizers import sentencepiece
from latemask.data.tokenizers import sentencepiece_json
from latemask.data.tokenizers import word_starts
from latemask import errors

_SPACE = word_starts.SPACE


def convert(model, change):
  """Returns the `huggingface.Tokenizer` of a serialised model.

  Args:
    change: see `huggingface.load`.

  Raises:
    InputError: it has its spaces behind words, is of words or characters, or
      lacks a special token.
  """
  settings = proto_lib.settings(model)
  kind = settings["trainer_spec.model_type"]
  if settings["trainer_spec.treat_whitespace_as_suffix"]:
    raise errors.InputError(
        "its trainer_spec.treat_whitespace_as_suffix is true; only models that "
        "write spaces before words can be read")
  if kind not in _MODELS:
    raise errors.InputError(
        f"its trainer_spec.model_type is {_REFUSED[kind]}; unigram and bpe can "
        "be read")
  tokenizer = change(huggingface.of_files({
      "tokenizer.json": huggingface.as_json(_described(model, settings)),
      sentencepiece.FILE: model}))
  described = tokenizer.described
  special = tokenizer.specials
  bos, eos = tokenizer.names["bos"], tokenizer.names["eos"]
  described = described | {"post_processor": {
      "type": "RobertaProcessing", "sep": [eos, special.eos],
      "cls": [bos, special.bos], "trim_offsets": False,
      "add_prefix_space": False}}
  return huggingface.of_files(tokenizer.files | {
      "tokenizer.json": huggingface.as_json(described)})


def _described(model, settings):
  """Returns the content of tokenizer.json, a dict."""
  processor = sentencepiece.Tokenizer(model).processor
  pieces = processor.id_to_piece(list(range(processor.vocab_size())))
  scores = [processor.get_score(i) for i in range(len(pieces))]
  types = proto_lib.piece_types(model)
  added = [
      {"id": index, "content": piece, "single_word": False,
       "lstrip": piece in ("<mask>", "[MASK]"), "rstrip": False,
       "normalized": False, "special": kind != proto_lib.USER_DEFINED}
      for index, (piece, kind) in enumerate(zip(pieces, types))
      if kind in (proto_lib.CONTROL, proto_lib.UNKNOWN,
                  proto_lib.USER_DEFINED)]
  kind = settings["trainer_spec.model_type"]
  return {
      "version": "1.0", "truncation": None, "padding": None,
      "added_tokens": added,
      "normalizer": {"type": "Sequence",
                     "normalizers": _normalizers(settings)},
      "pre_tokenizer": {"type": "Sequence",
                        "pretokenizers": _pre_tokenizers(settings, pieces)},
      "post_processor": None,
      "decoder": sentencepiece_json.decoder(
          settings["normalizer_spec.add_dummy_prefix"]),
      "model": _MODELS[kind](pieces, scores, types) | {
          "byte_fallback": bool(settings["trainer_spec.byte_fallback"])}}


def _normalizers(settings):
  charsmap = settings["normalizer_spec.precompiled_charsmap"]
  found = [{"type": "Precompiled", "precompiled_charsmap":
            base64.b64encode(charsmap).decode()}] if charsmap else []
  if settings["normalizer_spec.remove_extra_whitespaces"]:
    found += sentencepiece_json.EXTRA_SPACES
  return found


def _pre_tokenizers(settings, pieces):
  splits = not any(_SPACE in piece.lstrip(_SPACE) for piece in pieces)
  first = ([sentencepiece_json.FIRST_SPACE]
           if settings["normalizer_spec.add_dummy_prefix"] else [])
  return [*first, sentencepiece_json.metaspace(_SPACE, "never", splits)]


def _unigram(pieces, scores, types):
  return {"type": "Unigram", "unk_id": types.index(proto_lib.UNKNOWN),
          "vocab": list(map(list, zip(pieces, scores)))}


def _bpe(pieces, scores, types):
  """A piece is merged of any two that make it; the best piece comes first."""
  ids = {piece: index for index, piece in enumerate(pieces)}
  merges = []
  for index, (piece, kind) in enumerate(zip(pieces, types)):
    if kind == proto_lib.NORMAL:
      halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
      merges += [(-scores[index], ids[left], ids[right], left, right)
                 for left, right in halves if left in ids and right in ids]
  return {"type": "BPE", "dropout": None, "fuse_unk": True,
          "unk_token": pieces[types.index(proto_lib.UNKNOWN)],
          "continuing_subword_prefix": None, "end_of_word_suffix": None,
          "ignore_merges": False, "vocab": ids,
          "merges": [[left, right] for *_, left, right in sorted(merges)]}


# trainer_spec.model_type -> the library's model, and what cannot be read.
_MODELS = {1: _unigram, 2: _bpe}
_REFUSED = {3: "word", 4: "char"}
