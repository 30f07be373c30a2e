"""Words and masks that a vocabulary gets: an id each, and nothing else moves."""

import json
import unicodedata

import numpy as np
import pytest

from latemask.data.tokenizers import added
from latemask.data.tokenizers import huggingface
from latemask.data.tokenizers import kinds
from latemask.data.tokenizers import sentencepiece
from latemask import errors
from latemask.hub import tokenizer as hub_tokenizer
from tests import conftest
from tests.data.tokenizers import huggingface_test

folder = huggingface_test.folder
transformers = pytest.importorskip("transformers")

WORDS = ["corvid", "M\u00fcller", "myocardial"]
TEXTS = ["corvid of the corvid", "the myocardial, and (M\u00fcller).",
         "M\u00fcller", "the house of corvid-like premyocardial"]


def _base(folder):
  return kinds.load(folder)


def test_words(folder, tmp_path):
  before = _base(folder)
  after = added.with_words(before, WORDS)
  lines = huggingface_test._lines()
  for ids, old in zip(after.encode(lines), before.encode(lines)):
    assert ids.tolist() == old.tolist()
  new = added.new_ids(after, before)
  assert len(new) == 3 and after.specials == before.specials
  # Those that the folder keeps unused come first: 99 in BERT's.
  has_unused = "[unused0]" in before.library_tokens
  assert (after.vocab_size == before.vocab_size) == has_unused
  assert added.new_ids(before, after) is None
  assert added.with_words(after, WORDS) is after
  words = [after.pieces[i].lower() for i in new]
  for text, count in zip(TEXTS, (2, 2, 1, 1)):
    ids, = after.encode([text])
    assert sum(i in new for i in ids) == count, (text, ids, words)
  for index in new:
    pieces = added.replaced_pieces(after, index, before)
    plain = "".join(c for c in unicodedata.normalize(
        "NFD", before.decode(pieces).strip().lower())
                    if not unicodedata.combining(c))
    assert before.specials.unk in pieces or plain in (
        "corvid", "muller", "myocardial")
  # And stock has the same.
  for name, content in after.files.items():
    (tmp_path / name).write_bytes(content)
  stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert [ids.tolist() for ids in after.encode(TEXTS + lines)] == stock(
      TEXTS + lines, add_special_tokens=False)["input_ids"]
  assert after.word_start_V("spaces")[new].all()
  assert [after.pieces[i].strip("\u2581") for i in new] == WORDS


@pytest.mark.parametrize("model_type", ["roberta-prelayernorm", "modernbert"])
@pytest.mark.parametrize("settings", [None, {}, {"add_prefix_space": True}])
def test_stock_is_told_of_what_had_no_settings(tmp_path, model_type, settings):
  """Whatever stock takes the model's own class of tokenizers for."""
  ours = kinds._huggingface(sentencepiece.train(
      conftest.make_text(300).splitlines(), 400))
  if settings is not None:
    ours = huggingface.of_files(ours.files | {
        "tokenizer_config.json": json.dumps(settings).encode()})
  after = added.with_words(ours, WORDS)
  (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
  for name, content in hub_tokenizer.files(
      after, conftest.model_config(), 24).items():
    (tmp_path / name).write_bytes(content)
  stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
  lines = TEXTS + conftest.make_text(50, seed=2).splitlines()
  assert [ids.tolist() for ids in after.encode(lines)] == stock(
      lines, add_special_tokens=False)["input_ids"]
  assert stock.mask_token_id == after.specials.mask
  assert stock.pad_token_id == after.specials.pad
  assert (stock.model_max_length == 24) == (not settings)


def test_words_of_a_sentencepiece_model():
  ours = sentencepiece.train(conftest.make_text(300).splitlines(), 400)
  after = added.with_words(kinds._huggingface(ours), WORDS)
  assert added.new_ids(after, ours) == list(
      range(ours.vocab_size, ours.vocab_size + 3))
  lines = conftest.make_text(50, seed=2).splitlines()
  assert [ids.tolist() for ids in after.encode(lines)] == [
      ids.tolist() for ids in ours.encode(lines)]


def test_a_mask_only_if_asked(tmp_path):
  huggingface_test._words(tmp_path, True)
  whole = kinds.load(tmp_path).described
  whole["added_tokens"] = [token for token in whole["added_tokens"]
                           if token["content"] != "[MASK]"]
  whole["model"]["vocab"]["unheard"] = whole["model"]["vocab"].pop("[MASK]")
  (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
  with pytest.raises(errors.InputError, match="data.add_mask_token adds one"):
    kinds.load(tmp_path)
  found = kinds.load(tmp_path, add_mask=True)
  assert found.mask_token == "[MASK]"
  assert found.specials.mask == found.vocab_size - 1 == len(
      whole["model"]["vocab"])
  assert found.encode_masked("the [MASK] of").count(found.specials.mask) == 1
  assert found.specials.mask in found.special_N


def test_words_that_are_never_found(tmp_path):
  """As one that a normalizer takes away, or parts from what is before it."""
  huggingface_test._words(tmp_path, True)
  with pytest.raises(errors.InputError, match=(
      r"has '\\u200b', of which this tokenizer leaves nothing")):
    added.with_words(kinds.load(tmp_path), ["corvid", "\u200b"])
  described = kinds.load(tmp_path).described | {
      "pre_tokenizer": None, "normalizer": {
          "type": "Replace", "pattern": {"String": " "}, "content": "_"}}
  (tmp_path / "tokenizer.json").write_text(json.dumps(described))
  with pytest.raises(errors.InputError, match="'corvid', which this tokenizer"):
    added.with_words(kinds.load(tmp_path), ["corvid"])


def test_words_of_which_one_begins_another(tmp_path):
  huggingface_test._words(tmp_path, True)
  words = ["hepatitis", "hepatitis A", "a priori", "priori"]
  found = added.with_words(kinds.load(tmp_path), words)
  ids, = found.encode(["the hepatitis A of hepatitis is a priori the priori"])
  assert {found.library_tokens[word] for word in words} <= set(ids.tolist())


def test_a_vocabulary_with_gaps(tmp_path):
  huggingface_test._words(tmp_path, True)
  whole = kinds.load(tmp_path).described
  del whole["model"]["vocab"]["[unused7]"]
  for name in [n for n in whole["model"]["vocab"] if n.startswith("[unused")]:
    whole["model"]["vocab"][f"un{name}"] = whole["model"]["vocab"].pop(name)
  (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
  with pytest.raises(errors.InputError, match="corvid. would get the id .* gap"):
    added.with_words(kinds.load(tmp_path), WORDS)


def test_bad_files(tiny, tmp_path):
  tiny.data.add_tokens = str(tmp_path / "words")
  with pytest.raises(errors.InputError, match="words cannot be read"):
    kinds.of_config(tiny, "given")
  (tmp_path / "words").write_text("\n \n")
  with pytest.raises(errors.InputError, match="has no word"):
    kinds.of_config(tiny, "given")
  (tmp_path / "words").write_text("corvid\n[SEP]\n")
  with pytest.raises(errors.InputError, match="name it in data.tokenizer"):
    kinds.of_config(tiny)
  huggingface_test._words(tmp_path, True)
  tiny.data.tokenizer = str(tmp_path)
  with pytest.raises(errors.InputError, match=r"has \[SEP\], which is a spec"):
    kinds.of_config(tiny)
  (tmp_path / "words").write_text("\ufeffcorvid\ncorvid\n", "utf-8")
  found = kinds.of_config(tiny)
  base = kinds.load(tmp_path)
  assert len(added.new_ids(found, base)) == 1
  assert np.array_equal(found.special_N, base.special_N)
