"""The SentencePiece model as tokenizer.json of Hugging Face's tokenizers.

The same ids for the same text, special tokens written out in the text
excepted: there <mask> is the mask, in SentencePiece it is six characters.
"""

from latemask.data import tokenizer as tokenizer_lib

_SPACE = "\u2581"


def tokenizer_json(tokenizer):
  """Returns the content of tokenizer.json, as a dict."""
  processor = tokenizer.processor
  bos, eos = (tokenizer_lib.SPECIALS[i] for i in (
      tokenizer_lib.BOS, tokenizer_lib.EOS))
  special = lambda token: {"SpecialToken": {"id": token, "type_id": 0}}
  text = lambda name: {"Sequence": {"id": name, "type_id": 0}}
  replace = lambda pattern, content: {
      "type": "Replace", "pattern": {"Regex": pattern}, "content": content}
  # Metaspace's own prefix would be left out before a literal \u2581.
  metaspace = {"type": "Metaspace", "replacement": _SPACE,
               "prepend_scheme": "never", "split": True}
  return {
      "version": "1.0", "truncation": None, "padding": None,
      "added_tokens": [
          {"id": i, "content": token, "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False, "special": True}
          for i, token in enumerate(tokenizer_lib.SPECIALS)],
      "normalizer": {"type": "Sequence", "normalizers": [
          replace(r"[\t\n\r]", " "), replace(r" {2,}", " "),
          replace(rf"\A +|[ {_SPACE}]+\z", ""),
          {"type": "Prepend", "prepend": _SPACE}]},
      "pre_tokenizer": metaspace,
      "post_processor": {
          "type": "TemplateProcessing",
          "single": [special(bos), text("A"), special(eos)],
          "pair": [special(bos), text("A"), special(eos), special(eos),
                   text("B"), special(eos)],
          "special_tokens": {
              token: {"id": token, "ids": [i], "tokens": [token]}
              for token, i in ((bos, tokenizer_lib.BOS),
                               (eos, tokenizer_lib.EOS))}},
      "decoder": {"type": "Sequence", "decoders": [
          {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
          {"type": "ByteFallback"}, {"type": "Fuse"},
          {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
      "model": {
          "type": "Unigram", "unk_id": tokenizer_lib.UNK,
          "byte_fallback": True,
          "vocab": [[processor.id_to_piece(i), processor.get_score(i)]
                    for i in range(tokenizer.vocab_size)]}}


def tokenizer_config(max_length):
  """Returns the content of tokenizer_config.json, as a dict."""
  names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
  tokens = dict(zip(names, tokenizer_lib.SPECIALS))
  return {"tokenizer_class": "PreTrainedTokenizerFast",
          "cls_token": tokens["bos_token"], "sep_token": tokens["eos_token"],
          "model_max_length": max_length,
          "clean_up_tokenization_spaces": False, **tokens}
