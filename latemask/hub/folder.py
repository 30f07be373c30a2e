"""Hugging Face folders: what is trained here as stock classes, and back.

A folder holds config.json, model.safetensors, tokenizer.json (see
hf_tokenizer.py) and tokenizer_config.json, which stock transformers 5 loads
with no code of ours, and tokenizer.model, latemask.json, latemask.safetensors
besides: all that a stock class has no place for (mask vector, late layers
that were dropped, head, padding), so that the way back is bit-equal.

A stock class meets <mask> at its first layer. So the head of the language
model is exported for insertion_layer 0 only, with an input row of its own for
<mask>; everything else is exported as the encoder that fine-tuning reads.
An export that would not be the same function is refused.
"""

import dataclasses
import json
import os

from etils import epath
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from latemask.config import since
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import stock_config
from latemask.hub import tokenizer as hub_tokenizer
from latemask.hub import weights as hf_weights
from latemask.masking import masked as masked_lib
from latemask.model import architecture as architecture_lib
from latemask.model import cut
from latemask.model import encoder as encoder_lib
from latemask.runtime import files as files_lib

# What an export writes.
_FILES = ("config.json", "latemask.json", "latemask.safetensors",
          "model.safetensors", "tokenizer.json", "tokenizer.model",
          "tokenizer_config.json")
# Output bias of what has no probability; float16 holds it.
_NEVER = -1e4
# What stock files may hold and nothing here reads.
_UNREAD = ("pooler.", "embeddings.position_ids", "rotary_emb.", "lm_head.",
           "head.", "decoder.", "classifier.")


def export(config, params, tokenizer, folder, keep_layers=None,
           class_head=None, labels=(), overwrite=False, masking=None,
           trained_length=None, max_length=None):
  """Writes a folder that stock transformers loads.

  Args:
    config, params: `model.ModelConfig` and all parameters of pre-training.
    tokenizer: a `tokenizer.Tokenizer`.
    folder: made whole or not at all.
    keep_layers: see `classifier.cut`.
    class_head: parameters of a `classifier.ClassificationHead`; params are
      then those of a cut encoder.
    labels: names of its classes; () for a regression, or no names.
    overwrite: replace an earlier export at `folder`, and nothing else.
    masking: `config.masking` of the run, to be kept with the model.
    trained_length: that of its `pretrained.Pretrained`; None: all positions.
    max_length: tokens that the stock tokenizer cuts texts to; None for
      `trained_length`. The model keeps all positions.

  Returns:
    The name of the stock class.

  Raises:
    InputError: no stock class or tokenizer is the same function, or the
      folder is taken.
  """
  check_out(folder, overwrite, tokenizer)
  trained_length = trained_length or config.max_length
  if max_length is not None and not 1 < max_length <= config.max_length:
    raise errors.InputError(
        f"max_length is {max_length}; it must lie in 2 to "
        f"{config.max_length}, the positions that the model has")
  params = {k: np.asarray(v, np.float32) for k, v in
            flax.traverse_util.flatten_dict(params, sep="/").items()}
  tree = flax.traverse_util.unflatten_dict(params, sep="/")
  cut_config, encoder = cut.cut(config, tree, keep_layers)
  encoder = {k: np.asarray(v) for k, v in
             flax.traverse_util.flatten_dict(encoder, sep="/").items()}
  has_mlm = (class_head is None and config.insertion_layer == 0
             and cut_config.layers == config.layers and "head" in tree)
  kind = ("ForSequenceClassification" if class_head is not None else
          "ForMaskedLM" if has_mlm else "Model")
  model_type, class_prefix, prefix = hf_weights.CLASSES[config.architecture]
  tensors = _encoder_to_stock(
      cut_config, encoder, prefix if kind != "Model" else "")
  stock = stock_config.stock_config(cut_config) | {
      "architectures": [class_prefix + kind], "model_type": model_type}
  if has_mlm:
    stock["tie_word_embeddings"] = False
    tensors |= _mlm_to_stock(config, params, tokenizer.vocab_size)
    tensors[_input_embedding(config.architecture, prefix)][
        specials.MASK] = params["mask_vector"]
  if class_head is not None:
    head = flax.traverse_util.flatten_dict(class_head, sep="/")
    for path, weight in hf_weights.CLASS_HEADS[config.architecture].items():
      tensors |= weight.to_stock(np.asarray(head[path], np.float32), config)
    labels = labels or [f"LABEL_{i}" for i in range(len(head["out_bias"]))]
    stock["id2label"] = dict(enumerate(labels))
    stock["label2id"] = {label: i for i, label in enumerate(labels)}
    if len(labels) == 1:
      stock["problem_type"] = "regression"
  rest = _what_stock_lacks(config, params, cut_config, tensors, prefix)
  about = {"format": since.FORMAT, "model": dataclasses.asdict(config),
           "encoder_layers": cut_config.layers, "masking": masking,
           "trained_length": trained_length}
  _write(folder, stock, tensors, about, rest, tokenizer,
         max_length or trained_length)
  return class_prefix + kind


