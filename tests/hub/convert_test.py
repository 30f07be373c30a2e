"""insertion_layer 0 with the parameters of stock Hugging Face classes.

An independent oracle for the whole forward pass: embeddings, layers, head.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.model import architecture as architecture_lib
from latemask.model import encoder
from tests import conftest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, WIDTH, HEADS, MLP, LAYERS, LENGTH = 320, 48, 4, 80, 3, 32


def _stock(architecture, seed):
  """Returns a stock model with random parameters, norms and biases too."""
  torch.manual_seed(seed)
  sizes = dict(vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS,
               num_attention_heads=HEADS, intermediate_size=MLP)
  if architecture == "modern":
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    model = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(
        layer_types=["full_attention"] * LAYERS, pad_token_id=1,
        bos_token_id=0, cls_token_id=0, eos_token_id=2, sep_token_id=2,
        rope_parameters={"full_attention": rope, "sliding_attention": rope},
        **sizes))
  else:
    prefix = {"roberta": "Roberta", "roberta_prenorm": "RobertaPreLayerNorm"}
    config = getattr(transformers, prefix[architecture] + "Config")(
        max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5,
        **sizes)
    model = getattr(transformers, prefix[architecture] + "ForMaskedLM")(config)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(0.2 * torch.randn_like(parameter))
  return model.eval()


def _roberta(state, pre_norm):
  """Returns our parameters, taken from a stock state dict."""
  base = "roberta_prelayernorm." if pre_norm else "roberta."
  embeddings = base + "embeddings."
  attention = "attention." + ("LayerNorm" if pre_norm else "output.LayerNorm")
  mlp = "intermediate.LayerNorm" if pre_norm else "output.LayerNorm"

  def layer(index):
    at = f"{base}encoder.layer.{index}."
    heads = (HEADS, WIDTH // HEADS)
    qkv = [f"{at}attention.self.{n}." for n in ("query", "key", "value")]
    return {
        "attention": {
            "qkv_kernel": np.stack([state[n + "weight"].T.reshape(
                WIDTH, *heads) for n in qkv], axis=1),
            "qkv_bias": np.stack([state[n + "bias"].reshape(heads)
                                  for n in qkv]),
            "out_kernel": state[f"{at}attention.output.dense.weight"].T.reshape(
                *heads, WIDTH),
            "out_bias": state[f"{at}attention.output.dense.bias"]},
        "attention_norm": _norm(state, at + attention),
        "mlp": {
            "in_kernel": state[f"{at}intermediate.dense.weight"].T[None],
            "in_bias": state[f"{at}intermediate.dense.bias"][None],
            "out_kernel": state[f"{at}output.dense.weight"].T,
            "out_bias": state[f"{at}output.dense.bias"]},
        "mlp_norm": _norm(state, at + mlp)}

  # Stock positions start behind the padding id; the one token type is part
  # of every position.
  positions = (state[embeddings + "position_embeddings.weight"][2:]
               + state[embeddings + "token_type_embeddings.weight"])
  params = {
      "embedding": state[embeddings + "word_embeddings.weight"],
      "positions": positions,
      "mask_vector": state[embeddings + "word_embeddings.weight"][
          specials.TRAINED.mask],
      "embedding_norm": _norm(state, embeddings + "LayerNorm"),
      "late": {"layers": jax.tree.map(
          lambda *x: np.stack(x), *[layer(i) for i in range(LAYERS)])},
      "head": {"kernel": state["lm_head.dense.weight"].T,
               "bias": state["lm_head.dense.bias"],
               "norm": _norm(state, "lm_head.layer_norm")},
      "output_bias": state["lm_head.bias"]}
  if pre_norm:
    params["final_norm"] = _norm(state, base + "LayerNorm")
  return params


def _modern(state):
  def layer(index):
    at = f"model.layers.{index}."
    wi = state[f"{at}mlp.Wi.weight"].reshape(2, MLP, WIDTH).swapaxes(1, 2)
    # The first layer has no norm here: what stands in its place is not read.
    norm = ({"scale": np.full(WIDTH, 7.0, np.float32)} if not index
            else {"scale": state[f"{at}attn_norm.weight"]})
    return {
        "attention": {
            "qkv_kernel": state[f"{at}attn.Wqkv.weight"].T.reshape(
                WIDTH, 3, HEADS, WIDTH // HEADS),
            "out_kernel": state[f"{at}attn.Wo.weight"].T.reshape(
                HEADS, WIDTH // HEADS, WIDTH)},
        "attention_norm": norm,
        "mlp": {"in_kernel": wi, "out_kernel": state[f"{at}mlp.Wo.weight"].T},
        "mlp_norm": {"scale": state[f"{at}mlp_norm.weight"]}}

  return {
      "embedding": state["model.embeddings.tok_embeddings.weight"],
      "mask_vector": state["model.embeddings.tok_embeddings.weight"][
          specials.TRAINED.mask],
      "embedding_norm": {"scale": state["model.embeddings.norm.weight"]},
      "late": {"layers": jax.tree.map(
          lambda *x: np.stack(x), *[layer(i) for i in range(LAYERS)])},
      "final_norm": {"scale": state["model.final_norm.weight"]},
      "head": {"kernel": state["head.dense.weight"].T,
               "norm": {"scale": state["head.norm.weight"]}},
      "output_bias": state["decoder.bias"]}


def _norm(state, name):
  return {"scale": state[name + ".weight"], "bias": state[name + ".bias"]}


_PARAMS = {"roberta": lambda s: _roberta(s, False),
           "roberta_prenorm": lambda s: _roberta(s, True), "modern": _modern}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", list(_PARAMS))
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_of_stock_classes(tiny, architecture, seed):
  stock = _stock(architecture, seed)
  state = {k: v.numpy() for k, v in stock.state_dict().items()}
  params = _PARAMS[architecture](state)
  padding = architecture_lib.VOCAB_MULTIPLE * 3 - VOCAB
  params["embedding"] = np.pad(params["embedding"], ((0, padding), (0, 0)))
  params["output_bias"] = np.pad(params["output_bias"], (0, padding))
  tiny.model.update(dict(
      architecture=architecture, width=WIDTH, heads=HEADS, mlp=MLP,
      layers=LAYERS, insertion_layer=0))
  model = encoder.make_model(tiny, VOCAB)

  # Rows of one document, some padded: stock classes know no others.
  ids_BxL = conftest.random_rows(8, LENGTH)[[1, 2, 3, 5, 6]]
  plan = plan_lib.make_plan(tiny, specials.trained(VOCAB))
  masked = jax.jit(lambda: selection.mask_batch(
      plan, jax.random.key(seed), jnp.arange(5), jnp.asarray(ids_BxL)))()
  shapes = jax.eval_shape(
      lambda: model.init(jax.random.key(0), masked)["params"])
  jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape),
               params, shapes)
  hidden_BxTxD = jax.jit(lambda p: model.apply({"params": p}, masked))(params)
  logits_BxTxV = np.einsum("btd,vd->btv", hidden_BxTxD, params["embedding"])
  logits_BxTxV = (logits_BxTxV + params["output_bias"])[..., :VOCAB]

  written = ids_BxL.copy()
  real_BxT = np.asarray(masked.target_weights_BxT) > 0
  for row in range(5):
    written[row, masked.target_index_BxT[row][real_BxT[row]]] = specials.TRAINED.mask
  with torch.no_grad():
    expected_BxLxV = stock(
        input_ids=torch.tensor(written, dtype=torch.long),
        attention_mask=torch.tensor(written != specials.TRAINED.pad)).logits.numpy()
  expected_BxTxV = np.take_along_axis(
      expected_BxLxV, np.asarray(masked.target_index_BxT)[..., None], axis=1)
  assert np.std(expected_BxTxV[real_BxT]) > 0.3
  np.testing.assert_allclose(
      logits_BxTxV[real_BxT], expected_BxTxV[real_BxT], atol=1e-4)
