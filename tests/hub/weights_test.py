"""The tables of stock weights: whole, both ways, each tensor by name and shape.

That stock classes compute the same function: export_test.
"""

import dataclasses

import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import convert
from latemask.hub import layouts
from latemask.hub import weights as hf_weights
from latemask.model import architecture as architecture_lib
from latemask.model import encoder as encoder_lib
from tests import conftest

WORDS, VOCAB = 310, 320


@pytest.fixture(scope="module", params=list(hf_weights.ENCODERS))
def sizes(request):
  """(config, shapes of our arrays) of a model with a head."""
  tiny = conftest.tiny_config()
  tiny.model.update(dict(architecture=request.param, insertion_layer=0))
  config = encoder_lib.make_model(tiny, VOCAB).config
  return config, convert._shapes(config)


@pytest.fixture
def stock(sizes, monkeypatch):
  """(config, our arrays, their tensors) of a model with a head."""
  config, shapes = sizes
  monkeypatch.setattr(convert, "_shapes", lambda config: shapes)
  rng = np.random.default_rng(0)
  params = {path: rng.standard_normal(shape).astype(np.float32)
            for path, shape in shapes.items() if path != "output_embedding"}
  prefix = hf_weights.CLASSES[config.architecture][2]
  tensors = convert.encoder_to_stock(config, params, prefix, specials.TRAINED.pad)
  tensors |= convert.mlm_to_stock(
      config, params, WORDS, prefix, specials.TRAINED.mask)
  return config, params, tensors


def _read(config, tensors, unread=()):
  found, left = convert.from_stock(
      config, config, tensors, "FOLDER", specials.TRAINED.pad,
      specials.TRAINED.mask)
  assert left == list(unread)
  return found


def test_architectures_have_tables():
  assert set(hf_weights.ENCODERS) == set(hf_weights.MLM_HEADS) == set(
      hf_weights.CLASS_HEADS) == set(hf_weights.CLASSES) == set(
          architecture_lib.ARCHITECTURES)


def test_each_parameter_has_a_row(stock):
  """What has none would be read back from our file alone, and never missed."""
  config, params, _ = stock
  rows = (hf_weights.encoder(config.architecture, specials.TRAINED.pad)
          | hf_weights.MLM_HEADS[config.architecture])
  assert set(rows) - {"output_embedding"} == set(params) - {"mask_vector"}


def test_the_way_back(stock):
  """All but the padding and what stock has no place for."""
  config, params, tensors = stock
  back = _read(config, tensors)
  assert set(back) == set(params)
  different = {path for path, array in params.items()
               if not np.array_equal(back[path][:VOCAB], array[:VOCAB])}
  no_norm = {path for path in params if path.startswith(
      "late/layers/attention_norm") and config.architecture == "modern"}
  assert different == {"output_bias"} | no_norm
  assert np.all(back["output_bias"][WORDS:VOCAB] < -1e3)
  for path in no_norm:
    np.testing.assert_array_equal(back[path][1:], params[path][1:])
  rest = convert.what_stock_lacks(
      config, params, config, tensors, specials.TRAINED.pad, specials.TRAINED.mask)
  assert set(rest) == {"embedding.padding", "output_bias"} | no_norm
  convert.add_rest(
      config, back, rest, "there", specials.TRAINED.mask)
  for path, array in params.items():
    np.testing.assert_array_equal(back[path], array, path)


def test_each_tensor_by_name_and_shape(stock):
  """Missing, or of another shape, even one of as many elements."""
  config, _, tensors = stock
  head = hf_weights.MLM_HEADS[config.architecture]
  _, *again = head["output_bias"].names  # RoBERTa has it twice.
  for name, tensor in tensors.items():
    if name in again:
      continue
    types = "token_type" in name  # There may be one, or more.
    short = name.removeprefix(hf_weights.CLASSES[config.architecture][2])
    wrong = [tensor[None], tensor[:-1], *([tensor.T] if tensor.ndim == 2 and
             tensor.shape[0] != tensor.shape[1] else [])]
    for changed in wrong:
      if types and len(changed) == 1 and changed.ndim == 2:
        continue
      with pytest.raises(errors.InputError) as error:
        _read(config, tensors | {name: changed})
      assert str(error.value).startswith(
          f"FOLDER: the weight {short} is {changed.shape}; config.json says (")
      assert types or str(error.value).endswith(str(tensor.shape))
    rest = {k: v for k, v in tensors.items() if k not in (name, *again)}
    if name in head["output_embedding"].names:
      continue  # Tied.
    with pytest.raises(errors.InputError, match=f"{short} is missing"):
      _read(config, rest)