def check_out(folder, overwrite, tokenizer=None):
  """Checks that an export may be written to a folder.

  Args:
    tokenizer: its `tokenizer.Tokenizer`, where it is known.

  Raises:
    InputError: it is there, and is not to be overwritten; or holds anything
      that no export has written; or `hf_tokenizer.check`.
  """
  if tokenizer:
    hub_tokenizer.check(tokenizer)
  if os.path.lexists(folder) and not overwrite:
    raise errors.InputError(
        f"{folder} exists; give another folder, or --overwrite")
  files_lib.check_replaceable(folder, "latemask.json", _FILES)
  files_lib.check_writable(folder)


def is_folder(path):
  """Whether `path` is a Hugging Face folder."""
  path = epath.Path(path) / "config.json"
  return path.is_file() and "model_type" in _read_json(path)


def load(folder):
  """Reads a folder.

  Returns:
    (ModelConfig, parameters, Tokenizer, `masking` and `trained_length` of
    `export`). A folder that was exported here gives back what went in; another
    gives a model of insertion_layer 0, without a head where it has none, no
    masking, and all positions as trained.

  Raises:
    InputError: a class, option or weight that has no counterpart here, a
      missing or unused weight, or no SentencePiece tokenizer.model.
  """
  folder = epath.Path(folder)
  stock = _read_json(folder / "config.json")
  if not (folder / "tokenizer.model").is_file():
    raise errors.InputError(
        f"{folder} holds no tokenizer.model; only SentencePiece vocabularies "
        "can be read")
  tokenizer = tokenizer_lib.load(folder / "tokenizer.model")
  about = None
  if (folder / "latemask.json").is_file():
    about = _read_json(folder / "latemask.json")
    since.check_format(about, folder / "latemask.json")
    config = architecture_lib.config_of(about["model"], folder / "latemask.json")
    layers_here = about["encoder_layers"]
  else:
    config = stock_config.config_of_stock(stock, folder)
    layers_here = config.layers
  if tokenizer.vocab_size > config.vocab_size:
    raise errors.InputError(
        f"{folder}: tokenizer.model has {tokenizer.vocab_size} pieces, the "
        f"model only {config.vocab_size} ids")
  tensors = _read(folder / "model.safetensors")
  cut_config = dataclasses.replace(
      config, layers=layers_here, insertion_layer=0, decoder="self")
  prefix = hf_weights.CLASSES[config.architecture][2]
  params = _from_stock(config, cut_config, tensors, prefix, folder)
  if about is not None:
    for name, array in _read(folder / "latemask.safetensors").items():
      path = name.removesuffix(".padding")
      params[path] = array if path == name else np.concatenate(
          [params[path][:config.vocab_size], array])
  about = about or {}
  return (config, flax.traverse_util.unflatten_dict(params, sep="/"),
          tokenizer, about.get("masking"),
          about.get("trained_length", config.max_length))


def _input_embedding(architecture, prefix):
  return prefix + hf_weights.ENCODERS[architecture][2]["embedding"].names[0]


def _encoder_to_stock(config, encoder, prefix):
  """Returns {name: tensor} of a cut encoder given by paths."""
  at, in_layer, outside = hf_weights.ENCODERS[config.architecture]
  tensors = {}
  for path, weight in outside.items():
    array = encoder[path]
    if path == "embedding":
      array = array[:config.vocab_size].copy()
    elif path == "positions":
      array = np.pad(array, ((stock_config.FIRST_POSITION, 0), (0, 0)))
      tensors["embeddings.token_type_embeddings.weight"] = np.zeros(
          (1, config.width), np.float32)
    tensors |= weight.to_stock(array, config)
  for path, weight in in_layer.items():
    for index, array in enumerate(encoder[f"late/layers/{path}"]):
      if _has_no_place(config, path, index):
        continue
      tensors |= {f"{at}{index}.{name}": tensor for name, tensor in
                  weight.to_stock(array, config).items()}
  return {prefix + name: tensor for name, tensor in tensors.items()}


def _has_no_place(config, path, index):
  """ModernBERT has no norm before its first attention."""
  first_norm = architecture_lib.ARCHITECTURES[config.architecture].first_norm
  return not first_norm and not index and path.startswith("attention_norm")


def _mlm_to_stock(config, params, num_words):
  tensors = {}
  for path, weight in hf_weights.MLM_HEADS[config.architecture].items():
    tensors |= weight.to_stock(params[path], config)
  embedding, biases = hf_weights.MLM_OUTPUTS[config.architecture]
  tensors[embedding] = params["embedding"][:config.vocab_size]
  bias = params["output_bias"][:config.vocab_size].copy()
  bias[num_words:] = _NEVER  # Ids that the tokenizer has no word for.
  for name in biases:
    tensors[name] = bias
  return tensors


