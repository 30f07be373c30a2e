"""Which of our arrays stands where in a stock Hugging Face file.

Tables, a row per parameter: {path of our array: its layout}. A row reads and
writes (layouts.py); convert.py walks the tables in both directions.
"""

from latemask.data.tokenizers import specials
from latemask.hub import layouts

# Stock RoBERTa's positions begin behind the id of <pad>.
FIRST_POSITION = specials.TRAINED.pad + 1

# architecture -> (model_type, prefix of class names, of names of weights).
CLASSES = {
    "roberta": ("roberta", "Roberta", "roberta."),
    "roberta_prenorm": ("roberta-prelayernorm", "RobertaPreLayerNorm",
                        "roberta_prelayernorm."),
    "modern": ("modernbert", "ModernBert", "model."),
}


def _norm(path, name, bias=True):
  rows = {f"{path}/scale": layouts.Vector((name + ".weight",))}
  if bias:
    rows[f"{path}/bias"] = layouts.Vector((name + ".bias",))
  return rows


def _layers(at, rows, first=0):
  return {f"late/layers/{path}": layouts.Layers(at, row, first)
          for path, row in rows.items()}


def _roberta(pre_norm):
  """Returns the rows of the encoder. Shapes of ours stand behind the line."""
  qkv = [f"attention.self.{n}" for n in ("query", "key", "value")]
  layer = {
      "attention/qkv_kernel": layouts.Kernel(
          tuple(n + ".weight" for n in qkv), (0,), (2, 3)),  # Dx3xHxDh
      "attention/qkv_bias": layouts.Vector(tuple(n + ".bias" for n in qkv)),
      "attention/out_kernel": layouts.Kernel(
          ("attention.output.dense.weight",), (0, 1), (2,)),  # HxDhxD
      "attention/out_bias": layouts.Vector(("attention.output.dense.bias",)),
      "mlp/in_kernel": layouts.Kernel(
          ("intermediate.dense.weight",), (1,), (2,)),  # 1xDxF
      "mlp/in_bias": layouts.Vector(("intermediate.dense.bias",)),
      "mlp/out_kernel": layouts.Kernel(("output.dense.weight",)),
      "mlp/out_bias": layouts.Vector(("output.dense.bias",)),
      **_norm("attention_norm", "attention.LayerNorm" if pre_norm
              else "attention.output.LayerNorm"),
      **_norm("mlp_norm", "intermediate.LayerNorm" if pre_norm
              else "output.LayerNorm")}
  return {
      "embedding": layouts.Vocabulary(("embeddings.word_embeddings.weight",)),
      "positions": layouts.Positions(
          "embeddings.position_embeddings.weight",
          "embeddings.token_type_embeddings.weight", FIRST_POSITION),
      **_norm("embedding_norm", "embeddings.LayerNorm"),
      **_layers("encoder.layer.{}.", layer),
      **(_norm("final_norm", "LayerNorm") if pre_norm else {})}


def _modern():
  """Returns the rows of the encoder. Shapes of ours stand behind the line."""
  layer = {
      "attention/qkv_kernel": layouts.Kernel(
          ("attn.Wqkv.weight",), (0,), (1, 2, 3)),  # Dx3xHxDh
      "attention/out_kernel": layouts.Kernel(
          ("attn.Wo.weight",), (0, 1), (2,)),  # HxDhxD
      "mlp/in_kernel": layouts.Kernel(
          ("mlp.Wi.weight",), (1,), (0, 2)),  # 2xDxF
      "mlp/out_kernel": layouts.Kernel(("mlp.Wo.weight",)),
      **_norm("mlp_norm", "mlp_norm", False)}
  return {
      "embedding": layouts.Vocabulary(("embeddings.tok_embeddings.weight",)),
      **_norm("embedding_norm", "embeddings.norm", False),
      **_layers("layers.{}.", layer),
      # There is no norm before the first attention.
      **_layers("layers.{}.", _norm("attention_norm", "attn_norm", False), 1),
      **_norm("final_norm", "final_norm", False)}


# architecture -> rows of the encoder, of layers that never meet a mask.
ENCODERS = {"roberta": _roberta(False), "roberta_prenorm": _roberta(True),
            "modern": _modern()}

# architecture -> rows of a head; these names have no prefix.
_MODERN_HEAD = {"head/kernel": layouts.Kernel(("head.dense.weight",)),
                **_norm("head/norm", "head.norm", False)}
MLM_HEADS = {
    "roberta": {
        "head/kernel": layouts.Kernel(("lm_head.dense.weight",)),
        "head/bias": layouts.Vector(("lm_head.dense.bias",)),
        **_norm("head/norm", "lm_head.layer_norm"),
        "output_embedding": layouts.Vocabulary(("lm_head.decoder.weight",)),
        "output_bias": layouts.Vocabulary(
            ("lm_head.bias", "lm_head.decoder.bias"))},
    "modern": {
        **_MODERN_HEAD,
        "output_embedding": layouts.Vocabulary(("decoder.weight",)),
        "output_bias": layouts.Vocabulary(("decoder.bias",))}}
MLM_HEADS["roberta_prenorm"] = MLM_HEADS["roberta"]
CLASS_HEADS = {
    "roberta": {
        "dense_kernel": layouts.Kernel(("classifier.dense.weight",)),
        "dense_bias": layouts.Vector(("classifier.dense.bias",)),
        "out_kernel": layouts.Kernel(("classifier.out_proj.weight",)),
        "out_bias": layouts.Vector(("classifier.out_proj.bias",))},
    "modern": {
        **_MODERN_HEAD,
        "out_kernel": layouts.Kernel(("classifier.weight",)),
        "out_bias": layouts.Vector(("classifier.bias",))}}
CLASS_HEADS["roberta_prenorm"] = CLASS_HEADS["roberta"]