def test_a_head_that_is_tied_one_that_is_not_and_one_that_is_not_there(stock):
  config, params, tensors = stock
  head = hf_weights.MLM_HEADS[config.architecture]
  output, = head["output_embedding"].names
  back = _read(config, {k: v for k, v in tensors.items() if k != output})
  np.testing.assert_array_equal(back["embedding"][specials.TRAINED.mask],
                                params["mask_vector"])
  names = {name for row in head.values() for name in row.names}
  back = _read(config, {k: v for k, v in tensors.items() if k not in names})
  np.testing.assert_array_equal(back["mask_vector"], params["mask_vector"])
  assert "output_bias" not in back
  untied = tensors[output].copy()
  untied[[7, specials.TRAINED.mask, 9]] += 1
  with pytest.raises(errors.InputError, match=f"{output} .* 2 rows besides"):
    _read(config, tensors | {output: untied})


def test_names_as_they_may_be(stock):
  """With or without the prefix of the class, norms named as of old; what is
  of no use here is left out and told, what is not known is an error."""
  config, params, tensors = stock
  prefix = hf_weights.CLASSES[config.architecture][2]
  old = {k.removeprefix(prefix).replace("Norm.weight", "Norm.gamma").replace(
      "Norm.bias", "Norm.beta"): v for k, v in tensors.items()}
  assert config.architecture == "modern" or any("gamma" in k for k in old)
  unread = np.zeros(3, np.int64)
  old |= {"embeddings.position_ids": unread, "pooler.dense.weight": unread,
          "cls.seq_relationship.bias": unread}
  back = _read(config, old, ["cls.seq_relationship.bias", "pooler.dense.weight"])
  for path, array in _read(config, tensors).items():
    np.testing.assert_array_equal(back[path], array, path)
  with pytest.raises(errors.InputError, match="the weight ada.*, up to b"):
    _read(config, old | {"adapter": unread, "b": unread})


def test_positions_begin_behind_pad(stock):
  """Of all but BERT."""
  config, params, tensors = stock
  if "positions" not in params:
    return
  stock_7 = convert.encoder_to_stock(config, params, "", 7)
  table = stock_7["embeddings.position_embeddings.weight"]
  first = 0 if config.architecture == "bert" else 8
  np.testing.assert_array_equal(table[first:], params["positions"])
  back, _ = convert.from_stock(
      config, config, stock_7, "", 7, specials.TRAINED.mask)
  np.testing.assert_array_equal(back["positions"], params["positions"])


def test_layers_are_dealt_out(stock):
  config, params, tensors = stock
  two = dataclasses.replace(config, insertion_layer=3)
  back, _ = convert.from_stock(
      two, config, tensors, "", specials.TRAINED.pad, specials.TRAINED.mask)
  for path, array in params.items():
    if path.startswith("late/layers/mlp"):
      np.testing.assert_array_equal(
          back[path.replace("late", "early")], array[:3])
      np.testing.assert_array_equal(back[path], array[3:])


def test_layouts_are_those_of_torch():
  """[outputs, inputs], a tensor a name; by hand, from counted elements."""
  array = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)  # DxNxHxDh
  apart = layouts.Kernel(("q", "k", "v"), (0,), (2, 3)).to_stock(array, None)
  fused = layouts.Kernel(("qkv",), (0,), (1, 2, 3)).to_stock(array, None)
  assert apart["k"].tolist() == [[4, 16], [5, 17], [6, 18], [7, 19]]
  np.testing.assert_array_equal(
      fused["qkv"], np.concatenate([apart[n] for n in "qkv"]))
