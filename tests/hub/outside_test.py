"""A model from outside: what it cannot be is told by file and field."""

import json
import re
import shutil
import tarfile

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from latemask import errors
from latemask.hub import pretrained
from tests import conftest

ARCHIVE = conftest.ROOT / "tests" / "before" / "047c3e9.tar.xz"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
  """Folders that were exported here: two layers of width 4, of which one
  is the encoder."""
  folder = tmp_path_factory.mktemp("exports")
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(folder, [m for m in archive.getmembers()
                                if m.name.startswith("export")], filter="data")
  return folder


@pytest.fixture
def folder(exports, tmp_path):
  """Returns a function (architecture) -> a copy that may be broken."""
  def copy(architecture, stock=False):
    copied = tmp_path / "model"
    shutil.copytree(exports / f"export_{architecture}", copied)
    if stock:  # As it is where nothing of ours has written it.
      for name in ("latemask.json", "latemask.safetensors"):
        (copied / name).unlink()
    return copied
  return copy


def _refused(path):
  """Returns the one line that `load` ends with."""
  with pytest.raises(errors.InputError) as refused:
    pretrained.load(path)
  message = str(refused.value)
  assert "\n" not in message and len(message) < 400
  return message


def _change(path, changes):
  """Sets fields, given by dotted names, in a JSON file; `...` drops one."""
  content = json.loads(path.read_text())
  for name, value in changes.items():
    *groups, field = name.split(".")
    inside = content
    for group in groups:
      inside = inside[group]
    if value is ...:
      del inside[field]
    else:
      inside[field] = value
  path.write_text(json.dumps(content))


@pytest.mark.parametrize("architecture", ["roberta", "modern"])
def test_as_they_are(folder, architecture):
  loaded = pretrained.load(folder(architecture, stock=True))
  assert loaded.config.layers == 1


@pytest.mark.parametrize("name", ["config.json", "latemask.json"])
@pytest.mark.parametrize("text", ["", '{"model_type": "rob', "[]", "7",
                                  '{"a": "\xff', "null"])
def test_no_object(folder, name, text):
  path = folder("roberta") / name
  path.write_text(text, "latin-1")
  assert str(path) in _refused(path.parent)


STOCK = [
    ("hidden_size", "64"), ("hidden_size", 0), ("hidden_size", -4),
    ("hidden_size", 4.0), ("hidden_size", True), ("hidden_size", None),
    ("hidden_size", [4]), ("hidden_size", 10**12), ("hidden_size", ...),
    ("num_hidden_layers", -1), ("num_hidden_layers", 0),
    ("num_attention_heads", 0), ("num_attention_heads", 3),
    ("intermediate_size", "x"), ("vocab_size", 10**12), ("vocab_size", 2**24),
    ("vocab_size", 301), ("max_position_embeddings", 1),
    ("max_position_embeddings", 2**40), ("layer_norm_eps", "x"),
    ("layer_norm_eps", -1), ("layer_norm_eps", float("nan")),
    ("hidden_dropout_prob", 1.5), ("attention_probs_dropout_prob", []),
    ("model_type", 7), ("model_type", ["roberta"]), ("model_type", "bart"),
    ("hidden_act", "relu"), ("is_decoder", True)]
MODERN = [
    ("norm_eps", "x"), ("mlp_dropout", -1), ("attention_dropout", "x"),
    ("rope_parameters", 7), ("rope_parameters.full_attention", []),
    ("rope_parameters.full_attention.rope_theta", -1),
    ("rope_parameters.full_attention.rope_theta", ...),
    ("max_position_embeddings", 0), ("num_attention_heads", 4)]


@pytest.mark.parametrize("architecture, field, value", [
    ("roberta", *case) for case in STOCK] + [
        ("modern", *case) for case in MODERN])
def test_config_json(folder, architecture, field, value):
  path = folder(architecture, stock=True) / "config.json"
  _change(path, {field: value})
  message = _refused(path.parent)
  assert str(path.parent) in message and "config.json" in message
  if value in (2**24, 301):  # What no file of 300 rows has.
    field = "embeddings.word_embeddings"
  assert field.split(".")[0 if field.startswith("rope") else -1] in message


LATEMASK = [
    ("model", ...), ("model", []), ("model", None), ("model", "modern"),
    ("model.widht", 4), ("model.width", ...), ("model.width", "4"),
    ("model.architecture", "gpt"), ("model.architecture", ["modern"]),
    ("model.decoder", "none"), ("model.dtype", "float16"),
    ("model.heads", 3), ("model.heads", 4), ("model.layers", -3),
    ("model.insertion_layer", 99), ("model.insertion_layer", 2),
    ("model.vocab_size", None), ("model.vocab_size", 10**12),
    ("model.norm_eps", float("nan")), ("model.remat", "all"),
    ("encoder_layers", ...), ("encoder_layers", 0), ("encoder_layers", 3),
    ("encoder_layers", "1"), ("steps", -1), ("steps", "x"), ("rows", 7),
    ("rows", "x"), ("trained_length", "x"), ("trained_length", 0),
    ("masking", 7), ("masking", {"unit": "letter"}), ("format", 2),
    ("format", "x")]


@pytest.mark.parametrize("field, value", LATEMASK)
def test_latemask_json(folder, field, value):
  path = folder("modern") / "latemask.json"
  _change(path, {field: value})
  message = _refused(path.parent)
  assert str(path) in message and field.split(".")[-1] in message


def test_masks_at_the_input_and_a_cross_decoder(folder):
  path = folder("modern") / "latemask.json"
  _change(path, {"model.insertion_layer": 0, "model.decoder": "cross"})
  assert "model.decoder cross needs" in _refused(path.parent)


def _weights(path, change):
  tensors = safetensors.numpy.load_file(path)
  name = next(n for n in sorted(tensors) if "norm" in n.lower())
  tensors[name] = change(tensors[name])
  safetensors.numpy.save_file(tensors, path)
  return name


@pytest.mark.parametrize("change, says", [
    (lambda a: a.astype(np.int8), "int8"),
    (lambda a: a.astype(np.int64), "int64"),
    (lambda a: a.astype(bool), "bool"),
    (lambda a: a.astype(ml_dtypes.float8_e4m3fn), "F8_E4M3"),
    (lambda a: a * np.nan, "not finite"),
    (lambda a: a / np.zeros_like(a), "not finite"),
    (lambda a: a[:-1], "elements|is \\(")])
@pytest.mark.parametrize("name", ["model", "latemask"])
def test_weights_that_are_none(folder, name, change, says):
  path = folder("roberta") / f"{name}.safetensors"
  weight = _weights(path, change)
  message = _refused(path.parent)
  assert weight in message and re.search(says, message)
  assert str(path.parent) in message


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16,
                                   np.float64])
def test_weights_of_other_floats(folder, dtype):
  path = folder("roberta")
  before = pretrained.load(path).params
  _weights(path / "model.safetensors", lambda a: a.astype(dtype))
  after = pretrained.load(path).params
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b.astype(np.float32), atol=1e-2), before, after)
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(after))
