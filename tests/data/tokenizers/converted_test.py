"""SentencePiece models of others: what trains here is what stock has."""

import itertools
import shutil

import pytest

from latemask.data.tokenizers import converted
from latemask.data.tokenizers import kinds
from latemask import errors
from latemask.hub import tokenizer as hub_tokenizer
from tests import conftest
from tests.data.tokenizers import sentencepiece_json_test

transformers = pytest.importorskip("transformers")

_KINDS = list(itertools.product(
    ("unigram", "bpe"), ("identity", "nfkc", "nmt_nfkc", "nmt_nfkc_cf"),
    (True, False), (True, False)))


def _model(kind):
  return sentencepiece_json_test._spm(**dict(zip(
      ("model_type", "normalization_rule_name", "byte_fallback",
       "add_dummy_prefix"), kind)))


@pytest.mark.parametrize("kind", _KINDS, ids=str)
def test_ids_of_stock(kind, tmp_path):
  """By AutoTokenizer, of the folder that an export writes."""
  (tmp_path / "its.model").write_bytes(_model(kind).proto)
  ours = kinds.load(tmp_path / "its.model")
  for name, content in hub_tokenizer.files(
      ours, conftest.model_config(), 64).items():
    (tmp_path / name).write_bytes(content)
  stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
  lines = sentencepiece_json_test._lines(400)
  plain = [line.replace("<mask>", "x") for line in lines]
  assert [ids.tolist() for ids in ours.encode(plain)] == stock(
      plain, add_special_tokens=False)["input_ids"]
  assert [ours.encode_masked(line) for line in lines] == stock(
      lines, add_special_tokens=False)["input_ids"]
  assert stock("a", "b")["input_ids"] == ours.template.row(
      [*ours.encode(["a"]), *ours.encode(["b"])])[0].tolist()
  again = kinds.load(tmp_path)
  (tmp_path / "rows").mkdir()
  assert again.digest == ours.digest
  # Stock writes the file in its own way; one of more tokens is another.
  stock.save_pretrained(tmp_path / "again")
  shutil.copy(tmp_path / "tokenizer.model", tmp_path / "again")
  assert kinds.load(tmp_path / "again").digest == ours.digest
  stock.add_tokens(["corvid"])
  stock.save_pretrained(tmp_path / "again")
  assert kinds.load(tmp_path / "again").digest != ours.digest
  # And as it travels with rows and in checkpoints.
  kinds.save(ours, tmp_path / "rows")
  for back in (kinds.of_record(kinds.record(ours)),
               kinds.saved(tmp_path / "rows")):
    assert back.files == ours.files
    assert [ids.tolist() for ids in back.encode(plain)] == [
        ids.tolist() for ids in ours.encode(plain)]
  special = set(ours.special_N.tolist()) - {ours.specials.unk}
  ids, = ours.encode(["the <s> of </s> <pad> <mask>"])
  assert not special & set(ids.tolist())


@pytest.mark.parametrize("kind", [("unigram", "nmt_nfkc_cf", True, True),
                                  ("bpe", "nfkc", False, True)], ids=str)
def test_ids_of_sentencepiece(kind):
  """Of text as it is written; on odd lines, see how few differ."""
  model = _model(kind)
  ours = converted.convert(model.proto, lambda tokenizer: tokenizer)
  lines = sentencepiece_json_test._TEXT.splitlines()[:150]
  assert [ids.tolist() for ids in ours.encode(lines)] == [
      ids.tolist() for ids in model.encode(lines)]
  odd = [line.replace("<mask>", "") for line
         in sentencepiece_json_test._lines(2000)]
  differ = sum(a.tolist() != b.tolist() for a, b in zip(
      ours.encode(odd), model.encode(odd)))
  assert differ < 20, differ


@pytest.mark.parametrize("options, message", [
    (dict(model_type="char"), "model_type is char; unigram and bpe can"),
    (dict(model_type="word"), "model_type is word"),
    (dict(treat_whitespace_as_suffix=True), "whitespace_as_suffix is true"),
    (dict(model_type="bpe", control_symbols=[]), "no mask token")])
def test_refused(options, message, tmp_path):
  (tmp_path / "its.model").write_bytes(
      sentencepiece_json_test._spm(**options).proto)
  with pytest.raises(errors.InputError, match=message) as error:
    kinds.load(tmp_path / "its.model")
  assert "\n" not in str(error.value)
