"""Folders that stock transformers load as the same function, and the way back.

The oracle is transformers itself, with random norms and biases everywhere.
"""

import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from latemask.data.tokenizers import kinds
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.masking import masked as masked_lib
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.model import cut
from latemask.model import heads
from latemask.model import encoder as encoder_lib
from latemask.predict import fill_mask as fill_mask_lib
from tests import conftest
from tests import readme_test

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ARCHITECTURES = ("roberta", "roberta_prenorm", "modern")
LENGTH = 24


def _pretrained(tiny, tokenizer, architecture, seed=0, **keys):
  """Returns (ModelConfig, random parameters, norms and biases too)."""
  tiny.model.update(dict(architecture=architecture, width=48, heads=4, mlp=80)
                    | keys)
  model = encoder_lib.make_model(tiny, tokenizer.vocab_size)
  ids = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(lambda: model.init(
      jax.random.key(0), selection.mask_batch(
          plan_lib.make_plan(tiny, specials.trained(tokenizer.vocab_size)), jax.random.key(0),
          jnp.zeros(1, jnp.int32), jnp.zeros((1, LENGTH), jnp.int32))
      if tiny.model.insertion_layer else masked_lib.unmasked(ids, specials.TRAINED)))["params"]
  rng = np.random.default_rng(seed)
  return model.config, jax.tree.map(
      lambda s: 0.2 * rng.standard_normal(s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def tokenizer(packed_dir):
  return kinds.load(packed_dir / "tokenizer.model")


def _rows(vocab_size):
  """Returns rows of one document, some padded."""
  ids_BxS = conftest.random_rows(8, LENGTH, vocab_size)[[1, 2, 3, 5, 6]]
  assert (ids_BxS == specials.TRAINED.pad).any(1).sum() in range(1, 5)
  return ids_BxS


def _stock(model, ids_BxS):
  with torch.no_grad():
    return model.eval()(
        input_ids=torch.tensor(ids_BxS, dtype=torch.long),
        attention_mask=torch.tensor(ids_BxS != specials.TRAINED.pad))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("seed, keep_layers", [(0, None), (1, 3), (2, 4)])
def test_hidden_states_of_stock_classes(
    tiny, tokenizer, tmp_path, architecture, seed, keep_layers):
  config, params = _pretrained(tiny, tokenizer, architecture, seed)
  name = hub_folder.export(config, params, tokenizer, tmp_path / "out", keep_layers)
  assert name.endswith("Model")
  model, found = transformers.AutoModel.from_pretrained(
      tmp_path / "out", output_loading_info=True)
  assert not found["unexpected_keys"] and not found["mismatched_keys"]
  assert all("pooler" in key for key in found["missing_keys"])
  ids_BxS = _rows(config.vocab_size)
  cut_config, encoder = cut.cut(config, params, keep_layers)
  assert cut_config.layers == (keep_layers or config.insertion_layer)
  hidden = np.asarray(jax.jit(lambda p: cut.encode(
      cut_config, p, jnp.asarray(ids_BxS), specials.TRAINED))(encoder))
  real = ids_BxS != specials.TRAINED.pad
  expected = _stock(model, ids_BxS).last_hidden_state.numpy()
  assert expected[real].std() > 0.1
  np.testing.assert_allclose(hidden[real], expected[real], atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mlm_logits_of_stock_classes(tiny, tokenizer, tmp_path, architecture):
  """<mask> at the input is our mask vector, and the output is not tied."""
  config, params = _pretrained(
      tiny, tokenizer, architecture, insertion_layer=0)
  name = hub_folder.export(config, params, tokenizer, tmp_path / "out")
  assert name.endswith("ForMaskedLM")
  model, found = transformers.AutoModelForMaskedLM.from_pretrained(
      tmp_path / "out", output_loading_info=True)
  assert not any(found[k] for k in (
      "missing_keys", "unexpected_keys", "mismatched_keys"))
  ids_BxL = _rows(config.vocab_size)
  tiny.data.length = LENGTH
  plan = plan_lib.make_plan(tiny, specials.trained(config.vocab_size))
  masked = jax.jit(lambda: selection.mask_batch(
      plan, jax.random.key(1), jnp.arange(5), jnp.asarray(ids_BxL)))()
  hidden_BxTxD = jax.jit(lambda p: encoder_lib.LateMaskModel(config).apply(
      {"params": p}, masked))(params)
  logits = (np.einsum("btd,vd->btv", hidden_BxTxD, params["embedding"])
            + params["output_bias"])[..., :config.vocab_size]
  real = np.asarray(masked.target_weights_BxT) > 0
  written = ids_BxL.copy()
  for row in range(5):
    written[row, masked.target_index_BxT[row][real[row]]] = specials.TRAINED.mask
  expected = np.take_along_axis(
      _stock(model, written).logits.numpy(),
      np.asarray(masked.target_index_BxT)[..., None], axis=1)
  assert expected[real].std() > 0.3
  np.testing.assert_allclose(logits[real], expected[real], atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_labels", [1, 3])
def test_class_logits_of_stock_classes(
    tiny, tokenizer, tmp_path, architecture, num_labels):
  config, params = _pretrained(tiny, tokenizer, architecture)
  config, encoder = cut.cut(config, params)
  head = jax.tree.map(
      lambda x: x + 0.3, heads.init(
          config, num_labels, jax.random.key(0)))
  hub_folder.export(config, encoder, tokenizer, tmp_path / "out", class_head=head)
  model, found = (
      transformers.AutoModelForSequenceClassification.from_pretrained(
          tmp_path / "out", output_loading_info=True))
  assert not any(found[k] for k in (
      "missing_keys", "unexpected_keys", "mismatched_keys"))
  ids_BxS = _rows(config.vocab_size)
  logits = jax.jit(lambda p: cut.logits(
      config, p, jnp.asarray(ids_BxS), specials.TRAINED, num_labels))(
          {"encoder": encoder, "head": head})
  np.testing.assert_allclose(
      logits, _stock(model, ids_BxS).logits.numpy(), atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("keys, keep_layers", [
    ({}, None), ({}, 4), ({"insertion_layer": 0}, None),
    ({"insertion_layer": 0}, 2), ({"decoder": "cross"}, None)])
def test_the_way_back_is_bit_equal(
    tiny, tokenizer, tmp_path, architecture, keys, keep_layers):
  config, params = _pretrained(tiny, tokenizer, architecture, **keys)
  hub_folder.export(config, params, tokenizer, tmp_path / "out", keep_layers)
  back_config, back, back_tokenizer, *_ = hub_folder.load(tmp_path / "out")
  assert back_config == config
  assert back_tokenizer.proto == tokenizer.proto
  assert jax.tree.structure(back) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, back, params)
  if keep_layers is None and architecture != "modern" and not keys:
    # What stock holds is not stored twice.
    rest = safetensors.numpy.load_file(
        tmp_path / "out" / "latemask.safetensors")
    assert {k.split("/")[0] for k in rest} == {
        "late", "head", "mask_vector", "output_bias", "embedding.padding"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_that_stock_wrote(tiny, tokenizer, tmp_path, architecture):
  """As a published encoder comes: no file of ours but the tokenizer."""
  config, params = _pretrained(
      tiny, tokenizer, architecture, insertion_layer=0)
  hub_folder.export(config, params, tokenizer, tmp_path / "ours")
  model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "ours")
  model.save_pretrained(tmp_path / "stock")
  (tmp_path / "stock" / "tokenizer.model").write_bytes(tokenizer.proto)
  back_config, back, *_ = hub_folder.load(tmp_path / "stock")
  assert back_config.layers == config.layers
  # <mask> alone tells its two embeddings from each other.
  assert not back_config.tied_output
  inputs = params["embedding"].copy()
  inputs[specials.TRAINED.mask] = params["mask_vector"]
  expected = params | {
      "embedding": inputs, "output_embedding": params["embedding"]}
  for path, array in flax.traverse_util.flatten_dict(
      expected, sep="/").items():
    found = flax.traverse_util.flatten_dict(back, sep="/")[path]
    if architecture == "modern" and path == "late/layers/attention_norm/scale":
      array, found = array[1:], found[1:]
    rows = slice(config.vocab_size if len(array) > 300 else None)
    np.testing.assert_array_equal(found[rows], array[rows], path)


def test_tokenizer_of_the_folder(tiny, tokenizer, tmp_path):
  """What transformers adds to tokenizer.json; its ids: tokenizer_test."""
  config, params = _pretrained(tiny, tokenizer, "roberta")
  hub_folder.export(config, params, tokenizer, tmp_path / "out")
  stock = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  assert stock.mask_token_id == specials.TRAINED.mask
  assert stock.pad_token_id == specials.TRAINED.pad
  for text in ("It is in <mask>.", "(<mask>)", "un<mask>able", "▁<mask> <0x0A>",
               "  the\t man <mask>"):
    assert stock(text)["input_ids"] == [0, *tokenizer.encode_masked(text), 2]
  one, two = "the man", "it was"
  pair = stock(one, two)["input_ids"]
  a, b = (list(map(int, ids)) for ids in tokenizer.encode([one, two]))
  assert pair == [0, *a, 2, 2, *b, 2]
  assert stock.decode(a) == one
  stock.add_tokens(["covid19"])
  assert stock.tokenize("acovid19 covid19").count("covid19") == 2


def test_stock_pipeline_gives_the_words_of_fill_mask(
    tiny, tokenizer, tmp_path):
  """Also of a model that has more ids than the tokenizer has words."""
  config, params = _pretrained(tiny, tokenizer, "roberta", vocab_size=420,
                               insertion_layer=0)
  params["output_bias"] = params["output_bias"].copy()
  params["output_bias"][tokenizer.vocab_size:] = 50.0
  hub_folder.export(config, params, tokenizer, tmp_path / "out")
  loaded = pretrained.load(tmp_path / "out")
  np.testing.assert_array_equal(
      loaded.params["output_bias"], params["output_bias"])
  filler = fill_mask_lib.Filler(loaded)
  stock = transformers.pipeline("fill-mask", str(tmp_path / "out"), top_k=400)
  for text in ("It is in <mask>.", "(<mask>) the", "un<mask>able", "<mask> was",
               "the <mask> man <mask>"):
    found = stock(text)
    found = found if isinstance(found[0], list) else [found]
    for ours, theirs in zip(filler.fill(text, top=20), found, strict=True):
      assert all(best["token"] < tokenizer.vocab_size or best["score"] == 0
                 for best in theirs)
      words = {filler.word(best["token"]): best["score"] for best in theirs
               if best["token"] < tokenizer.vocab_size}
      np.testing.assert_allclose(
          [words[word] for word, _ in ours], [p for _, p in ours], rtol=1e-3)
    assert np.isclose(sum(best["score"] for best in theirs), 1, atol=1e-3)


def test_refusals(tiny, tokenizer, tmp_path):
  config, params = _pretrained(tiny, tokenizer, "roberta", decoder="cross")
  out = tmp_path / "out"
  with pytest.raises(errors.InputError, match="cross-attention"):
    hub_folder.export(config, params, tokenizer, out, keep_layers=4)
  with pytest.raises(errors.InputError, match="has 4 layers"):
    hub_folder.export(config, params, tokenizer, out, keep_layers=5)
  with pytest.raises(errors.InputError, match="model_type is bpe"):
    hub_folder.export(config, params, conftest.spm(
        conftest.make_text(40).splitlines(), model_type="bpe"), out)
  assert not out.exists()
  hub_folder.export(config, params, tokenizer, out)
  with pytest.raises(errors.InputError, match="exists"):
    hub_folder.export(config, params, tokenizer, out)
  weights = safetensors.numpy.load_file(out / "model.safetensors")
  name = "encoder.layer.1.output.dense.bias"
  for change, message in [
      (lambda w: w.pop(name), f"weight {name} is missing"),
      (lambda w: w.update(odd=w[name]), "nothing here reads the weight odd"),
      (lambda w: w.update({name: w[name][:3]}),
       rf"weight {name} is \(3,\); config.json says \(48,\)")]:
    changed = dict(weights)
    change(changed)
    safetensors.numpy.save_file(changed, out / "model.safetensors")
    with pytest.raises(errors.InputError, match=message):
      hub_folder.load(out)
  (out / "model.safetensors").write_bytes(b"nothing")
  with pytest.raises(errors.InputError, match="cannot be read"):
    hub_folder.load(out)
  (out / "latemask.json").unlink()
  stock = json.loads((out / "config.json").read_text())
  for key, value in [("model_type", "gpt2"), ("hidden_act", "relu"),
                     ("pad_token_id", -1), ("is_decoder", True),
                     ("position_embedding_type", "relative_key")]:
    (out / "config.json").write_text(json.dumps(stock | {key: value}))
    with pytest.raises(errors.InputError, match=str(value)):
      hub_folder.load(out)
  (out / "config.json").write_text("{")
  with pytest.raises(errors.InputError, match="config.json cannot be read"):
    hub_folder.is_folder(out)
  (out / "config.json").write_text(json.dumps(stock))
  (out / "tokenizer.model").unlink()
  (out / "tokenizer.json").unlink()
  with pytest.raises(errors.InputError, match="out holds no tokenizer that"):
    hub_folder.load(out)


def test_what_the_readme_types(tiny, tokenizer, tmp_path):
  """The Python of the pages, but what needs another library."""
  for name, layer in (("demo", 3), ("vanilla", 0), ("coded", 3)):
    tiny.model.insertion_layer = layer
    hub_folder.export(*_pretrained(tiny, tokenizer, "modern"), tokenizer,
                      tmp_path / name, with_code=name == "coded")
  ran = 0
  for block in readme_test.python_blocks():
    if "sentence_transformers" not in block:
      exec(block.replace("exported/", f"{tmp_path}/"), {})
      ran += 1
  assert ran > 2
