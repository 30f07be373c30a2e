"""ModernBERT with its local layers: in, out, on, and with late masks.

The oracle is transformers itself, with random norms everywhere.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.config import spec
from latemask.data.tokenizers import kinds
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.model import architecture as architecture_lib
from latemask.model import cut
from latemask.model import heads
from latemask.train import init_from
from latemask.train import step as step_lib
from tests.hub import export_test
from tests.hub import stock_test
from tests.hub import with_code_test

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SPECIALS = specials.TRAINED
THETAS = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}


@pytest.fixture(scope="module")
def tokenizer(packed_dir):
  return kinds.load(packed_dir / "tokenizer.model")


def _stock(kind, layers=5, window=20, vocab_size=stock_test.VOCAB):
  """Returns a stock model: global, local, local, global, local."""
  return stock_test._stock(
      "modern", kind, num_hidden_layers=layers, max_position_embeddings=1024,
      local_attention=window, vocab_size=vocab_size, layer_types=[
          "sliding_attention" if i % 3 else "full_attention"
          for i in range(layers)],
      rope_parameters={name: {"rope_type": "default", "rope_theta": theta}
                       for name, theta in THETAS.items()})


def _rows(length):
  """Returns rows of one document: two whole ones, two padded."""
  ids_BxS = np.random.default_rng(0).integers(5, stock_test.VOCAB, (4, length))
  ids_BxS[:, 0], ids_BxS[:2, -1] = SPECIALS.bos, SPECIALS.eos
  for row, share in ((2, 3), (3, 2)):
    ids_BxS[row, length // share] = SPECIALS.eos
    ids_BxS[row, length // share + 1:] = SPECIALS.pad
  return ids_BxS


@pytest.mark.slow
def test_same_function(tmp_path):
  """Hidden states and logits; rows of one block, and of 103."""
  stock = _stock("ForMaskedLM")
  stock.save_pretrained(tmp_path)
  config, params, _ = hub_folder.load_model(tmp_path, SPECIALS.mask)
  assert config.local_layers == (False, True, True, False, True)
  assert (config.rotary_theta, config.local_rotary_theta) == tuple(
      THETAS.values())
  head = heads.init(config, stock_test.LABELS, jax.random.key(0))
  for length in (16, 1024):
    ids_BxS = _rows(length)
    found = stock_test._ours(config)(
        params, head, ids_BxS, jnp.zeros(ids_BxS.shape, bool))
    logits = stock_test._asked(stock, ids_BxS).logits
    hidden = stock_test._asked(stock.model, ids_BxS).last_hidden_state
    real_BxS = ids_BxS != SPECIALS.pad
    for name, expected in (("Model", hidden), ("ForMaskedLM", logits)):
      expected = expected.numpy()[real_BxS]
      assert expected.std() > 0.1
      np.testing.assert_allclose(
          np.asarray(found[name])[real_BxS], expected, atol=1e-4)


# Of a run; masks come in behind a stack, inside of one, at the input.
RUNS = [dict(layers=6, insertion_layer=4),
        dict(layers=7, insertion_layer=3, insertion="scatter"),
        dict(layers=5, insertion_layer=0, insertion="scatter")]


def _pretrained(tiny, tokenizer, changes):
  return export_test._pretrained(tiny, tokenizer, "modern", **dict(
      global_every=3, local_window=6, rotary_theta=500.0,
      local_rotary_theta=100.0) | changes)


@pytest.mark.slow
@pytest.mark.parametrize("changes", RUNS)
def test_out_and_back(tiny, tokenizer, tmp_path, changes):
  """Stock is the same function, and says so; the way back is bit-equal."""
  config, params = _pretrained(tiny, tokenizer, changes)
  name = hub_folder.export(config, params, tokenizer, tmp_path / "out")
  is_whole = not config.insertion_layer
  assert name == "ModernBert" + ("ForMaskedLM" if is_whole else "Model")
  model = transformers.AutoModel.from_pretrained(tmp_path / "out")
  written = json.loads((tmp_path / "out" / "config.json").read_text())
  assert written["layer_types"] == [
      "sliding_attention" if i % 3 else "full_attention"
      for i in range(config.insertion_layer or config.layers)]
  assert written["local_attention"] == 6
  ids_BxS = export_test._rows(config.vocab_size)
  cut_config, encoder = cut.cut(config, params)
  found = jax.jit(lambda p: cut.encode(
      cut_config, p, jnp.asarray(ids_BxS), SPECIALS))(encoder)
  expected = export_test._stock(model, ids_BxS).last_hidden_state.numpy()
  real = ids_BxS != SPECIALS.pad
  assert expected[real].std() > 0.1
  np.testing.assert_allclose(
      np.asarray(found)[real], expected[real], atol=1e-4)
  back_config, back, *_ = hub_folder.load(tmp_path / "out")
  assert back_config == config
  jax.tree.map(np.testing.assert_array_equal, back, params)
  # The cut encoder with a head for classes, too.
  hub_folder.export(
      cut_config, encoder, tokenizer, tmp_path / "classes",
      class_head=heads.init(config, 2, jax.random.key(0)))
  assert hub_folder.load(tmp_path / "classes")[0] == cut_config


def test_late_layers_that_no_encoder_has(tiny, tokenizer, tmp_path):
  """Those of a stack can be kept; those behind it are global, and cannot."""
  config, params = _pretrained(tiny, tokenizer, RUNS[0])
  assert config.local_layers == (False, True, True, False, False, False)
  with pytest.raises(errors.InputError, match="keep at most 4") as refused:
    hub_folder.export(config, params, tokenizer, tmp_path / "out", 6)
  assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()
  config, params = _pretrained(tiny, tokenizer, RUNS[1])
  assert cut.cut(config, params, 7)[0].local_layers == config.local_layers


@pytest.mark.slow
@pytest.mark.parametrize("changes", RUNS[:2])
def test_logits_of_late_masks(tiny, tokenizer, tmp_path, changes):
  """By the file that is exported with the model."""
  with_code_test.test_logits_of_late_masks(
      tiny, tokenizer, tmp_path, "modern", dict(
          global_every=3, local_window=6, rotary_theta=500.0,
          local_rotary_theta=100.0) | changes)


@pytest.mark.parametrize("layers, insertion", [(4, "append"), (5, "scatter")])
def test_continue(tmp_path, tokenizer, layers, insertion):
  """Two late layers behind it, global where the pattern lets them be."""
  folder = tmp_path / "stock"
  _stock("Model", layers, vocab_size=320).save_pretrained(folder)
  found, params, about = hub_folder.load_model(folder, SPECIALS.mask)
  config = spec.load(f"configs/continue.py:{folder},model.dtype=float32")
  m = config.model
  assert (m.layers, m.insertion_layer, m.insertion) == (
      layers + 2, layers, insertion)
  for place in (f"0,model.layers={layers}", f"{layers},model.layers={layers + 3}"):
    architecture_lib.check(spec.load(
        f"configs/continue.py:{folder},model.insertion=scatter,"
        f"model.insertion_layer={place}").model)
  assert (m.global_every, m.local_window, m.local_rotary_theta) == (
      3, 20, 10_000.0)
  assert architecture_lib.local_layers(m)[:layers] == found.local_layers
  program = step_lib.build(config, tokenizer.vocabulary("spaces"))
  loaded = pretrained.Pretrained(
      str(folder), found, params, tokenizer, **about)
  begun = init_from.begin(
      loaded, program.model.config, tokenizer, jax.tree.map(
          lambda shape: jnp.zeros(shape.shape), program.state_shapes.params),
      config.train.init_late)
  np.testing.assert_array_equal(
      begun["early"]["layers"]["mlp"]["in_kernel"],
      params["late"]["layers"]["mlp"]["in_kernel"])
  other = dataclasses.replace(found, insertion_layer=3, insertion="scatter")
  said = init_from._told_of_reach(found, other)
  assert said == "; layers that were local, and are not: 4" * (layers == 5)
  for key, value in (("global_every", 1), ("local_window", 22),
                     ("local_rotary_theta", 5.0)):
    with pytest.raises(errors.InputError, match=f"model.{key} is {value}"):
      init_from.check(loaded, dataclasses.replace(
          program.model.config, **{key: value}), tokenizer)


@pytest.mark.parametrize("changes, says", [
    (dict(layer_types=["sliding_attention"] * 5), "layer_types is"),
    (dict(layer_types=["full_attention"] * 3 + ["sliding_attention"] * 2),
     "layer_types is"),
    (dict(layer_types="full_attention"), "no list"),
    (dict(layer_types=["full_attention"] * 4), "5 layers, every n-th"),
    (dict(local_attention=21), "local_attention is 21; it must be an even"),
    (dict(local_attention=2048), "2048 is larger than the positions, max_p"),
    (dict(local_attention=None), "has no local_attention"),
    (dict(rope_parameters={
        "full_attention": {"rope_theta": 1e4},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "yarn"}}),
     "only rope_type default"),
    (dict(rope_parameters={"full_attention": {"rope_theta": 1e4}}),
     "has no rope_parameters.sliding_attention.rope_theta")])
def test_what_has_no_counterpart(tmp_path, changes, says):
  _stock("Model").config.save_pretrained(tmp_path)
  with pytest.raises(errors.InputError, match=says) as refused:
    hub_folder.load_model(
        stock_test._config_json(tmp_path, **changes), SPECIALS.mask)
  assert "\n" not in str(refused.value)
