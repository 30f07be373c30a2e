"""Arrays of a model <-> tensors of a stock class: walks hub/weights.py."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import weights as hf_weights
from latemask.masking import masked as masked_lib
from latemask.model import architecture as architecture_lib
from latemask.model import encoder as encoder_lib

# Output bias of what has no probability; float16 holds it.
_NEVER = -1e4
# What stock files may hold and nothing here reads.
_UNREAD = ("pooler.", "embeddings.position_ids", "rotary_emb.", "lm_head.",
           "head.", "decoder.", "classifier.")


def input_embedding(architecture, prefix):
  return prefix + hf_weights.ENCODERS[architecture][2]["embedding"].names[0]


def encoder_to_stock(config, encoder, prefix):
  """Returns {name: tensor} of a cut encoder given by paths."""
  at, in_layer, outside = hf_weights.ENCODERS[config.architecture]
  tensors = {}
  for path, weight in outside.items():
    array = encoder[path]
    if path == "embedding":
      array = array[:config.vocab_size].copy()
    elif path == "positions":
      array = np.pad(array, ((hf_weights.FIRST_POSITION, 0), (0, 0)))
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


def mlm_to_stock(config, params, num_words):
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


def from_stock(config, cut_config, tensors, prefix, folder):
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
      array = array[hf_weights.FIRST_POSITION:] + take(
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


def what_stock_lacks(config, params, cut_config, tensors, prefix):
  """Returns our parameters, by paths, that the stock file cannot give back."""
  back = from_stock(config, cut_config, tensors, prefix, "")
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