def _from_stock(config, cut_config, tensors, prefix, folder):
  """Returns our parameters, by paths, as far as the stock file has them."""
  tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
  unused = set(tensors)

  def take(name):
    if name not in tensors:
      raise errors.InputError(f"{folder}: the weight {name} is missing")
    unused.discard(name)
    return tensors[name].astype(np.float32)

  at, in_layer, outside = hf_weights.ENCODERS[config.architecture]
  shapes = _shapes(cut_config)
  params = {}
  for path, weight in outside.items():
    array = take(weight.names[0])
    if path == "positions":
      array = array[stock_config.FIRST_POSITION:] + take(
          "embeddings.token_type_embeddings.weight")[:1]
    elif path == "embedding":
      array = _pad_rows(array, config)
    _check_shape(array, shapes[path], weight.names[0], folder)
    params[path] = array
  stacked = {}
  for path, weight in in_layer.items():
    shape = shapes[f"late/layers/{path}"][1:]
    for index in range(cut_config.layers):
      names = hf_weights.Weight(tuple(f"{at}{index}.{n}" for n in weight.names),
                      weight.axes, weight.inputs)
      if _has_no_place(config, path, index):
        stacked.setdefault(path, []).append(np.ones(shape, np.float32))
        continue
      for name in names.names:
        size = np.prod(shape) / len(names.names)
        if take(name).size != size:
          raise errors.InputError(
              f"{folder}: the weight {name} has {tensors[name].size} elements "
              f"instead of {int(size)}; config.json says otherwise")
      stacked.setdefault(path, []).append(names.from_stock(take, shape))
  split = config.insertion_layer
  for path, arrays in stacked.items():
    for stack, part in (("early", arrays[:split]), ("late", arrays[split:])):
      if part:
        params[f"{stack}/layers/{path}"] = np.stack(part)
  embedding, biases = hf_weights.MLM_OUTPUTS[config.architecture]
  if biases[0] in tensors:
    for path, weight in hf_weights.MLM_HEADS[config.architecture].items():
      params[path] = weight.from_stock(take, shapes[path])
    params["output_bias"] = _pad_rows(take(biases[0]), config)
    params["mask_vector"] = params["embedding"][specials.MASK].copy()
    if embedding in tensors:  # Where it is tied it may be left out.
      params["embedding"] = _pad_rows(take(embedding), config)
  unused = sorted(n for n in unused if not n.startswith(_UNREAD))
  if unused:
    raise errors.InputError(
        f"{folder}: nothing here reads the weight {unused[0]}"
        + (f" and {len(unused) - 1} more" if unused[1:] else ""))
  return params


def _check_shape(array, shape, name, folder):
  if array.shape != tuple(shape):
    raise errors.InputError(
        f"{folder}: the weight {name} is {array.shape}; config.json says "
        f"{tuple(shape)}")


def _pad_rows(array, config):
  padding = config.padded_vocab_size - len(array)
  return np.pad(array, ((0, padding),) + ((0, 0),) * (array.ndim - 1))


def _shapes(config):
  """Returns {path: shape} of a model's parameters."""
  ids = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(lambda: encoder_lib.LateMaskModel(config).init(
      jax.random.key(0), masked_lib.unmasked(ids)))["params"]
  return {k: v.shape for k, v in flax.traverse_util.flatten_dict(
      shapes, sep="/").items()}


def _what_stock_lacks(config, params, cut_config, tensors, prefix):
  """Returns our parameters, by paths, that the stock file cannot give back."""
  back = _from_stock(config, cut_config, tensors, prefix, "")
  rest = {}
  for path, array in params.items():
    found = back.get(path)
    if found is None or found.shape != array.shape:
      rest[path] = array
    elif not np.array_equal(found, array):
      if np.array_equal(found[:config.vocab_size], array[:config.vocab_size]):
        rest[path + ".padding"] = array[config.vocab_size:]
      else:
        rest[path] = array
  return rest


def _read_json(path):
  """Returns the object in a file."""
  try:
    found = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError) as error:
    raise errors.InputError(f"{path} cannot be read: {error}") from error
  if not isinstance(found, dict):
    raise errors.InputError(f"{path} holds no JSON object")
  return found


def _read(path):
  """Returns the tensors of a safetensors file."""
  try:
    return safetensors.numpy.load_file(str(path))
  except (OSError, safetensors.SafetensorError) as error:
    raise errors.InputError(f"{path} cannot be read: {error}") from error


def _write(folder, stock, tensors, about, rest, tokenizer, max_length):
  files = {"config.json": stock, "latemask.json": about,
           "tokenizer.json": hub_tokenizer.tokenizer_json(tokenizer),
           "tokenizer_config.json": hub_tokenizer.tokenizer_config(max_length)}
  with files_lib.replacing(folder) as part:
    for name, content in files.items():
      (part / name).write_text(
          json.dumps(content, indent=1, ensure_ascii=False), "utf-8")
    tokenizer.save(part / "tokenizer.model")
    for name, arrays in (("model", tensors), ("latemask", rest)):
      safetensors.numpy.save_file(
          {k: np.ascontiguousarray(v) for k, v in arrays.items()},
          str(part / f"{name}.safetensors"), metadata={"format": "pt"})
