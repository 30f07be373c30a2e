"""Which of our arrays stands where in a stock Hugging Face file.

Tables, an entry per parameter; hf.py walks them in both directions.
"""

import dataclasses

import numpy as np

from latemask.data.tokenizers import specials

# Stock RoBERTa's positions begin behind the id of <pad>.
FIRST_POSITION = specials.PAD + 1

# architecture -> (model_type, prefix of class names, of names of weights).
CLASSES = {
    "roberta": ("roberta", "Roberta", "roberta."),
    "roberta_prenorm": ("roberta-prelayernorm", "RobertaPreLayerNorm",
                        "roberta_prelayernorm."),
    "modern": ("modernbert", "ModernBert", "model."),
}


@dataclasses.dataclass(frozen=True)
class Weight:
  """How one of our arrays stands in a stock file.

  Fields:
    names: of the stock tensors; several where stock keeps apart what stands
      in one array here.
    axes: None for vectors, () for a table that is copied; else the order of
      our axes that reads (one per name, inputs, outputs).
    inputs: the key of `model.ModelConfig` that says how many inputs.
  """

  names: tuple
  axes: tuple | None = None
  inputs: str = "width"

  def to_stock(self, array, config):
    """Returns {name: tensor}."""
    if self.axes is None:
      parts = array.reshape(len(self.names), -1)
    elif not self.axes:
      parts = [array]
    else:
      parts = array.transpose(self.axes).reshape(
          len(self.names), getattr(config, self.inputs), -1).swapaxes(1, 2)
    return dict(zip(self.names, parts))

  def from_stock(self, take, shape):
    """Returns our array of that shape; `take` gives a tensor by its name."""
    parts = [take(name) for name in self.names]
    if not self.axes:
      return np.stack(parts).reshape(shape)
    turned = np.stack([p.T for p in parts]).reshape(
        [shape[axis] for axis in self.axes])
    return turned.transpose(np.argsort(self.axes))


def _norm(path, name, bias=True):
  pairs = {f"{path}/scale": Weight((name + ".weight",))}
  return pairs | ({f"{path}/bias": Weight((name + ".bias",))} if bias else {})


def _roberta_layer(pre_norm):
  qkv = [f"attention.self.{n}" for n in ("query", "key", "value")]
  return {
      "attention/qkv_kernel": Weight(
          tuple(n + ".weight" for n in qkv), (1, 0, 2, 3)),
      "attention/qkv_bias": Weight(tuple(n + ".bias" for n in qkv)),
      "attention/out_kernel": Weight(
          ("attention.output.dense.weight",), (0, 1, 2)),
      "attention/out_bias": Weight(("attention.output.dense.bias",)),
      "mlp/in_kernel": Weight(("intermediate.dense.weight",), (0, 1, 2)),
      "mlp/in_bias": Weight(("intermediate.dense.bias",)),
      "mlp/out_kernel": Weight(("output.dense.weight",), (0, 1), "mlp"),
      "mlp/out_bias": Weight(("output.dense.bias",)),
      **_norm("attention_norm", "attention.LayerNorm" if pre_norm
              else "attention.output.LayerNorm"),
      **_norm("mlp_norm", "intermediate.LayerNorm" if pre_norm
              else "output.LayerNorm")}


def _roberta_outside(pre_norm):
  return {"embedding": Weight(("embeddings.word_embeddings.weight",), ()),
          "positions": Weight(("embeddings.position_embeddings.weight",), ()),
          **_norm("embedding_norm", "embeddings.LayerNorm"),
          **(_norm("final_norm", "LayerNorm") if pre_norm else {})}


_MODERN_LAYER = {
    "attention/qkv_kernel": Weight(("attn.Wqkv.weight",), (0, 1, 2, 3)),
    "attention/out_kernel": Weight(("attn.Wo.weight",), (0, 1, 2)),
    "mlp/in_kernel": Weight(("mlp.Wi.weight",), (1, 0, 2)),
    "mlp/out_kernel": Weight(("mlp.Wo.weight",), (0, 1), "mlp"),
    **_norm("attention_norm", "attn_norm", False),
    **_norm("mlp_norm", "mlp_norm", False)}
_MODERN_OUTSIDE = {
    "embedding": Weight(("embeddings.tok_embeddings.weight",), ()),
    **_norm("embedding_norm", "embeddings.norm", False),
    **_norm("final_norm", "final_norm", False)}

# architecture -> weights of the encoder: (layer's prefix, in a layer, not).
ENCODERS = {
    "roberta": ("encoder.layer.", _roberta_layer(False),
                _roberta_outside(False)),
    "roberta_prenorm": ("encoder.layer.", _roberta_layer(True),
                        _roberta_outside(True)),
    "modern": ("layers.", _MODERN_LAYER, _MODERN_OUTSIDE)}

# Heads: paths of our parameters -> names, without the encoder's prefix.
MLM_HEADS = {
    "roberta": {
        "head/kernel": Weight(("lm_head.dense.weight",), (0, 1)),
        "head/bias": Weight(("lm_head.dense.bias",)),
        **_norm("head/norm", "lm_head.layer_norm")},
    "modern": {
        "head/kernel": Weight(("head.dense.weight",), (0, 1)),
        **_norm("head/norm", "head.norm", False)}}
MLM_HEADS["roberta_prenorm"] = MLM_HEADS["roberta"]
# Output embedding and bias; RoBERTa names the bias twice.
MLM_OUTPUTS = {
    "roberta": ("lm_head.decoder.weight", ("lm_head.bias",
                                           "lm_head.decoder.bias")),
    "modern": ("decoder.weight", ("decoder.bias",))}
MLM_OUTPUTS["roberta_prenorm"] = MLM_OUTPUTS["roberta"]
CLASS_HEADS = {
    "roberta": {
        "dense_kernel": Weight(("classifier.dense.weight",), (0, 1)),
        "dense_bias": Weight(("classifier.dense.bias",)),
        "out_kernel": Weight(("classifier.out_proj.weight",), (0, 1)),
        "out_bias": Weight(("classifier.out_proj.bias",))},
    "modern": {
        "head/kernel": Weight(("head.dense.weight",), (0, 1)),
        **_norm("head/norm", "head.norm", False),
        "out_kernel": Weight(("classifier.weight",), (0, 1)),
        "out_bias": Weight(("classifier.bias",))}}
CLASS_HEADS["roberta_prenorm"] = CLASS_HEADS["roberta"]
