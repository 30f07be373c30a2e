"""What of a model is trained: the same start, what stands still, peft."""

import json
import shutil

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy

from latemask import errors
from latemask.bench import finetune as bench
from latemask.finetune import batches
from latemask.finetune import data as data_lib
from latemask.finetune import grid as grid_lib
from latemask.finetune import run as finetune_run
from latemask.finetune import step as finetune_step
from latemask.finetune.adapters import folder as adapters_folder
from latemask.finetune.adapters import table
from latemask.hub import pretrained
from latemask.model import cut
from latemask.tools import merge
from tests.finetune import own_stock_test
from tests.finetune import stock_test

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.usefixtures("few_devices"), pytest.mark.slow]


def _build(folder, architecture, adapter, **changes):
  stock_test._folder(folder / "stock", architecture, kind="Model")
  config = own_stock_test._config(
      folder, "classes", **{"adapter.name": adapter, "adapter.rank": 3,
                            "adapter.alpha": 7.0, **changes})
  finetune_run.check(config)
  model, params, tokenizer, length = finetune_run.load(config)
  data, = data_lib.read(config, params, tokenizer, length)
  return config, finetune_step.make_program(
      config, model, params, tokenizer.specials, *data.program), data, tokenizer


@pytest.mark.parametrize("architecture, changes, message", [
    ("bert", {"adapter.name": "lora", "adapter.rank": 1000}, "adapter.rank"),
    ("modern", {"adapter.name": "bitfit"}, "no biases|has no bias")])
def test_one_that_cannot_be_leaves_nothing(
    tmp_path, architecture, changes, message):
  """Else the right command would be refused for what the wrong one wrote."""
  stock_test._folder(tmp_path / "stock", architecture, kind="Model")
  config = own_stock_test._config(tmp_path, "classes", **changes)
  with pytest.raises(errors.InputError, match=message):
    finetune_run.finetune(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("architecture, adapter", [
    ("bert", "lora"), ("modern", "lora"),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (
        ("bert", "head"), ("bert", "bitfit"), ("roberta_prenorm", "lora")))])
def test_first_losses_are_those_of_peft(tmp_path, architecture, adapter):
  """Or of stock with all else held still."""
  if adapter == "lora":
    pytest.importorskip("peft")
  config, program, data, tokenizer = _build(tmp_path, architecture, adapter)
  whole = finetune_step.make_program(
      own_stock_test._config(tmp_path, "classes"), program.model,
      program.params, tokenizer.specials, *data.program)
  state = program.init_state(np.uint32(0))
  rows = batches.pad(data.dev[""], np.arange(8), 8, [24])
  np.testing.assert_allclose(  # Begun, it is what it was.
      program.logits(state.params, rows),
      whole.logits(whole.init_state(np.uint32(0)).params, rows), atol=1e-5)
  ours, theirs = bench.first_losses(
      config, program, tokenizer, data, grid_lib.Cell(16, 1e-2, 0), 12)
  np.testing.assert_allclose(ours, theirs, atol=1e-4)
  assert np.ptp(ours) > 1e-2


