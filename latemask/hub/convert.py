"""Arrays of a model <-> tensors of a stock class: walks the tables of weights.

All arrays here are given by their paths ("late/layers/mlp/in_kernel").
`pad_id` and `mask_id` are those of the folder: the ids of <pad> and <mask>.
"""

import functools
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import weights as hf_weights
from latemask.masking import masked as masked_lib
from latemask.model import encoder as encoder_lib
from latemask.model import heads
from latemask.model import word_embedding

# Output bias of what has no probability; float16 holds it.
_NEVER = -1e4
# What stock files may hold and nothing here reads: what is no parameter, and
# what other heads have learned, which is named to who goes on.
_NO_PARAMETERS = ("embeddings.position_ids", "embeddings.token_type_ids",
                  "rotary_emb.")
_UNREAD = ("pooler.", "lm_head.", "head.", "decoder.", "classifier.",
           "qa_outputs.", "cls.")
# What the weights of norms were called before PyTorch.
_OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
# What the numbers of a weight may be.
_FLOATS = ("float32", "float16", "bfloat16", "float64")
# Arrays with a row, or a number, an id.
_OF_IDS = (word_embedding.INPUT, word_embedding.OUTPUT, "output_bias")


def to_stock(rows, arrays, config, prefix=""):
  """Returns {name: tensor} of the arrays that a table of weights has."""
  return {prefix + name: tensor for path, row in rows.items()
          for name, tensor in row.to_stock(arrays[path], config).items()}


def encoder_to_stock(config, encoder, prefix, pad_id):
  """Returns {name: tensor} of a cut encoder."""
  return to_stock(hf_weights.encoder(config.architecture, pad_id), encoder,
                  config, prefix)


def mlm_to_stock(config, params, num_words, prefix, mask_id):
  """Returns {name: tensor} of the head, and of the input embedding anew.

  There <mask> becomes our mask vector; so the output is never tied to it.
  """
  bias = params["output_bias"].copy()
  bias[num_words:] = _NEVER  # Ids that the tokenizer has no word for.
  arrays = params | {
      "output_bias": bias,
      word_embedding.OUTPUT: word_embedding.output(params)}
  head = to_stock(hf_weights.MLM_HEADS[config.architecture], arrays, config)
  inputs = params["embedding"].copy()
  inputs[mask_id] = params["mask_vector"]
  row = hf_weights.encoder(config.architecture, 0)["embedding"]
  return head | to_stock(
      {"embedding": row}, {"embedding": inputs}, config, prefix)


class Reader:
  """Reads the tensors of a stock file by name, and knows what is left.

  Names may have the prefix of their class or not, here as in the file.
  """

  def __init__(self, architecture, tensors, folder):
    self._prefix = hf_weights.CLASSES[architecture][2]
    self.tensors = {self._name(n): t for n, t in tensors.items()}
    self._folder = folder
    self._left = set(self.tensors)

  def _name(self, name):
    return re.sub(r"\.(gamma|beta)$", lambda found: _OLD_NAMES[found[0]],
                  name.removeprefix(self._prefix))

  def has(self, name):
    return self._name(name) in self.tensors

  def alias(self, name, other):
    """Lets a tensor that is left out be another one that it is tied to."""
    if not self.has(name) and self.has(other):
      self.tensors[self._name(name)] = self.tensors[self._name(other)]
    self._left.discard(self._name(other))

  def __call__(self, name, shape):
    """Returns a tensor, in float32; None in `shape` is any size but 0."""
    name = self._name(name)
    if name not in self.tensors:
      raise errors.InputError(f"{self._folder}: the weight {name} is missing")
    self._left.discard(name)
    tensor = self.tensors[name]
    fits = len(shape) == tensor.ndim and all(
        found == size or size is None and found
        for found, size in zip(tensor.shape, shape))
    if not fits:
      raise errors.InputError(
          f"{self._folder}: the weight {name} is {tensor.shape}; config.json "
          f"says {tuple(shape)}")
    return _float32(tensor, name, self._folder)

  def unread(self):
    """Returns the names of parameters that were not asked for, sorted.

    Raises:
      InputError: there is one that belongs to no head.
    """
    left = sorted(n for n in self._left if not n.startswith(_NO_PARAMETERS))
    odd = [n for n in left if not n.startswith(_UNREAD)]
    if odd:
      raise errors.InputError(
          f"{self._folder}: nothing here reads the weight {odd[0]}"
          + (f" and {len(odd) - 1} more, up to {odd[-1]}" if odd[1:] else ""))
    return left


