"""config.json of a stock Hugging Face class <-> `ModelConfig`.

No JAX is imported for it: configs/continue.py takes the sizes of a run from a
folder.
"""

import json

from etils import epath

from latemask.config import domains
from latemask.config import keys
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import weights as hf_weights
from latemask.model import architecture as architecture_lib

# Options of a stock class that make another function of it: of these what is
# written here can be read, and of those the one value.
_SAME_VALUE = ("hidden_act", "hidden_activation", "norm_bias", "mlp_bias",
               "attention_bias", "decoder_bias", "classifier_bias",
               "classifier_activation")
_IDS = domains.whole(0, domains.INT32)
_ONE_VALUE = {"position_embedding_type": "absolute", "is_decoder": False,
              "add_cross_attention": False}
# What config.json calls the fields of `ModelConfig`.
_SIZES = {"vocab_size": "vocab_size", "width": "hidden_size",
          "layers": "num_hidden_layers", "heads": "num_attention_heads",
          "mlp": "intermediate_size", "max_length": "max_position_embeddings"}
_ROBERTA = _SIZES | {
    "norm_eps": "layer_norm_eps", "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob"}
_FIELDS = dict.fromkeys(hf_weights.CLASSES, _ROBERTA) | {
    "modern": _SIZES | {
        "norm_eps": "norm_eps", "dropout": "mlp_dropout",
        "attention_dropout": "attention_dropout",
        "rotary_theta": "rope_parameters.full_attention.rope_theta"}}
# And those that only a model with local layers reads.
_LOCAL = {"local_window": "local_attention",
          "local_rotary_theta": "rope_parameters.sliding_attention.rope_theta"}
_STOCK_EVERY = 3
_KINDS = {False: "full_attention", True: "sliding_attention"}
# Where a stock class's own config.json says nothing of <pad>.
_LAYERS = keys.PRETRAINING["model.layers"].domain
_PAD_IDS = dict.fromkeys(hf_weights.CLASSES, 1) | {
    "bert": 0, "modern": 50_283}
# What it does not say, or says of every model that can be read.
_REST = {"insertion_layer": 0, "insertion": "append", "decoder": "self",
         "decoder_queries": "targets", "rotary_theta": 10_000.0,
         "dtype": "float32", "attention": "auto", "unroll": 1,
         "remat": None, "loss_tokens": 1024, "global_every": 1,
         "local_window": 128, "local_rotary_theta": 10_000.0}


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
    thetas = {False: config.rotary_theta, True: config.local_rotary_theta}
    return stock | {
        "max_position_embeddings": config.max_length,
        "hidden_activation": "gelu", "classifier_activation": "gelu",
        "norm_eps": config.norm_eps, "norm_bias": False,
        "attention_bias": False, "mlp_bias": False, "classifier_bias": False,
        "decoder_bias": True, "classifier_pooling": "cls",
        "layer_types": [_KINDS[kind] for kind in config.local_layers],
        "local_attention": config.local_window,
        "rope_parameters": {
            _KINDS[kind]: {"rope_type": "default", "rope_theta": theta}
            for kind, theta in thetas.items()},
        "embedding_dropout": config.dropout, "mlp_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "classifier_dropout": config.dropout,
        "cls_token_id": special.bos, "sep_token_id": special.eos}
  return stock | {
      "max_position_embeddings": config.max_length + hf_weights.first_position(
          config.architecture, special.pad),
      "hidden_act": "gelu", "layer_norm_eps": config.norm_eps,
      "type_vocab_size": 1 + config.layer.architecture.types,
      "hidden_dropout_prob": config.dropout,
      "attention_probs_dropout_prob": config.attention_dropout}


def of_labels(labels, task):
  """Returns what config.json says of the labels of a task.

  Args:
    labels: their names.
    task: see `folder.export`.
  """
  problem = ("multi_label_classification"
             if task and task["kind"] == "multilabel" else
             "regression" if len(labels) == 1 else None)
  return {"id2label": dict(enumerate(labels)),
          "label2id": {label: i for i, label in enumerate(labels)}} | (
              {"problem_type": problem} if problem else {})


def read_json(path):
  """Returns the object in a file.

  Raises:
    InputError: there is none.
  """
  try:
    found = json.loads(epath.Path(path).read_text("utf-8"))
  except (OSError, ValueError) as error:
    raise errors.InputError(f"{path} cannot be read: {error}") from error
  if not isinstance(found, dict):
    raise errors.InputError(f"{path} holds no JSON object")
  return found


def architecture_of(stock, folder):
  """Returns the name of ours that a config.json is of.

  Raises:
    InputError: a class that has no counterpart here.
  """
  for architecture, (model_type, _, _) in hf_weights.CLASSES.items():
    if model_type == stock.get("model_type"):
      return architecture
  if "model_type" not in stock:
    raise errors.InputError(
        f"{folder}/config.json names no model_type: it is no Hugging Face "
        "folder; tools.export makes one of a run")
  raise errors.InputError(
      f"{folder}/config.json has model_type {stock.get('model_type')!r:.60}; "
      "what can be read is "
      + ", ".join(row[0] for row in hf_weights.CLASSES.values()))


