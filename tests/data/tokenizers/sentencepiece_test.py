"""The tokenizer: fixed ids, nothing lost, words known, bad models refused."""

import io
import subprocess
import sys
import tempfile

import google.protobuf.runtime_version
import numpy as np
import pytest
import sentencepiece

from latemask.data.tokenizers import kinds
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask.data.tokenizers import specials
from latemask.data.tokenizers import word_starts
from latemask import errors
from tests import conftest

LINES = ["plain words", "Ünïcödé naïve café", "日本語のテキスト",
         "emoji 😀🏳️‍🌈", "tabs\tand\nlines", "  many   spaces ", "", "<s> <mask> </s>",
         "\u0000\u0007 control", "x" * 5000]


@pytest.fixture(scope="module")
def trained():
  return tokenizer_lib.train(conftest.make_text(300).splitlines(), 400)


def test_special_ids(trained):
  pieces = [trained.processor.id_to_piece(i) for i in range(5)]
  assert tuple(pieces) == specials.NAMES
  assert trained.vocab_size <= 400


def test_every_string_survives_and_specials_are_never_produced(trained):
  for line in LINES:
    ids, = trained.encode([line])
    assert np.all(ids >= len(specials.NAMES)), line
    assert trained.decode(ids) == " ".join(
        line.replace("\t", " ").replace("\n", " ").split(" ")).strip(
        ) or "  " in line
  ids, = trained.encode(["  many   spaces "])
  assert trained.decode(ids) == "many spaces"


def test_word_starts(trained):
  ids, = trained.encode(["over there when"])
  for rule in word_starts.WORD_STARTS:
    word_start_V = trained.word_start_V(rule)
    assert word_start_V[ids].sum() == 3 and word_start_V[ids[0]]
    assert np.all(word_start_V[:5])
    assert not word_start_V[trained.processor.piece_to_id("<0x41>")]


@pytest.mark.parametrize("text", [
    "日本語", "ひらがな", "カタカナ", "ภาษาไทย", "ພາສາລາວ", "ភាសាខ្មែរ", "မြန်မာ"])
def test_scripts_without_spaces_have_words(text):
  """Before, a whole document was one word."""
  model = tokenizer_lib.train([text * 3, "plain words"] * 50, 330)
  pieces = [i for i in model.encode([text])[0]
            if model.processor.id_to_piece(int(i)) != "\u2581"]
  assert model.word_start_V("scripts")[pieces].all()
  assert model.word_start_V("spaces")[pieces].sum() <= 1
  latin, = model.encode(["plain"])
  assert model.word_start_V("scripts")[latin[1:]].sum() == 0


def test_a_han_character_of_bytes_is_a_word(trained):
  ids, = trained.encode(["好你 é ☃"])
  assert [trained.pieces[i] for i in ids
          if trained.word_start_V("scripts")[i]] == [
              "\u2581", "<0xE5>", "<0xE4>", "\u2581", "\u2581"]


def test_same_text_same_model(trained):
  again = tokenizer_lib.train(conftest.make_text(300).splitlines(), 400)
  assert again.digest == trained.digest


def test_same_model_in_a_process_with_one_core(trained):
  program = ("import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
             "; from latemask.data.tokenizers import sentencepiece;"
             "from tests import conftest;"
             "print(sentencepiece.train("
             "conftest.make_text(300).splitlines(), 400).digest)")
  told = subprocess.run([sys.executable, "-c", program], cwd=conftest.ROOT,
                        check=True, capture_output=True, text=True).stdout
  assert told.split() == [trained.digest]


def test_model_does_not_name_a_temporary_file(monkeypatch, tmp_path):
  """Nor anything that depends on it, as the length of what it stands in."""
  long = tmp_path / ("folder" * 30)
  long.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(long))
  again = tokenizer_lib.train(conftest.make_text(300).splitlines(), 400)
  monkeypatch.undo()
  first = tokenizer_lib.train(conftest.make_text(300).splitlines(), 400)
  assert again.proto == first.proto and b".tsv" not in first.proto


def test_model_is_what_its_own_schema_says(trained):
  """Checked with SentencePiece's classes, where its protobuf is installed."""
  try:
    from sentencepiece import sentencepiece_model_pb2
  except (ImportError, google.protobuf.runtime_version.VersionError):
    pytest.skip("no protobuf that these classes run with")
  proto = sentencepiece_model_pb2.ModelProto.FromString(trained.proto)
  assert not proto.normalizer_spec.HasField("normalization_rule_tsv")
  assert proto.normalizer_spec.precompiled_charsmap
  assert len(proto.pieces) == trained.vocab_size
  assert proto.SerializeToString(deterministic=True) == trained.proto


def test_scores_add_up_without_rounding(trained):
  """In float32, over a document; so that any order gives the same sum."""
  scores = np.array([trained.processor.get_score(i)
                     for i in range(trained.vocab_size)])
  assert np.all(scores * 256 == np.round(scores * 256))
  assert len(set(scores)) > 20 and scores.min() < -3


def test_long_lines_are_cut_not_skipped():
  # A document longer than the trainer's limit is all there is to learn from.
  words = conftest.make_text(600).split()
  text = "".join(w + (" ", ", ", ". ")[i % 3] for i, w in enumerate(words))
  ids, = tokenizer_lib.train([text], 400).encode(["about little over"])
  assert len(ids) == 3


def test_save_and_load(trained, tmp_path):
  (tmp_path / "t.model").write_bytes(trained.proto)
  assert kinds.load(tmp_path / "t.model").digest == trained.digest
  assert [p.name for p in tmp_path.iterdir()] == ["t.model"]


def test_refused(tmp_path, trained):
  with pytest.raises(errors.InputError, match="is not there"):
    kinds.load(tmp_path / "nowhere.model")
  (tmp_path / "noise.model").write_bytes(b"noise" * 100)
  with pytest.raises(errors.InputError, match="no SentencePiece model"):
    kinds.load(tmp_path / "noise.model")
  # A piece that is no longer UTF-8.
  (tmp_path / "bit.model").write_bytes(
      trained.proto.replace("▁the".encode(), b"\xe2\x96\x81\xb0he"))
  with pytest.raises(errors.InputError, match="no SentencePiece model"):
    kinds.load(tmp_path / "bit.model")
  (tmp_path / "tokenizer_files.json").write_text(
      '{"tokenizer.json": "e30="}')
  with pytest.raises(errors.InputError, match="is damaged; restore it"):
    kinds.saved(tmp_path)
  (tmp_path / "empty.model").write_bytes(b"")
  with pytest.raises(errors.InputError, match="no SentencePiece model"):
    kinds.load(tmp_path / "empty.model")
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(conftest.make_text(300).splitlines()),
      model_writer=model, vocab_size=60, hard_vocab_limit=False,
      minloglevel=2)
  (tmp_path / "other.model").write_bytes(model.getvalue())
  with pytest.raises(errors.InputError, match="has no pad token"):
    kinds.load(tmp_path / "other.model")
  with pytest.raises(errors.InputError, match="at least 262"):
    tokenizer_lib.train(["some text"], 100)
  with pytest.raises(errors.InputError, match="do not suffice"):
    tokenizer_lib.train([], 400)
