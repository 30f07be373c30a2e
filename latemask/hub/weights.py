"""Which of our arrays stands where in a stock Hugging Face file.

Tables, a row per parameter: {path of our array: its layout}. A row reads and
writes (layouts.py); convert.py walks the tables in both directions.
"""

from latemask.hub import layouts

# architecture -> (model_type, prefix of class names, of names of weights).
CLASSES = {
    "roberta": ("roberta", "Roberta", "roberta."),
    "bert": ("bert", "Bert", "bert."),
    "xlm_roberta": ("xlm-roberta", "XLMRoberta", "roberta."),
    "camembert": ("camembert", "Camembert", "roberta."),
    "roberta_prenorm": ("roberta-prelayernorm", "RobertaPreLayerNorm",
                        "roberta_prelayernorm."),
    "modern": ("modernbert", "ModernBert", "model."),
}


# Those whose positions begin behind the row of <pad>.
_BEHIND_PAD = ("roberta", "xlm_roberta", "camembert", "roberta_prenorm")


def first_position(architecture, pad_id):
  """Returns the row of a stock table of positions that is the first."""
  return pad_id + 1 if architecture in _BEHIND_PAD else 0


def _norm(path, name, bias=True):
  rows = {f"{path}/scale": layouts.Vector((name + ".weight",))}
  if bias:
    rows[f"{path}/bias"] = layouts.Vector((name + ".bias",))
  return rows


def _layers(at, rows, first=0):
  return {f"late/layers/{path}": layouts.Layers(at, row, first)
          for path, row in rows.items()}


_TYPES = "embeddings.token_type_embeddings.weight"


def _roberta(first, pre_norm=False):
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
          "embeddings.position_embeddings.weight", _TYPES, first),
      **_norm("embedding_norm", "embeddings.LayerNorm"),
      **_layers("encoder.layer.{}.", layer),
      **(_norm("final_norm", "LayerNorm") if pre_norm else {})}


def _bert(first):
  # Of the token types both write; this row, which has both, comes later.
  return _roberta(first) | {"second_text": layouts.SecondText(_TYPES)}


def _modern(first):
  """Returns the rows of the encoder. Shapes of ours stand behind the line."""
  del first  # There is no table of positions.
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


# architecture -> function of the row of the first position -> rows of the
# encoder, of layers that never meet a mask.
ENCODERS = {"roberta": _roberta, "bert": _bert, "xlm_roberta": _roberta,
            "camembert": _roberta,
            "roberta_prenorm": lambda first: _roberta(first, pre_norm=True),
            "modern": _modern}


def encoder(architecture, pad_id):
  """Returns the rows of an encoder."""
  return ENCODERS[architecture](first_position(architecture, pad_id))


def _mlm_head(dense, norm, at):
  """Returns the rows of RoBERTa's head, and of BERT's."""
  return {
      "head/kernel": layouts.Kernel((dense + ".weight",)),
      "head/bias": layouts.Vector((dense + ".bias",)),
      **_norm("head/norm", norm),
      "output_embedding": layouts.Vocabulary((at + "decoder.weight",)),
      # Stock adds that of the decoder; what is not tied may differ.
      "output_bias": layouts.Vocabulary((at + "decoder.bias", at + "bias"))}


def _class_head(dense, out):
  return {
      "dense_kernel": layouts.Kernel((dense + ".weight",)),
      "dense_bias": layouts.Vector((dense + ".bias",)),
      "out_kernel": layouts.Kernel((out + ".weight",)),
      "out_bias": layouts.Vector((out + ".bias",))}


# architecture -> rows of a head; these names are whole, without a prefix.
_ROBERTA_MLM = _mlm_head("lm_head.dense", "lm_head.layer_norm", "lm_head.")
_MODERN_HEAD = {"head/kernel": layouts.Kernel(("head.dense.weight",)),
                **_norm("head/norm", "head.norm", False)}
MLM_HEADS = {
    "roberta": _ROBERTA_MLM, "xlm_roberta": _ROBERTA_MLM,
    "camembert": _ROBERTA_MLM, "roberta_prenorm": _ROBERTA_MLM,
    "bert": _mlm_head(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm", "cls.predictions."),
    "modern": {
        **_MODERN_HEAD,
        "output_embedding": layouts.Vocabulary(("decoder.weight",)),
        "output_bias": layouts.Vocabulary(("decoder.bias",))}}
_ROBERTA_CLASS = _class_head("classifier.dense", "classifier.out_proj")
CLASS_HEADS = {
    "roberta": _ROBERTA_CLASS, "xlm_roberta": _ROBERTA_CLASS,
    "camembert": _ROBERTA_CLASS, "roberta_prenorm": _ROBERTA_CLASS,
    "bert": _class_head("bert.pooler.dense", "classifier"),
    "modern": {
        **_MODERN_HEAD,
        "out_kernel": layouts.Kernel(("classifier.weight",)),
        "out_bias": layouts.Vector(("classifier.bias",))}}


def _token_heads(name):
  """Returns the rows of one dense layer, which modern has behind a head."""
  def out(name):
    return {"out_kernel": layouts.Kernel((name + ".weight",)),
            "out_bias": layouts.Vector((name + ".bias",))}
  return dict.fromkeys(CLASSES, out(name)) | {
      "modern": _MODERN_HEAD | out("classifier")}


# What a head reads (a row of model.heads.HEADS) -> (how the name of its stock
# class ends, architecture -> rows).
HEADS = {"text": ("ForSequenceClassification", CLASS_HEADS),
         "tokens": ("ForTokenClassification", _token_heads("classifier")),
         "span": ("ForQuestionAnswering", _token_heads("qa_outputs"))}
