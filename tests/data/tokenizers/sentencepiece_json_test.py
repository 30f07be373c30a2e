"""tokenizer.json and the SentencePiece model: the same ids, or refused.

The oracle is Hugging Face's tokenizers itself.
"""

import json
import random
import struct
import unicodedata

import pytest

from latemask.data.tokenizers import kinds
from latemask.data.tokenizers import proto as proto_lib
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask.data.tokenizers import sentencepiece_json
from latemask.data.tokenizers import specials
from latemask import errors
from tests import conftest

tokenizers = pytest.importorskip("tokenizers")

_DIGITS = "0123456789ABCDEF"
# Names of bytes as text, and what two equally good ways to cut up come of.
_TEXT = conftest.make_text(150) + "".join(
    f"eeeeee aaaaaaaa ____ 0000 -- ---- <0x {byte:02X}>\n" for byte in range(256))
_ODD = ["<mask>"] * 5 + [
    "<0x0A>", "<0xFF>", "<0x4", "▁", "▁▁", " ", "  ", "\t", "\n", "\r\n",
    "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff", "\x00", "\x07", "\x0b",
    "\x1b", "\x7f", "\x85", "\u2028", "e\u0301", "\u0301", "é", "ﬁ", "①", "Ａ",
    "ß", "Ж", "你", "世界", "日本", "ไทย", "한국", "عرب", "עב", "😀", "👩‍👩‍👧", "🏳️‍🌈", "🤦🏽",
    "\U0010FFFD", "\U000F0000", "a", "un", "(", ")", ".", "!", "e" * 13,
    "a" * 30, "____", "--", "0000"]
_LINES = [
    "", " ", "  ", "\t", "a", " a", "a ", "a  b", "a\tb\r\n", "▁", "▁a", " ▁a",
    "▁ a", "a▁b", "a▁", "<mask>", " <mask>", "<mask> ", "▁<mask>", "<mask>▁",
    "a▁▁<mask>", "<mask>▁▁b", "It is in <mask>.", "(<mask>)", "un<mask>able",
    "a <mask> b", "<mask> at the start", "a\n<mask>\n b", "<mask><mask>",
    "<mask> <mask>", unicodedata.normalize("NFD", "é"), "bytes <0x0A>"]


def _lines(count):
  """Returns so many odd lines."""
  rng = random.Random(0)
  words = conftest.make_text(40).split()
  lines = list(_LINES)
  while len(lines) < count:
    kind = rng.randrange(3)
    if kind == 0:
      lines.append("".join(rng.choices(_ODD, k=rng.randrange(14))))
    elif kind == 1:
      lines.append(" ".join(rng.choices(words + _ODD, k=rng.randrange(14))))
    else:
      lines.append("".join(
          rng.choice(words) + rng.choice([" ", "  ", ", ", rng.choice(_ODD)])
          for _ in range(rng.randrange(10))))
  return lines


def _spm(**options):
  return conftest.spm(_TEXT.splitlines(), **options)


def _stock(tokenizer):
  return tokenizers.Tokenizer.from_str(json.dumps(
      sentencepiece_json.tokenizer_json(tokenizer)))


def _wrong(tokenizer, lines):
  """Returns the lines with other ids in stock, and both."""
  found = _stock(tokenizer).encode_batch(lines, add_special_tokens=False)
  pieces = [[tokenizer.pieces[i] for i in tokenizer.encode_masked(line)]
            for line in lines]
  return [(line, ours, theirs.tokens) for line, ours, theirs in
          zip(lines, pieces, found) if ours != theirs.tokens]


@pytest.fixture(scope="module")
def ours():
  return tokenizer_lib.train(_TEXT.splitlines(), 400)


def test_ids_of_what_is_trained_here(ours):
  wrong = _wrong(ours, _lines(2000))
  assert not wrong, (len(wrong), wrong[:3])


def _rounded(tokenizer):
  return tokenizer_lib.Tokenizer(
      proto_lib.with_rounded_scores(tokenizer.proto, 256))


def test_ids_of_identity():
  """Tabs and line ends are no spaces there."""
  wrong = _wrong(_rounded(_spm()), _lines(2000))
  assert not wrong, (len(wrong), wrong[:3])


@pytest.mark.parametrize("options, reason", [
    (dict(normalization_rule_name="nmt_nfkc"),
     r"precompiled_charsmap \(nmt_nfkc\) turns"),
    (dict(normalization_rule_name="nmt_nfkc_cf"), r"\(nmt_nfkc_cf\) turns"),
    (dict(normalization_rule_name="nfkc"), r"\(nfkc\) turns"),
    (dict(model_type="bpe"), "trainer_spec.model_type is bpe, and must be uni"),
    (dict(model_type="char"), "model_type is char"),
    (dict(model_type="word"), "model_type is word"),
    (dict(byte_fallback=False), "trainer_spec.byte_fallback is false"),
    (dict(add_dummy_prefix=False), "normalizer_spec.add_dummy_prefix is false"),
    (dict(treat_whitespace_as_suffix=True), "whitespace_as_suffix is true"),
    (dict(remove_extra_whitespaces=False), "extra_whitespaces is false"),
    (dict(user_defined_symbols=["<mask>"], control_symbols=[]),
     "piece '<mask>' is user-defined"),
    (dict(split_by_whitespace=False), "goes on behind a space"),
])
def test_other_kinds_are_refused_by_name(options, reason):
  with pytest.raises(errors.InputError, match=reason) as error:
    sentencepiece_json.tokenizer_json(_spm(**options))
  assert "\n" not in str(error.value)
  assert "fill_mask go on" in str(error.value)


