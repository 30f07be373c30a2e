"""Folders as stock transformers writes them, for every class that is read.

The oracle is transformers itself, with random norms and biases everywhere;
nothing of ours has been in the folder, and no tokenizer is read.
"""

import functools
import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import stock_config
from latemask.hub import weights as hf_weights
from latemask.masking import masked as masked_lib
from latemask.model import cut
from latemask.model import encoder as encoder_lib
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
      pad_token_id=specials.PAD, bos_token_id=0, eos_token_id=2,
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
  assert (ids_BxS == specials.PAD).any(1).sum() in range(1, 5)
  return ids_BxS, np.broadcast_to(np.arange(LENGTH) >= 5, ids_BxS.shape)


def _asked(model, ids_BxS, second_BxS=None):
  """Returns what a stock model answers."""
  types = {} if second_BxS is None else {
      "token_type_ids": torch.tensor(second_BxS, dtype=torch.long)}
  with torch.no_grad():
    return model(input_ids=torch.tensor(ids_BxS, dtype=torch.long),
                 attention_mask=torch.tensor(ids_BxS != specials.PAD),
                 **types)


@functools.cache
def _ours(config, kind):
  """Returns a jitted function (params, head, ids_BxS, second_BxS) -> array."""
  model = encoder_lib.LateMaskModel(config)

  def run(params, head, ids_BxS, second_BxS):
    cut_config, encoder = cut.cut(config, params)
    if kind == "ForSequenceClassification":
      return cut.logits(cut_config, {"encoder": encoder, "head": head},
                        ids_BxS, LABELS, second_BxS=second_BxS)
    hidden_BxSxD = cut.encode(
        cut_config, encoder, ids_BxS, second_BxS=second_BxS)
    if kind == "Model":
      return hidden_BxSxD
    hidden_BxSxD = model.apply(
        {"params": params}, hidden_BxSxD, method="predict")
    return (jnp.einsum("bsd,vd->bsv", hidden_BxSxD, params["embedding"])
            + params["output_bias"][None, None])[..., :VOCAB]
  return jax.jit(run)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind, answer", [
    ("Model", "last_hidden_state"), ("ForMaskedLM", "logits"),
    ("ForSequenceClassification", "logits")])
def test_same_function(tmp_path, architecture, kind, answer):
  """Three seeds, one of them in bfloat16; padded rows and whole ones."""
  ids_BxS, second_BxS = _rows()
  real_BxS = ids_BxS != specials.PAD
  pair = second_BxS if architecture == "bert" else None
  for seed, dtype in enumerate((torch.float32, torch.bfloat16, torch.float32)):
    stock = _stock(architecture, kind, seed).to(dtype)
    stock.save_pretrained(tmp_path / str(seed))
    config, params, _, _ = hub_folder.load_model(
        tmp_path / str(seed), specials.MASK)
    assert ("head" in params) == (kind == "ForMaskedLM")
    np.testing.assert_array_equal(  # Of the input; the output is tied to it.
        params["mask_vector"], params["embedding"][specials.MASK])
    head = {}
    if kind == "ForSequenceClassification":
      head = hub_folder.load_class_head(tmp_path / str(seed))
    expected = _asked(stock.float(), ids_BxS, pair)[answer].numpy()
    found = np.asarray(_ours(config, kind)(
        params, head, ids_BxS, jnp.asarray(second_BxS)))
    if kind != "ForSequenceClassification":
      found, expected = found[real_BxS], expected[real_BxS]
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