def no_float(name, dtype, where):
  """Returns the error of a weight whose numbers are of no such kind."""
  return errors.InputError(
      f"{where}: the weight {name} is {dtype}; it must be one of "
      + ", ".join(_FLOATS))


def _float32(tensor, name, where):
  if tensor.dtype.name not in _FLOATS:
    raise no_float(name, tensor.dtype, where)
  tensor = tensor.astype(np.float32)
  if not np.isfinite(tensor).all():
    raise errors.InputError(f"{where}: the weight {name} is not finite")
  return tensor


def from_stock(config, cut_config, tensors, folder, pad_id, mask_id):
  """Returns our parameters as far as the stock file has them.

  Args:
    config: of the model; the layers are dealt out to its two stacks.
    cut_config: of the encoder that the file holds.
    tensors: {name: tensor} of the file.
    folder: where the file lies, for messages.

  Returns:
    ({path: array}, names of parameters that are not among these). The mask
    vector is the row of <mask> of the input; a head is there where the file
    has one for language modelling.

  Raises:
    InputError: a weight is missing, has another shape, is no finite number
      or is not read; or what is said to be tied differs.
  """
  read = Reader(config.architecture, tensors, folder)
  shapes = _shapes(cut_config)

  def walk(rows):
    return {path: row.from_stock(read, shapes[path], config)
            for path, row in rows.items()}
  encoder = hf_weights.encoder(config.architecture, pad_id)
  params = _in_two_stacks(walk(encoder), config.insertion_layer)
  if mask_id < config.vocab_size:  # Else it is a token more.
    params["mask_vector"] = params["embedding"][mask_id].copy()
  if _has_mlm_head(config.architecture, read):
    head = hf_weights.MLM_HEADS[config.architecture]
    # Where something is tied to another, one of the two may be left out.
    output, = head[word_embedding.OUTPUT].names
    if config.tied_output:
      read.alias(output, encoder[word_embedding.INPUT].names[0])
    read.alias(head["output_bias"].names[0], head["output_bias"].names[-1])
    params |= walk(head)
    if config.tied_output:
      inputs = params[word_embedding.INPUT]
      params[word_embedding.INPUT] = params.pop(word_embedding.OUTPUT)
      _check_tied(inputs, params[word_embedding.INPUT], output, folder,
                  mask_id)
  return params, read.unread()


def _has_mlm_head(architecture, read):
  """Whether a file has any weight of a head for language modelling."""
  # ModernBERT calls parts of either head the same.
  classes, = hf_weights.CLASS_HEADS[architecture]["out_kernel"].names
  return not read.has(classes) and any(
      read.has(name) for row in hf_weights.MLM_HEADS[architecture].values()
      for name in row.names)


def _check_tied(input_VxD, output_VxD, name, folder, mask_id):
  differ_V = (input_VxD != output_VxD).any(1)
  differ_V[mask_id] = False
  if differ_V.any():
    raise errors.InputError(
        f"{folder}: {name} is another embedding than that of the input, in "
        f"{differ_V.sum()} rows besides that of <mask>, and config.json says "
        'that both are one; "tie_word_embeddings": false there reads both')


