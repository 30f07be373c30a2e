"""config.json of a stock Hugging Face class <-> `ModelConfig`."""

from latemask.config import domains
from latemask.config import keys
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import weights as hf_weights
from latemask.model import architecture as architecture_lib

# Options of a stock class that make another function of it: of these what is
# written here can be read, and of those the one value.
_SAME_VALUE = ("hidden_act", "hidden_activation", "norm_bias", "mlp_bias",
               "attention_bias", "layer_types", "rope_parameters",
               "pad_token_id")
_ONE_VALUE = {"position_embedding_type": "absolute", "is_decoder": False,
              "add_cross_attention": False}
# What config.json calls the fields of `ModelConfig`.
_SIZES = {"vocab_size": "vocab_size", "width": "hidden_size",
          "layers": "num_hidden_layers", "heads": "num_attention_heads",
          "mlp": "intermediate_size", "max_length": "max_position_embeddings"}
_ROBERTA = _SIZES | {
    "norm_eps": "layer_norm_eps", "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob"}
_FIELDS = {
    "roberta": _ROBERTA, "roberta_prenorm": _ROBERTA,
    "modern": _SIZES | {
        "norm_eps": "norm_eps", "dropout": "mlp_dropout",
        "attention_dropout": "attention_dropout",
        "rotary_theta": "rope_parameters.full_attention.rope_theta"}}
# What it does not say, or says of every model that can be read.
_REST = {"insertion_layer": 0, "insertion": "append", "decoder": "self",
         "decoder_queries": "targets", "rotary_theta": 10_000.0,
         "dtype": "float32", "unroll": 1, "remat": None, "loss_chunk": 16}


def stock_config(config, special=specials.TRAINED):
  """Returns the sizes and options of config.json, a dict.

  Args:
    config: the `ModelConfig` of an encoder.
    special: the `Specials` of its tokenizer.
  """
  stock = {
      "vocab_size": config.vocab_size, "hidden_size": config.width,
      "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
      "intermediate_size": config.mlp, "dtype": "float32",
      "bos_token_id": special.bos, "pad_token_id": special.pad,
      "eos_token_id": special.eos}
  if config.architecture == "modern":
    rope = {"rope_type": "default", "rope_theta": config.rotary_theta}
    return stock | {
        "max_position_embeddings": config.max_length,
        "hidden_activation": "gelu", "classifier_activation": "gelu",
        "norm_eps": config.norm_eps, "norm_bias": False,
        "attention_bias": False, "mlp_bias": False, "classifier_bias": False,
        "decoder_bias": True, "classifier_pooling": "cls",
        "layer_types": ["full_attention"] * config.layers,
        "rope_parameters": {"full_attention": rope, "sliding_attention": rope},
        "embedding_dropout": config.dropout, "mlp_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "classifier_dropout": config.dropout,
        "cls_token_id": special.bos, "sep_token_id": special.eos}
  return stock | {
      "max_position_embeddings": config.max_length + hf_weights.FIRST_POSITION,
      "hidden_act": "gelu", "layer_norm_eps": config.norm_eps,
      "type_vocab_size": 1, "hidden_dropout_prob": config.dropout,
      "attention_probs_dropout_prob": config.attention_dropout}


def config_of_stock(stock, folder):
  """Returns the ModelConfig of a config.json that was not written here.

  Args:
    stock: what it holds.
    folder: where it lies, for messages.

  Raises:
    InputError: a class or an option that has no counterpart here, or a field
      that is missing or cannot be; named as it is there.
  """
  where = f"{folder}/config.json"
  architecture = next((a for a, (model_type, _, _) in hf_weights.CLASSES.items()
                       if model_type == stock["model_type"]), None)
  if architecture is None:
    raise errors.InputError(
        f"{where} has model_type {stock['model_type']!r:.60}; "
        "what can be read is "
        + ", ".join(row[0] for row in hf_weights.CLASSES.values()))
  called = _FIELDS[architecture]
  first = 0 if architecture == "modern" else hf_weights.FIRST_POSITION
  fields = {}
  for name, field in called.items():
    domain = keys.PRETRAINING[f"model.{name}"].domain
    if name == "max_length":
      domain = domains.whole(first + 1, first + keys.MOST_TOKENS)
    fields[name] = _field(stock, field, where)
    domains.check(domain, field, fields[name], where)
  fields["max_length"] -= first
  config = architecture_lib.ModelConfig(
      **_REST | fields | {"architecture": architecture})
  architecture_lib.check(config, where, called.get)
  expected = _ONE_VALUE | {
      key: value for key, value in stock_config(config).items()
      if key in _SAME_VALUE}
  for key, value in expected.items():
    if stock.get(key, value) != value:
      raise errors.InputError(
          f"{where} has {key} {stock[key]}; only {value} has a counterpart "
          "here")
  return config


def _field(stock, field, where):
  """Returns the value of a dotted field."""
  value = stock
  for name in field.split("."):
    value = value.get(name) if isinstance(value, dict) else None
  if value is None:
    raise errors.InputError(f"{where} has no {field}")
  return value
