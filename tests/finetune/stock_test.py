"""Fine-tuning from a published folder, against stock PyTorch.

The folders are stock's own, with random weights and a WordPiece vocabulary.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import glue as glue_config
from latemask.bench import finetune as finetune_bench
from latemask import errors
from latemask.finetune import batches
from latemask.finetune import data as data_lib
from latemask.finetune import grid as grid_lib
from latemask.finetune import run as finetune_run
from latemask.finetune import step as finetune_step
from latemask.hub import folder as hub_folder
from latemask.hub import weights as hf_weights
from latemask.model import heads
from tests import conftest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_WIDTH, _LAYERS = 16, 2
_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Folder, first line and how a label is written, by task.
_TASKS = {
    "rte": ("RTE", "index\tsentence1\tsentence2\tlabel",
            lambda label: ("entailment", "not_entailment")[label]),
    "stsb": ("STS-B", "index\tsentence1\tsentence2\tscore",
             lambda label: 4 * label + 0.5)}


def _folder(path, architecture="bert", kind="ForSequenceClassification",
            num_labels=2):
  """Writes a stock folder with random parameters; returns the model."""
  words = sorted(set(conftest.make_text(50).split()))
  letters = [mark + chr(letter) for mark in ("", "##")
             for letter in range(ord("a"), ord("z") + 1)]
  vocabulary = list(dict.fromkeys([*_SPECIALS, *letters, *words]))
  torch.manual_seed(0)
  fields = dict(
      vocab_size=len(vocabulary), hidden_size=_WIDTH, num_labels=num_labels,
      num_hidden_layers=_LAYERS, num_attention_heads=2, intermediate_size=24,
      max_position_embeddings=70, pad_token_id=0, bos_token_id=2,
      eos_token_id=3, cls_token_id=2, sep_token_id=3)
  if architecture == "modern":
    fields["layer_types"] = ["full_attention"] * _LAYERS
  else:
    fields["type_vocab_size"] = 1 + (architecture == "bert")
  name = hf_weights.CLASSES[architecture][1]
  model = getattr(transformers, name + kind)(
      getattr(transformers, name + "Config")(**fields)).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  model.save_pretrained(path)
  (path / "vocab.txt").write_text("".join(f"{w}\n" for w in vocabulary))
  (path / "tokenizer_config.json").write_text(json.dumps(
      {"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
  return model


def _pairs(num_rows, seed):
  """Returns (texts, texts, labels): 1 where the two begin alike.

  A row has 17 to 24 ids: one program serves them all.
  """
  rng = np.random.default_rng(seed)
  firsts, seconds = (
      [" ".join(text.split()[:rng.integers(6, 10)])
       for text in conftest.make_text(8 * num_rows, seed + i).splitlines()
       if len(text.split()) > 10][:num_rows]
      for i in range(2))
  labels = rng.integers(0, 2, num_rows).tolist()
  return [f"{'she' if label else 'he'} {a}" for a, label
          in zip(firsts, labels)], [f"she {b}" for b in seconds], labels


def _config(folder, path, task="rte"):
  """Returns a config with data of the task, both written where it says."""
  name, head, answer = _TASKS[task]
  (path / name).mkdir(parents=True)
  for split, num_rows in (("train", 48), ("dev", 8)):
    (path / name / f"{split}.tsv").write_text(head + "\n" + "".join(
        f"{i}\t{a}\t{b}\t{answer(label)}\n" for i, (a, b, label)
        in enumerate(zip(*_pairs(num_rows, len(split))))))
  config = glue_config.get_config()
  config.task, config.init_from = task, str(folder)
  config.data_dir, config.dropout = str(path), 0.0
  config.max_length = 32
  config.grid.num_epochs = 4
  return config


def _build(config):
  """Returns (program, tokenizer, data)."""
  model, params, tokenizer, length = finetune_run.load(config)
  data, = data_lib.read(config, params, tokenizer, length)
  return finetune_step.make_program(
      config, model, jax.device_put(params), tokenizer.specials,
      *data.program), tokenizer, data


def test_a_pair_and_its_types_reach_the_model(tmp_path):
  """Ids and logits of stock, which reads the files of the folder itself."""
  stock = _folder(tmp_path / "stock")
  config = _config(tmp_path / "stock", tmp_path / "glue")
  config.max_length = None  # Nothing is cut.
  program, _, data = _build(config)
  firsts, seconds, _ = _pairs(8, len("dev"))
  batch = transformers.AutoTokenizer.from_pretrained(tmp_path / "stock")(
      firsts, seconds, padding=True, return_tensors="pt")
  with torch.no_grad():
    expected_BxC = stock(**batch).logits.numpy()
  rows = np.arange(8)
  ids_BxS, second_BxS = batches.pad(
      data.dev[""], rows, 8, [batch["input_ids"].shape[1]])
  np.testing.assert_array_equal(ids_BxS, batch["input_ids"])
  np.testing.assert_array_equal(second_BxS, batch["token_type_ids"])
  for row in ids_BxS:
    assert row[0] == 2 and (row == 3).sum() == 2  # [CLS] a [SEP] b [SEP]
  params = program.init_state(np.uint32(0)).params
  found_BxC = program.logits(params, (ids_BxS, second_BxS))
  np.testing.assert_allclose(found_BxC, expected_BxC, atol=1e-5)
  untyped_BxC = program.logits(params, (ids_BxS, np.zeros_like(second_BxS)))
  assert np.abs(untyped_BxC - expected_BxC).max() > 1e-2


@pytest.mark.parametrize("architecture, kind, task", [
    ("bert", "Model", "rte"),
    *(pytest.param(*row, marks=pytest.mark.slow) for row in (
        ("roberta", "ForMaskedLM", "stsb"),
        ("modern", "ForMaskedLM", "rte")))])
def test_losses_are_those_of_pytorch(tmp_path, architecture, kind, task):
  """Ten steps, without dropout."""
  _folder(tmp_path / "stock", architecture, kind)
  config = _config(tmp_path / "stock", tmp_path / "glue", task)
  program, tokenizer, data = _build(config)
  args = config, program, tokenizer, data, grid_lib.Cell(16, 3e-3, 0)
  for num_steps in (0, 13):
    with pytest.raises(errors.InputError, match="training of .* has 12 steps"):
      finetune_bench.first_losses(*args, num_steps)
  ours, theirs = finetune_bench.first_losses(*args, 10)
  np.testing.assert_allclose(ours, theirs, atol=1e-4)
  # It has learned what no gradient of a wrong row would teach.
  assert ours[-3:].mean() < ours[:3].mean() - 0.02


def test_a_head_begins_with_what_the_folder_has(tmp_path):
  """All of it, the pooler alone, or nothing; other labels are not taken."""
  stock = tmp_path / "stock"
  _folder(stock)
  config = _config(stock, tmp_path / "glue")
  made = [_build(config)[0].init_state(np.uint32(0)).params["head"]]
  jax.tree.map(np.testing.assert_array_equal, made[0],
               hub_folder.load_class_head(stock))
  _folder(stock, num_labels=3)
  known = hub_folder.load_class_head(stock)
  assert known["out_kernel"].shape == (_WIDTH, 3)
  program, *_ = _build(config)
  made += [program.init_state(np.uint32(seed)).params["head"]
            for seed in range(2)]
  for head in made[1:]:
    assert head["out_kernel"].shape == (_WIDTH, 2)
    for name in ("dense_kernel", "dense_bias"):
      np.testing.assert_array_equal(head[name], known[name])
  assert len({np.asarray(head["out_kernel"]).tobytes() for head in made}) == 3
  config.from_scratch = True  # The sizes alone.
  assert _build(config)[0].params["head"] == {}


def test_a_head_that_is_read_makes_other_cells(tmp_path):
  _folder(tmp_path / "stock")
  config = _config(tmp_path / "stock", tmp_path / "glue")
  _, params, tokenizer, length = finetune_run.load(config)
  found = [data_lib.read(config, {**params, "head": head}, tokenizer, length
                         )[0].digest
           for head in (params["head"], {}, {"dense_bias": np.ones(_WIDTH)})]
  assert len(set(found)) == 3


@pytest.mark.parametrize("architecture", list(hf_weights.CLASSES))
def test_dropout_of_a_head_is_where_stock_has_it(tmp_path, architecture):
  """A state of ones, in training: what comes out tells what was dropped."""
  stock = _folder(tmp_path, architecture, num_labels=_WIDTH)
  config, *_ = hub_folder.load_model(tmp_path, 4)
  head = hub_folder.load_class_head(tmp_path)
  # As many labels as states, each its own: the last dropout lies bare.
  head |= {"out_kernel": np.eye(_WIDTH, dtype=np.float32),
           "out_bias": np.zeros(_WIDTH, np.float32)}
  config = dataclasses.replace(config, dropout=0.5)
  ours = np.stack([heads.ClassificationHead(config, _WIDTH).apply(
      {"params": head}, jnp.ones((1, _WIDTH)), True,
      rngs={"dropout": jax.random.key(seed)})[0] for seed in range(8)])
  # Where only the output layer's input is dropped, a label is 0 or one value.
  has_first = [len(np.unique(np.round(column[column != 0], 4))) > 1
               for column in ours.T]
  assert all(has_first) or not any(has_first)
  assert (ours == 0).any()
  modules = {name for name, module in stock.named_modules()
             if isinstance(module, torch.nn.Dropout)}
  # Stock's RobertaClassificationHead has one of its own, used twice.
  assert any(has_first) == ("classifier.dropout" in modules)