@pytest.mark.parametrize("architecture", ["bert", "modern"])
def test_lora_comes_out_and_in(tmp_path, architecture, monkeypatch, capsys):
  """Stored small, loaded by peft, merged; and a folder that peft has saved."""
  peft = pytest.importorskip("peft")
  torch = own_stock_test.torch
  config, program, data, tokenizer = _build(tmp_path, architecture, "lora")
  config.grid.num_epochs = 2
  workdir, merged = tmp_path / "tuned", tmp_path / "merged"
  finetune_run.finetune(config, workdir)
  told = capsys.readouterr().out
  assert "numbers are trained besides the head" in told
  stored = workdir / "export" / "classes"
  assert {path.name for path in stored.iterdir()} == set(adapters_folder.FILES)

  def run(*arguments):
    monkeypatch.setattr("sys.argv", ["merge", *map(str, arguments)])
    merge.main()
  run("--adapter", stored, "--out", merged)
  batch = tokenizer_batch(merged)
  with torch.no_grad():
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(
        merged).eval()
    expected = whole(**batch).logits
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "stock", num_labels=2)
    found = peft.PeftModel.from_pretrained(base, stored).eval()
    np.testing.assert_allclose(found(**batch).logits, expected, atol=1e-5)
    assert whole.config.id2label == {0: "no", 1: "yes"}
    # The way back: another adapter, as peft writes it.
    for name, parameter in found.named_parameters():
      if "lora_" in name:
        parameter.add_(0.05 * torch.randn_like(parameter))
    found.save_pretrained(tmp_path / "of_peft")
    expected = found(**batch).logits
  run("--adapter", tmp_path / "of_peft", "--init_from", tmp_path / "stock",
      "--out", tmp_path / "again")
  with torch.no_grad():
    np.testing.assert_allclose(
        transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "again").eval()(**batch).logits, expected, atol=1e-5)
  # peft by itself keeps what is new of a head: not BERT's pooler, which lies
  # with the encoder, nor ModernBERT's, which lies nowhere.
  saved = tmp_path / "of_peft/adapter_model.safetensors"
  tensors = {name: tensor for name, tensor
             in safetensors.numpy.load_file(saved).items()
             if ".lora_" in name or ".classifier." in name}
  safetensors.numpy.save_file(tensors, saved)

  def refused(adapter, init_from="stock"):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
      run("--adapter", adapter, "--init_from", tmp_path / init_from,
          "--out", tmp_path / "no")
    assert ended.value.code == 2 and not (tmp_path / "no").exists()
    return capsys.readouterr().err.splitlines()[-1]
  if architecture == "bert":
    run("--adapter", tmp_path / "of_peft", "--init_from", tmp_path / "stock",
        "--out", tmp_path / "less")
    np.testing.assert_array_equal(*(
        safetensors.numpy.load_file(tmp_path / name)[at + "pooler.dense.weight"]
        for name, at in (("less/model.safetensors", "bert."),
                         ("stock/model.safetensors", ""))))
  else:
    assert "has no head.dense.weight, and the encoder" in refused(
        tmp_path / "of_peft")
  safetensors.numpy.save_file(
      tensors | {"base_model.model.embeddings.more": np.zeros(3)}, saved)
  assert "nothing here reads the weight embeddings.more" in refused(
      tmp_path / "of_peft")
  # Another encoder is refused.
  other = tmp_path / "other"
  stock_test._folder(other, architecture, kind="ForMaskedLM")
  told = refused(stored, "other")
  assert "belongs to another encoder" in told and str(tmp_path) in told


def tokenizer_batch(folder):
  """Returns a batch of two texts of as many tokens, as stock reads them."""
  return transformers.AutoTokenizer.from_pretrained(folder)(
      ["she had time", "he had old"], return_tensors="pt")


@pytest.mark.parametrize("name, field, value", [
    (adapters_folder.ABOUT, field, value) for field, value in (
        ("adapter", None), ("adapter", {}), ("adapter.name", "x"),
        ("adapter.rank", "8"), ("adapter.alpha", -1.0),
        ("adapter.matrices", 7), ("encoder", None), ("keep_layers", "x"),
        ("head", 7), ("labels", ["a"]), ("labels", 7), ("task", 7),
        ("task.max_length", "x"), ("trained_length", -1))] + [
    ("adapter_config.json", field, value) for field, value in (
        ("r", None), ("r", "8"), ("lora_alpha", None), ("lora_alpha", "x"))])
def test_fields_from_outside(stored, name, field, value):
  """What they cannot be is told in one line, by file and field."""
  config, encoder, folder = stored
  if name != adapters_folder.ABOUT:
    (folder / adapters_folder.ABOUT).unlink()
  said = json.loads((folder / name).read_text())
  *groups, last = field.split(".")
  inside = said
  for group in groups:
    inside = inside[group]
  inside[last] = value
  (folder / name).write_text(json.dumps(said))
  with pytest.raises(errors.InputError) as refused:
    adapters_folder.load(folder, config, encoder)
  told = str(refused.value)
  assert name in told and field.split(".")[-1] in told and "\n" not in told


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
  """(encoder's config, its parameters, a folder with LoRA beside it)."""
  folder = tmp_path_factory.mktemp("adapter")
  config, program, data, _ = _build(folder, "bert", "lora")
  state = program.init_state(np.uint32(0))
  adapters_folder.store(
      folder / "stored", config.adapter, program.model,
      program.params["encoder"], jax.device_get(state.params), {
          "init_from": None, "keep_layers": None, "head": "text",
          "labels": data.task.labels, "task": data_lib.about(data),
          "trained_length": 24})
  return program.model, program.params["encoder"], folder / "stored"