def pad_id(stock, folder):
  """Returns the id of <pad> of a config.json.

  Raises:
    InputError: it cannot be one, or see `architecture_of`.
  """
  found = stock.get("pad_token_id")
  if found is None:
    found = _PAD_IDS[architecture_of(stock, folder)]
  domains.check(_IDS, "pad_token_id", found, f"{folder}/config.json")
  return found


def config_of_folder(folder):
  """Returns the ModelConfig of a folder: what was exported, or stock's.

  Raises:
    InputError: see `config_of_stock`, `architecture.config_of`.
  """
  path = epath.Path(folder) / "latemask.json"
  if path.is_file():
    return architecture_lib.config_of(read_json(path).get("model"), path)
  return config_of_stock(
      read_json(epath.Path(folder) / "config.json"), folder)


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
  architecture = architecture_of(stock, folder)
  if architecture == "modern":
    stock = _modern_as_today(stock, where)
  called = _FIELDS[architecture]
  first = hf_weights.first_position(architecture, pad_id(stock, folder))
  fields = {}
  for name, field in called.items():
    domain = keys.PRETRAINING[f"model.{name}"].domain
    if name == "max_length":
      domain = domains.whole(first + 1, first + keys.MOST_TOKENS)
    fields[name] = _field(stock, field, where)
    domains.check(domain, field, fields[name], where)
  fields["max_length"] -= first
  if architecture == "modern":
    fields |= _local_fields(stock, fields["layers"], where)
  fields["tied_output"] = stock.get("tie_word_embeddings", True)
  domains.check(domains.YES_NO, "tie_word_embeddings", fields["tied_output"],
                where)
  config = architecture_lib.ModelConfig(
      **_REST | fields | {"architecture": architecture})
  architecture_lib.check(config, where, (called | _LOCAL).get)
  _check_same_function(stock, config, where)
  return config


def _check_same_function(stock, config, where):
  """Refuses options that make another function of a stock class."""
  expected = _ONE_VALUE | {
      key: value for key, value in stock_config(config).items()
      if key in _SAME_VALUE}
  for key, value in expected.items():
    if stock.get(key, value) != value:
      raise errors.InputError(
          f"{where} has {key} {stock[key]}; only {value} has a counterpart "
          "here")
  if config.layer.architecture.types:
    domains.check(domains.whole(1, 2), "type_vocab_size",
                  stock.get("type_vocab_size", 2), where)
  if config.architecture == "modern":
    _check_modern(stock, config, where)


def _modern_as_today(stock, where):
  """Returns what was written otherwise up to transformers 4 as it is now."""
  new = {}
  if stock.get("rope_parameters") is None and "global_rope_theta" in stock:
    theta = stock["global_rope_theta"]
    local = stock.get("local_rope_theta", _REST["local_rotary_theta"])
    new["rope_parameters"] = {
        "full_attention": {"rope_theta": theta},
        "sliding_attention": {"rope_theta": theta if local is None else local}}
  if stock.get("layer_types") is None:
    # Where it says neither, the stock class has a global layer in three.
    every = stock.get("global_attn_every_n_layers", _STOCK_EVERY)
    domains.check(_LAYERS, "global_attn_every_n_layers", every, where)
    layers = _field(stock, "num_hidden_layers", where)
    domains.check(_LAYERS, "num_hidden_layers", layers, where)
    new["layer_types"] = [_KINDS[i % every > 0] for i in range(layers)]
  return stock | new


def _local_fields(stock, layers, where):
  """Returns the fields of local layers, of those that are read.

  Raises:
    InputError: they are not all layers but every n-th, or a field is missing or
      cannot be.
  """
  types = stock["layer_types"]
  if not isinstance(types, list):
    raise errors.InputError(f"{where}: layer_types is {types!r:.60}, no list")
  # With one global layer alone, as the stock class has it, if that can be.
  every = next((i for i in range(1, len(types)) if types[i] == _KINDS[False]),
               max(_STOCK_EVERY, layers))
  if types != [_KINDS[i % every > 0] for i in range(layers)]:
    raise errors.InputError(
        f"{where}: layer_types is {types!r:.60}; what has a counterpart here "
        f"is {layers} layers, every n-th {_KINDS[False]} from the first one "
        f"on, the others {_KINDS[True]}")
  if every == 1 or layers == 1:
    return {}
  # Tokens are in order: nothing is inserted.
  fields = {"global_every": every, "insertion": "scatter"} | {
      name: _field(stock, field, where) for name, field in _LOCAL.items()}
  for name, field in _LOCAL.items():
    domains.check(
        keys.PRETRAINING[f"model.{name}"].domain, field, fields[name], where)
  return fields


def _check_modern(stock, config, where):
  """Refuses rotary positions that are not plain."""
  for kind in set(config.local_layers):
    rope = stock["rope_parameters"][_KINDS[kind]]
    if set(rope) - {"rope_type", "rope_theta"} or stock.get(
        "rope_scaling") or rope.get("rope_type", "default") != "default":
      raise errors.InputError(
          f"{where}: rope_parameters.{_KINDS[kind]} is {rope!r:.80}, or there "
          "is a rope_scaling; only rope_type default has a counterpart here")


def _field(stock, field, where):
  """Returns the value of a dotted field."""
  value = stock
  for name in field.split("."):
    value = value.get(name) if isinstance(value, dict) else None
  if value is None:
    raise errors.InputError(f"{where} has no {field}")
  return value
