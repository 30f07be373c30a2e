"""A published folder from end to end: in, on with new words, and out again.

The folder is as stock transformers writes it: a BERT with a vocab.txt whose
special tokens stand at their usual ids, with a few unused ones before them.
"""

import jax
import numpy as np
import pytest

from latemask.config import spec
from latemask.data.tokenizers import added
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.predict import fill_mask as fill_mask_lib
from latemask.train import init_from
from latemask.train import run as run_lib
from latemask.train import step as step_lib
from tests.data.tokenizers import huggingface_test

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
  loaded = pretrained.load(folder)
  tokenizer = pretrained.tokenizer_of_rows(config)
  program = step_lib.build(config, tokenizer.vocabulary("spaces"))
  begun = jax.device_get(init_from.begin(
      loaded, program.model.config, tokenizer, program.init_state().params,
      "copy"))
  new = added.new_ids(tokenizer, loaded.tokenizer)
  assert new == [1, 2]  # [unused0] and [unused1].
  for name in ("embedding", "output_bias"):
    before, after = np.array(loaded.params[name]), begun[name]
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


def test_without_new_words_its_own_files_come_out(folder, tmp_path):
  loaded = pretrained.load(folder)
  for overwrite in (False, True):
    hub_folder.export(loaded.config, loaded.params, loaded.tokenizer,
                      tmp_path / "out", overwrite=overwrite)
  for name in ("vocab.txt", "tokenizer_config.json"):
    assert (tmp_path / "out" / name).read_bytes() == (
        folder / name).read_bytes()
