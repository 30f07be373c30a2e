"""Tokenizers of Hugging Face's library: ids as stock has them, text as text.

The oracle is `AutoTokenizer` of transformers.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers as library

from latemask.data.tokenizers import byte_level
from latemask.data.tokenizers import huggingface
from latemask.data.tokenizers import kinds
from latemask.data.tokenizers import word_starts
from latemask import errors
from latemask.hub import tokenizer as hub_tokenizer
from tests import conftest
from tests.data.tokenizers import sentencepiece_json_test

transformers = pytest.importorskip("transformers")

_TEXT = conftest.make_text(150).splitlines() + [
    "Zoë's naïve café, 3.5 km/h — “quoted”; E-mail: a@b.c", "日本語 テキスト",
    "unaffable unhappiness running runner", "\ttabs  and   spaces "] * 3
_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Names of special tokens, which in a text are text.
_NAMES = (*_BERT, "<s>", "<pad>", "</s>", "<unk>", "<mask>")


def _words(folder, lower):
  """Writes a BERT folder with a vocab.txt; the mask stands at id 103."""
  trained = library.Tokenizer(library.models.WordPiece(unk_token="[UNK]"))
  trained.normalizer = library.normalizers.BertNormalizer(lowercase=lower)
  trained.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
  trained.train_from_iterator(_TEXT, library.trainers.WordPieceTrainer(
      vocab_size=500, show_progress=False, special_tokens=[
          "[PAD]", *(f"[unused{i}]" for i in range(99)), *_BERT[1:]]))
  vocabulary = sorted(trained.get_vocab().items(), key=lambda item: item[1])
  (folder / "vocab.txt").write_text("".join(f"{w}\n" for w, _ in vocabulary))
  (folder / "tokenizer_config.json").write_text(json.dumps({
      "tokenizer_class": "BertTokenizer", "do_lower_case": lower}))


def _bytes(folder, space):
  """Writes a RoBERTa folder with vocab.json and merges.txt; <mask> is last."""
  trained = library.ByteLevelBPETokenizer(add_prefix_space=space)
  trained.train_from_iterator(
      _TEXT, 420, show_progress=False,
      special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
  trained.add_special_tokens(["<mask>"])
  trained.save_model(str(folder))
  vocabulary = json.loads((folder / "vocab.json").read_text())
  vocabulary["<mask>"] = len(vocabulary)
  (folder / "vocab.json").write_text(json.dumps(vocabulary))
  (folder / "tokenizer_config.json").write_text(json.dumps({
      "tokenizer_class": "RobertaTokenizer", "add_prefix_space": space}))


def _unigram(folder, _):
  """Writes a tokenizer.json as XLM-R has it: ids of SentencePiece, plus one."""
  trained = library.Tokenizer(library.models.Unigram())
  trained.normalizer = library.normalizers.NFKC()
  trained.pre_tokenizer = library.pre_tokenizers.Metaspace()
  trained.decoder = library.decoders.Metaspace()
  trained.train_from_iterator(_TEXT, library.trainers.UnigramTrainer(
      vocab_size=300, show_progress=False, unk_token="<unk>",
      special_tokens=["<s>", "<pad>", "</s>", "<unk>"]))
  trained.add_special_tokens([library.AddedToken("<mask>", lstrip=True)])
  trained.post_processor = library.processors.TemplateProcessing(
      "<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)])
  trained.save(str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(json.dumps({
      "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
      "cls_token": "<s>", "sep_token": "</s>", "eos_token": "</s>",
      "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}))


_FOLDERS = {"cased": (_words, False), "uncased": (_words, True),
            "bytes": (_bytes, False), "bytes with a space": (_bytes, True),
            "unigram": (_unigram, None)}


@pytest.fixture(scope="module", params=_FOLDERS)
def folder(request, tmp_path_factory):
  path = tmp_path_factory.mktemp("published")
  make, option = _FOLDERS[request.param]
  make(path, option)
  return path


def test_what_it_does_to_the_first_word(folder):
  ours = kinds.load(folder)
  is_bytes = (folder / "merges.txt").exists()
  assert ours.first_word_differs == (
      is_bytes and not ours.settings["add_prefix_space"])


@pytest.fixture(scope="module")
def both(folder):
  return kinds.load(folder), transformers.AutoTokenizer.from_pretrained(folder)


def _lines():
  """Returns odd lines without names of special tokens."""
  lines = sentencepiece_json_test._lines(2000)
  return _TEXT + [line.replace("<mask>", "x") for line in lines]


def test_ids_of_stock(both):
  ours, stock = both
  lines = _lines()
  wrong = [(line, found.tolist(), theirs) for line, found, theirs in zip(
      lines, ours.encode(lines), stock(
          lines, add_special_tokens=False)["input_ids"])
           if found.tolist() != theirs]
  assert not wrong, (len(wrong), wrong[:3])
  masked = [f"{a} {stock.mask_token}{b} {stock.mask_token}" for a, b in zip(
      lines[:300], lines[300:])]
  for line in masked:
    assert ours.encode_masked(line) == stock(
        line, add_special_tokens=False)["input_ids"], line


def test_special_tokens_of_stock(both):
  ours, stock = both
  special = ours.specials
  assert (special.bos, special.pad, special.eos, special.unk, special.mask) == (
      stock.cls_token_id, stock.pad_token_id, stock.sep_token_id,
      stock.unk_token_id, stock.mask_token_id)
  assert ours.mask_token == stock.mask_token
  assert ours.vocab_size == len(stock)
  assert set(stock.all_special_ids) <= set(ours.special_N)
  for texts in (["the house"], ["the house", "a runner"]):
    ids, types = ours.template.row(ours.encode(texts))
    found = stock(*texts, return_token_type_ids=True)
    assert ids.tolist() == found["input_ids"]
    assert types.tolist() == found["token_type_ids"]
    assert ours.template.num_specials(len(texts)) == (
        stock.num_special_tokens_to_add(len(texts) == 2))


@pytest.mark.parametrize("direction", ["left", "right"])
def test_padding_that_a_file_asks_for_is_no_template(both, tmp_path, direction):
  """Sentence encoders are published so; rows are padded elsewhere."""
  ours, stock = both
  stock.save_pretrained(tmp_path)
  padded = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  padded.enable_padding(
      direction=direction, length=16, pad_id=stock.pad_token_id,
      pad_token=stock.pad_token)
  padded.enable_truncation(16)
  padded.save(str(tmp_path / "tokenizer.json"))
  assert len(padded.encode("a").ids) == 16
  assert kinds.load(tmp_path).template == ours.template


def test_names_of_special_tokens_are_text(both):
  ours, _ = both
  for name in _NAMES:
    ids, = ours.encode([f"the{name} of {name}"])
    # What is unknown has an id in training as anywhere.
    assert not set(ids) & set(ours.special_N) - {ours.specials.unk}, name
    if name != ours.mask_token:
      assert ours.specials.mask not in ours.encode_masked(name)


def test_masking_selects_no_special_id(both, tiny):
  ours, _ = both
  vocabulary = ours.vocabulary("spaces")
  is_special_V = np.zeros(ours.vocab_size, bool)
  is_special_V[ours.special_N] = True
  ids = np.arange(ours.vocab_size)
  np.testing.assert_array_equal(vocabulary.is_special(ids), is_special_V)
  np.testing.assert_array_equal(
      vocabulary.ordinary(np.arange(vocabulary.num_ordinary)),
      np.flatnonzero(~is_special_V))


def test_words(both):
  """As they stand in running text, and where they start."""
  ours, _ = both
  words = ["the", "unaffable", "runner", "runs"]
  ids, of_word = ours.encode_words(words)
  whole, = ours.encode([" ".join(words)])
  assert list(ids) == whole.tolist()
  assert sorted(set(of_word)) == [0, 1, 2, 3]
  starts_V = ours.word_start_V("spaces")
  # The first of a byte-level text may have no space before it.
  started = np.flatnonzero(starts_V[ids])
  first = [of_word.index(number) for number in range(4)]
  assert started.tolist() == first or started.tolist() == first[1:]
  assert ours.word_start_V("scripts")[ours.special_N].all()
  assert "".join(ours.pieces[i] for i in ids).replace(
      word_starts.SPACE, " ").strip() == " ".join(words)
  assert ours.decode(ids).strip() == " ".join(words)


def test_record_and_folder(both, tmp_path):
  ours, _ = both
  back = kinds.of_record(json.loads(json.dumps(kinds.record(ours))))
  assert back.files == ours.files and back.digest == ours.digest
  kinds.save(ours, tmp_path)
  assert kinds.saved(tmp_path).digest == ours.digest
  (tmp_path / "tokenizer_files.json").write_text("{")
  with pytest.raises(errors.InputError, match="damaged"):
    kinds.saved(tmp_path)


@pytest.mark.slow
def test_trained(tmp_path):
  """The same bytes with one thread and with two; a word is a word."""
  (tmp_path / "text").write_text(conftest.make_text(400))
  program = ("import sys; from latemask.data.tokenizers import byte_level;"
             "t = byte_level.train(open(sys.argv[1]).read().splitlines(), 600)"
             ";print(t.vocab_size, t.digest)")
  told = [subprocess.run(
      [sys.executable, "-c", program, tmp_path / "text"], check=True,
      capture_output=True, text=True, env=os.environ | {"TOKENIZERS_PARALLELISM": "true",
                                   "RAYON_NUM_THREADS": threads}).stdout
          for threads in ("1", "2")]
  ours = byte_level.train(conftest.make_text(400).splitlines(), 600)
  assert hub_tokenizer.cuts_to(ours, conftest.model_config(), 24) == 24
  assert told == [f"{ours.vocab_size} {ours.digest}\n"] * 2
  assert ours.specials == huggingface.specials_lib.TRAINED
  alone, = ours.encode(["time"])
  assert ours.encode(["the time"])[0][-len(alone):].tolist() == alone.tolist()
  folder = tmp_path / "folder"
  folder.mkdir()
  for name, content in ours.files.items():
    (folder / name).write_bytes(content)
  stock = transformers.AutoTokenizer.from_pretrained(folder)
  lines = _lines()
  assert [ids.tolist() for ids in ours.encode(lines)] == stock(
      lines, add_special_tokens=False)["input_ids"]
  with pytest.raises(errors.InputError, match="at least 262"):
    byte_level.train(["text"], 261)


_ONLY_AN_END = json.loads(library.processors.TemplateProcessing(
    "$A [SEP]", "$A [SEP] $B [SEP]", [("[SEP]", 102)]).__getstate__())


@pytest.mark.parametrize("model", [
    library.models.WordLevel, library.models.WordPiece])
def test_names_between_spaces_are_text(tmp_path, model):
  """Where nothing splits their brackets off."""
  words = {word: index for index, word in enumerate(
      ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
  found = library.Tokenizer(model(words, unk_token="[UNK]"))
  found.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
  found.add_special_tokens(list(words)[:5])
  found.save(str(tmp_path / "tokenizer.json"))
  ids, = kinds.load(tmp_path / "tokenizer.json").encode(
      ["a [CLS] b [PAD] a [MASK] [SEP]"])
  assert ids.tolist() == [5, 1, 6, 1, 5, 1, 1]


def test_names_that_bpe_looks_up_whole_are_text(tmp_path):
  """With ignore_merges a word is looked up before it is merged."""
  names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
  trained = library.Tokenizer(library.models.BPE(
      unk_token="<unk>", ignore_merges=True))
  trained.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
  trained.train_from_iterator(_TEXT, library.trainers.BpeTrainer(
      vocab_size=400, show_progress=False, special_tokens=names,
      initial_alphabet=list("<>/")))
  trained.save(str(tmp_path / "tokenizer.json"))
  found = kinds.load(tmp_path)
  assert json.loads((tmp_path / "tokenizer.json").read_text())["model"][
      "ignore_merges"]
  ids = found.encode(["see <mask> and <s> here", "<pad>"])
  assert not any(found.is_special(i).any() for i in ids)
  plain = trained.encode("the old time", add_special_tokens=False).ids
  assert found.encode(["the old time"])[0].tolist() == plain
  assert found.specials.mask in found.encode_masked("see <mask> here")


def test_dropped_merges_are_for_training_alone(tmp_path):
  """The same text is the same ids every time, as the pages promise."""
  _bytes(tmp_path, False)
  written = kinds.load(tmp_path).described
  written["model"]["dropout"] = 0.5
  (tmp_path / "d").mkdir()
  (tmp_path / "d/tokenizer.json").write_text(json.dumps(written))
  one, other = kinds.load(tmp_path / "d"), kinds.load(tmp_path)
  for text in _TEXT[:20]:
    np.testing.assert_array_equal(*(t.encode([text])[0] for t in (one, other)))


def test_without_a_post_processor_rows_are_as_robertas(tmp_path):
  _words(tmp_path, True)
  (tmp_path / "bare").mkdir()
  (tmp_path / "bare/tokenizer.json").write_text(json.dumps(
      kinds.load(tmp_path).described | {"post_processor": None}))
  assert kinds.load(tmp_path / "bare").template.row([[7], [8, 9]])[
      0].tolist() == [101, 7, 102, 102, 8, 9, 102]


@pytest.mark.parametrize("change, message", [
    (lambda d: d["added_tokens"].clear() or d["model"]["vocab"].pop("[MASK]"),
     "no mask token .*data.add_mask_token"),
    (lambda d: d["added_tokens"].clear() or d["model"]["vocab"].pop("[PAD]"),
     "no pad token"),
    (lambda d: d.pop("model"), "cannot be read as a tokenizer"),
    (lambda d: d.update(post_processor=_ONLY_AN_END),
     r"makes 'TEXT \[SEP\]' of a text; rows here are '\[CLS\] TEXT \[SEP\]'")])
def test_refused(tmp_path, change, message):
  _words(tmp_path, True)
  whole = kinds.load(tmp_path).described
  change(whole)
  (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
  with pytest.raises(errors.InputError, match=message) as error:
    kinds.load(tmp_path / "tokenizer.json")
  assert "\n" not in str(error.value)
  (tmp_path / "empty").mkdir()
  with pytest.raises(errors.InputError, match="no tokenizer that can be read"):
    kinds.load(tmp_path / "empty")


@pytest.mark.parametrize("make, option", [
    (_words, True), (_bytes, False), (_unigram, None)])
def test_files_of_before_models_had_types(tmp_path, make, option):
  """As bert-base-uncased and roberta-base have them to this day."""
  make(tmp_path, option)
  ours = kinds.load(tmp_path)
  described = json.loads(json.dumps(ours.described))
  del described["model"]["type"]
  (tmp_path / "tokenizer.json").write_text(json.dumps(described))
  old = kinds.load(tmp_path)
  for lines in (_lines()[:50], [f"a {name} b" for name in _NAMES]):
    assert [ids.tolist() for ids in old.encode(lines)] == [
        ids.tolist() for ids in ours.encode(lines)]
  assert old.pieces == ours.pieces


@pytest.mark.parametrize("make, option", [(_words, True), (_bytes, False)])
@pytest.mark.parametrize("by_decoder", [True, False])
def test_tokens_that_a_vocabulary_got_later(tmp_path, make, option, by_decoder):
  """Beside a vocabulary alone, as slow tokenizers saved them."""
  make(tmp_path, option)
  count = kinds.load(tmp_path).vocab_size
  new = {"zwieback": count, "corvid": count + 1}
  path = tmp_path / "tokenizer_config.json"
  if by_decoder:
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        "added_tokens_decoder": {str(index): {
            "content": name, "lstrip": False, "rstrip": False,
            "single_word": False, "normalized": True, "special": False}
                                 for name, index in new.items()}}))
  else:
    (tmp_path / "added_tokens.json").write_text(json.dumps(new))
  ours = kinds.load(tmp_path)
  stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
  lines = ["the zwieback of", "corvid", *_lines()[:50]]
  found = [ids.tolist() for ids in ours.encode(lines)]
  assert count in found[0] and found[1] == [count + 1]
  assert found == stock(lines, add_special_tokens=False)["input_ids"]


def test_what_ends_a_line_of_a_vocabulary(tmp_path):
  """Not all that Python's splitlines takes for an end."""
  _words(tmp_path, True)
  path = tmp_path / "vocab.txt"
  text = path.read_text()
  for number, mark in enumerate("\u2028\x85\x0b\x1c"):
    text = text.replace(f"[unused{number}]", mark)
  path.write_bytes(text.replace("\n", "\r\n").encode())
  ours = kinds.load(tmp_path)
  stock = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert [ids.tolist() for ids in ours.encode(_TEXT)] == stock(
      _TEXT, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("make, option, settings, message", [
    (_words, True, {"tokenizer_class": "BertJapaneseTokenizer"},
     "vocab.txt is read as that of BertTokenizer, and it is of BertJ"),
    (_words, True, {"word_tokenizer_type": "mecab"}, "cut by .mecab., which is"),
    (_bytes, True, {"tokenizer_class": "HerbertTokenizer"},
     "vocab.json is read as that of RobertaTokenizer, and it is of Herb"),
    (_bytes, True, {}, "has not all 256 bytes .1 are missing")])
def test_vocabularies_of_other_classes(
    tmp_path, make, option, settings, message):
  make(tmp_path, option)
  path = tmp_path / "tokenizer_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | settings))
  if not settings:
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    vocabulary["other"] = vocabulary.pop("A")
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
  with pytest.raises(errors.InputError, match=message):
    kinds.load(tmp_path)


def test_pairs_that_are_two_documents(tmp_path):
  for pair in (None, "<s> $A </s> <s> $B </s>"):
    _unigram(tmp_path, None)
    found = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    found.post_processor = library.processors.TemplateProcessing(
        **{"single": "<s> $A </s>"} | ({"pair": pair} if pair else {}),
        special_tokens=[("<s>", 0), ("</s>", 2)])
    found.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(errors.InputError, match="two texts behind one begin"):
      kinds.load(tmp_path).template.check_pairs()


def test_tokenizers_that_mark_no_words(tmp_path):
  """As the library's quick tour has it: spaces are nowhere."""
  trained = library.Tokenizer(library.models.BPE(unk_token="<unk>"))
  trained.pre_tokenizer = library.pre_tokenizers.Whitespace()
  trained.train_from_iterator(_TEXT, library.trainers.BpeTrainer(
      vocab_size=300, show_progress=False,
      special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]))
  trained.save(str(tmp_path / "tokenizer.json"))
  ours = kinds.load(tmp_path)
  assert not ours.marks_words("spaces")
  for make, option in ((_words, True), (_bytes, False), (_unigram, None)):
    (tmp_path / make.__name__).mkdir()
    make(tmp_path / make.__name__, option)
    assert kinds.load(tmp_path / make.__name__).marks_words("spaces")