def class_head_from_stock(config, tensors, folder, head):
  """Returns what a stock file has of a head for a task.

  Of a file for language modelling that is what stock takes from it, too:
  BERT's pooler, the head of ModernBERT.

  Args:
    config, tensors, folder: see `from_stock`.
    head: a row of `heads.HEADS`.

  Returns:
    {path: array}; {} for nothing.

  Raises:
    InputError: a weight has another shape, or is no finite number.
  """
  read = Reader(config.architecture, tensors, folder)
  rows = {path: row for path, row
          in hf_weights.HEADS[head][1][config.architecture].items()
          if all(map(read.has, row.names))}
  labels = (read(rows["out_bias"].names[0], (None,)).size
            if "out_bias" in rows else 1)
  shapes = jax.eval_shape(
      lambda: heads.init(config, labels, jax.random.key(0), head=head))
  shapes = flax.traverse_util.flatten_dict(shapes, sep="/")
  return {path: row.from_stock(read, shapes[path].shape, config)
          for path, row in rows.items()}


def _in_two_stacks(encoder, insertion_layer):
  """Returns a cut encoder with its layers before and behind the insertion."""
  params = {}
  for path, array in encoder.items():
    if path.startswith("late/"):
      early = array[:insertion_layer]
      array = array[insertion_layer:]
      if len(early):
        params[path.replace("late", "early", 1)] = early
    if len(array):
      params[path] = array
  return params


@functools.cache  # It traces the whole model.
def _shapes(config):
  """Returns {path: shape} of a model's parameters."""
  ids = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(lambda: encoder_lib.LateMaskModel(config).init(
      jax.random.key(0), masked_lib.unmasked(ids, specials.TRAINED)))["params"]
  shapes = {k: v.shape for k, v in flax.traverse_util.flatten_dict(
      shapes, sep="/").items()}
  return shapes | {word_embedding.OUTPUT: shapes[word_embedding.INPUT]}


def what_stock_lacks(config, params, cut_config, tensors, pad_id, mask_id):
  """Returns what a stock file cannot give back, for `add_rest`."""
  back, _ = from_stock(
      config, cut_config, tensors, "this model", pad_id, mask_id)
  rest = {}
  for path, array in params.items():
    found = back.get(path)
    if found is None or found.shape != array.shape:
      rest[path] = array
      continue
    differs = np.array(found != array)
    lacking = {}
    for ending, rows in _rows(config, mask_id, path).items():
      if differs[rows].any():
        lacking[path + ending] = array[rows]
        differs[rows] = False
    rest |= {path: array} if differs.any() else lacking
  return rest


def _rows(config, mask_id, path):
  """Returns {ending: rows} of an array that may be kept by themselves.

  All that has a row an id has padding; and where stock has our mask vector,
  the word embedding may have learned another row.
  """
  if path not in _OF_IDS:
    return {}
  rows = {".padding": slice(config.vocab_size, None)}
  if path == word_embedding.INPUT:
    rows[".mask"] = slice(mask_id, mask_id + 1)
  return rows


def add_rest(config, params, rest, path, mask_id):
  """Puts back into `params`, in place, what the stock file lacked.

  Args:
    path: the file that it was read from, for messages.

  Raises:
    InputError: see `from_stock`.
  """
  shapes = _shapes(config)
  for name, tensor in rest.items():
    array, (ours, dot, ending) = (
        _float32(tensor, name, path), name.partition("."))
    rows = _rows(config, mask_id, ours)
    if ours not in shapes or ending and dot + ending not in rows:
      raise errors.InputError(f"{path}: nothing here reads the weight {name}")
    if ending and ours in params and array.shape[1:] == shapes[ours][1:]:
      whole = params[ours]
      start, stop, _ = rows[dot + ending].indices(len(whole))
      array = np.concatenate([whole[:start], array, whole[stop:]])
    if array.shape != shapes[ours]:
      raise errors.InputError(
          f"{path}: the weight {name} is {tensor.shape}, which is not what "
          "latemask.json says")
    params[ours] = array