def test_a_mask_is_one_mask_in_every_kind():
  """What is unknown beside it, and what it is made of, make no second one."""
  lines = [line for line in _lines(200) if "<mask>" in line]
  for options in (
      dict(), dict(byte_fallback=False), dict(model_type="bpe"),
      dict(model_type="bpe", byte_fallback=False), dict(model_type="char"),
      dict(model_type="word", byte_fallback=False),
      dict(treat_whitespace_as_suffix=True), dict(add_dummy_prefix=False),
      dict(normalization_rule_name="nmt_nfkc_cf", byte_fallback=False),
      dict(user_defined_symbols=["<mask>"], control_symbols=[])):
    tokenizer = _spm(**options)
    for line in lines:
      ids = tokenizer.encode_masked(line)
      assert ids.count(specials.TRAINED.mask) == line.count("<mask>"), (
          options, line)
  unknown = _spm(byte_fallback=False)
  assert [unknown.pieces[i] for i in unknown.encode_masked(
      "the ☃<mask>☃☃ the")] == [
          "▁the", "▁", "<unk>", "<mask>", "<unk>", "▁the"]
  behind = _spm(treat_whitespace_as_suffix=True)
  assert [behind.pieces[i] for i in behind.encode_masked(
      "the <mask> the <mask>")] == ["the▁", "<mask>", "the▁", "<mask>"]


def test_the_rest_of_the_row_as_in_training(ours):
  """A hidden word's pieces are gone, and nothing else is changed."""
  rng = random.Random(1)
  words = conftest.make_text(20).split()
  for _ in range(200):
    text = rng.choices(words, k=rng.randrange(1, 12))
    place = rng.randrange(len(text))
    row = [list(map(int, ours.encode([word])[0])) for word in text]
    assert sum(row, []) == list(ours.encode([" ".join(text)])[0])
    row[place] = [specials.TRAINED.mask]
    text[place] = "<mask>"
    assert ours.encode_masked(" ".join(text)) == sum(row, [])


def _with_pieces(tokenizer, pieces):
  """Returns a model with ordinary pieces more, each of score -4."""
  added = [b"\n" + bytes([len(piece)]) + piece.encode()
           + b"\x15" + struct.pack("<f", -4) for piece in pieces
           if piece not in tokenizer.pieces]
  return tokenizer_lib.Tokenizer(tokenizer.proto + b"".join(
      b"\n" + bytes([len(piece)]) + piece for piece in added))


@pytest.mark.parametrize("joined, breaks", [
    ([], ["<(?=0)"]), (["<0"], ["0(?=x)"]), (["<0", "0x"], None),
    (["<0", "0x", *(a + b for a in _DIGITS for b in _DIGITS + ">"),
      *("x" + a for a in _DIGITS)], [])])
def test_names_of_bytes_are_characters(ours, joined, breaks):
  """Whichever of them some piece joins; where all are joined, too."""
  tokenizer = _with_pieces(ours, joined)
  found = sentencepiece_json._model(tokenizer)[1]
  assert found == breaks or breaks is None and len(found) == len(_DIGITS)
  wrong = _wrong(tokenizer, [f"a<0x{byte:02X}>b 0<0x{byte:02X}>>é<0"
                             for byte in range(256)] + _LINES)
  assert not wrong, (len(wrong), wrong[:3])


def test_special_tokens_in_a_text(ours):
  """The one difference: special there, characters in SentencePiece."""
  stock = _stock(ours)
  for token in ("<s>", "<pad>", "</s>", "<unk>"):
    index = stock.token_to_id(token)
    assert stock.encode(f"the{token} of", add_special_tokens=False).ids == [
        *ours.encode_masked("the"), index, *ours.encode_masked("of")]
    assert index not in ours.encode_masked(f"the{token} of")


def test_added_words_match_everywhere(ours):
  stock = _stock(ours)
  stock.add_tokens(["covid19"])
  for text, words in [("covid19 of", 1), ("the covid19.", 1),
                      ("thecovid19of covid19", 2)]:
    assert stock.encode(text).tokens.count("covid19") == words, text


def test_offsets_are_those_of_metaspace(ours):
  stock, plain = _stock(ours), _stock(ours)
  plain.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(
      prepend_scheme="first")
  for line in _lines(300):
    if not line.startswith(("▁", " ▁", "<0x")) and "<0" not in line:
      assert stock.encode(line).offsets == plain.encode(line).offsets, line
  assert stock.encode("the of", add_special_tokens=False).offsets == [
      (0, 3), (3, 6)]


def test_a_file_of_more_tokens_beside_a_model_of_ours_is_read(tmp_path):
  """Stock writes one where words were added to an export."""
  ours = tokenizer_lib.train(_TEXT.splitlines(), 400)
  for name, content in ours.files.items():
    (tmp_path / name).write_bytes(content)
  _stock(ours).save(str(tmp_path / "tokenizer.json"))
  assert isinstance(kinds.load(tmp_path), tokenizer_lib.Tokenizer)
  stock = _stock(ours)
  stock.add_tokens(["COVID-19"])
  stock.save(str(tmp_path / "tokenizer.json"))
  found = kinds.load(tmp_path)
  assert found.vocab_size == ours.vocab_size + 1
  assert found.digest != ours.digest
  text = "the COVID-19 was there"
  assert found.encode([text])[0].tolist() == stock.encode(
      text, add_special_tokens=False).ids