@pytest.fixture
def stored(adapter, tmp_path):
  """The same, with a copy of the folder that may be broken."""
  *model, folder = adapter
  shutil.copytree(folder, tmp_path / "copy")
  adapters_folder.load(tmp_path / "copy", *model)
  return *model, tmp_path / "copy"


@pytest.mark.parametrize("adapter", ["head", "bitfit"])
def test_small_ones_come_back(tmp_path, adapter):
  config, program, _, tokenizer = _build(tmp_path, "bert", adapter)
  params = jax.tree.map(
      lambda leaf: np.asarray(leaf) + 0.1,
      program.init_state(np.uint32(0)).params)
  about = {"init_from": config.init_from, "keep_layers": None, "head": "text",
           "labels": ["no", "yes"], "task": None, "trained_length": None}
  adapters_folder.store(tmp_path / "small", config.adapter, program.model,
                        program.params["encoder"], params, about)
  loaded = pretrained.load(config.init_from)
  model, encoder = cut.cut(loaded.config, loaded.params)
  found = adapters_folder.load(tmp_path / "small", model, encoder)
  same = np.testing.assert_array_equal
  jax.tree.map(same, found.params["head"], params["head"])
  merged = flax.traverse_util.flatten_dict(
      adapters_folder.merge(found, model, encoder), sep="/")
  for path, leaf in flax.traverse_util.flatten_dict(encoder, sep="/").items():
    moves = 0.1 if adapter == "bitfit" and path.endswith("bias") else 0
    np.testing.assert_allclose(merged[path], leaf + moves, atol=1e-6)
  assert tokenizer.digest


@pytest.mark.parametrize("changes, message", [
    ({"adapter.rank": 17}, "adapter.rank is 17; the encoder has width 16"),
    ({"from_scratch": True}, "from_scratch is True: an encoder that stands"),
    ({"adapter.name": "bitfit"}, "modern has no biases"),
    ({"adapter.name": "adapters"}, "adapter.name is 'adapters'; it must be one"),
])
def test_what_cannot_be(tmp_path, changes, message):
  with pytest.raises(errors.InputError, match=message):
    config, program, *_ = _build(tmp_path, "modern", "lora", **changes)
    program.init_state(np.uint32(0))


def test_a_folder_of_peft_that_is_more_than_lora(tmp_path):
  (tmp_path / "adapter_config.json").write_text(json.dumps(
      {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "use_dora": True}))
  with pytest.raises(errors.InputError, match="use_dora True; only False can"):
    adapters_folder.about_of(tmp_path)
  (tmp_path / "adapter_config.json").write_text(json.dumps(
      {"peft_type": "LORA", "r": 2, "lora_alpha": 2,
       "init_lora_weights": "pissa_niter_4"}))
  with pytest.raises(errors.InputError, match="init_lora_weights 'pissa_nite"):
    adapters_folder.about_of(tmp_path)
  with pytest.raises(errors.InputError, match="holds no adapter"):
    adapters_folder.about_of(tmp_path / "no")


def test_dropout_of_pairs(tmp_path):
  """Of the inputs of the products; none where nothing is trained."""
  config, program, *_ = _build(tmp_path, "bert", "lora",
                               **{"adapter.dropout": 0.5})
  params = program.init_state(np.uint32(0)).params["encoder"]
  params = jax.tree.map(lambda leaf: leaf + 0.1, params)
  encoder = program.params["encoder"]
  whole = [table.ADAPTERS["lora"].whole(
      config.adapter, program.model, encoder, params, key)
           for key in (None, *map(jax.random.key, range(200)))]
  kernels = [np.asarray(one["late"]["layers"]["mlp"]["in_kernel"]) - np.asarray(
      encoder["late"]["layers"]["mlp"]["in_kernel"]) for one in whole]
  np.testing.assert_allclose(
      np.mean(kernels[1:], axis=0), kernels[0], atol=0.25 * np.abs(
          kernels[0]).max())
  rows = np.stack(kernels[1:])[:, 0, 0].reshape(200, 16, -1)
  is_off = (rows == 0).all(-1)
  assert 0.4 < is_off.mean() < 0.6
