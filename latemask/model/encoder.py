"""The late-mask encoder: `Masked` -> hidden states of the targets.

embed kept -> early layers -> insertion of the slots -> late layers -> head.
The first `insertion_layer` layers see the kept tokens only. A slot is a
vector of its own (plus its position), not a row of the word embedding. With
insertion_layer 0 this is ordinary masked language modelling. Source: 3ML,
arXiv 2211.04898, re-implemented from its public description.

Decoders (the late layers):
  self    ordinary layers over kept tokens and slots (3ML-self);
  cross   self-attention among queries, cross-attention to the normed encoder
          output, MLP (3ML-cross). Queries are the targets, or all tokens.
The last late layer computes queries and MLP for the targets only: nothing
else of it is read. One final norm (pre-norm architectures) ends the encoder;
`self` ends its late layers with it, since fine-tuning may keep or drop them.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from latemask.config import since
from latemask import errors
from latemask.model import layers as layers_lib
from latemask.model import products
from latemask.model import stack
from latemask.runtime import mesh

_DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}
# Rows of the vocabulary are padded to this: the width of a TPU's lanes.
VOCAB_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """`config.model`, key by key (configs/base.py says what each means)."""

  architecture: str
  width: int
  heads: int
  mlp: int
  layers: int
  insertion_layer: int
  insertion: str
  decoder: str
  decoder_queries: str
  vocab_size: int
  max_length: int
  dropout: float
  attention_dropout: float
  rotary_theta: float
  norm_eps: float
  dtype: str
  unroll: int
  remat: str | None
  loss_chunk: int

  @property
  def layer(self):
    """The part that layers.py needs."""
    return layers_lib.LayerConfig(
        layers_lib.ARCHITECTURES[self.architecture], self.width, self.heads,
        self.mlp, self.dropout, self.attention_dropout, self.norm_eps,
        _DTYPES[self.dtype])

  @property
  def padded_vocab_size(self):
    """Rows of the word embedding."""
    return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def config_of(fields, where):
  """Returns the ModelConfig that was written somewhere, now or before.

  Args:
    fields: {key of `config.model`: value}.
    where: the place that a message names.

  Raises:
    InputError: a key is missing, or one is not known here.
  """
  wanted = [field.name for field in dataclasses.fields(ModelConfig)]
  fields = {key.removeprefix("model."): value for key, value in since.fill(
      {f"model.{key}": value for key, value in fields.items()},
      [f"model.{key}" for key in wanted]).items()}
  if missing := sorted(set(wanted) - set(fields)):
    raise errors.InputError(f"{where} says nothing of model.{missing[0]}")
  if unknown := sorted(set(fields) - set(wanted)):
    raise errors.InputError(
        f"{where} has model.{unknown[0]}, which is not known here; it was "
        "written by a later version")
  return ModelConfig(**fields)


def make_model(config, vocab_size):
  """Builds the model of `config.model`.

  Args:
    vocab_size: that of the tokenizer.

  Raises:
    InputError: sizes or choices that do not fit together.
  """
  m = config.model
  errors.choose(layers_lib.ARCHITECTURES, m.architecture, "model.architecture")
  errors.choose(_DTYPES, m.dtype, "model.dtype")
  errors.choose(_INSERTIONS, m.insertion, "model.insertion")
  errors.choose(_DECODERS, m.decoder, "model.decoder")
  errors.choose(_QUERIES, m.decoder_queries, "model.decoder_queries")
  errors.choose(stack.REMAT, m.remat, "model.remat")
  for key in ("width", "heads", "mlp", "layers", "max_length", "unroll",
              "loss_chunk"):
    if m[key] < 1:
      raise errors.InputError(f"model.{key} is {m[key]}; it must be positive")
  for key in ("dropout", "attention_dropout"):
    if not 0 <= m[key] < 1:
      raise errors.InputError(f"model.{key} is {m[key]}; it must be in [0, 1)")
  if m.width % m.heads:
    raise errors.InputError(
        f"model.heads {m.heads} does not divide model.width {m.width}")
  if layers_lib.ARCHITECTURES[m.architecture].rotary and m.width // m.heads % 2:
    raise errors.InputError(
        f"model.width {m.width} / model.heads {m.heads} is odd; rotary "
        "positions need an even size of a head")
  if not 0 <= m.insertion_layer < m.layers:
    raise errors.InputError(
        f"model.insertion_layer is {m.insertion_layer}; it must lie in 0 to "
        f"model.layers - 1 = {m.layers - 1} (0: ordinary masking)")
  if m.decoder == "cross" and not m.insertion_layer:
    raise errors.InputError(
        "model.decoder cross needs model.insertion_layer of at least 1: it "
        "reads the output of the layers before")
  if config.data.length > m.max_length:
    raise errors.InputError(
        f"data.length {config.data.length} is longer than model.max_length "
        f"{m.max_length}")
  if m.vocab_size is not None and m.vocab_size < vocab_size:
    raise errors.InputError(
        f"model.vocab_size {m.vocab_size} is smaller than the tokenizer's "
        f"{vocab_size}; leave it None to take that")
  fields = dict(m) | {"vocab_size": m.vocab_size or vocab_size}
  return LateMaskModel(ModelConfig(**fields))


class LateMaskModel(nn.Module):
  """The whole model; see the module's docstring."""

  config: ModelConfig

  def setup(self):
    c = self.config
    architecture = c.layer.architecture
    self.embedding_VxD = self.param(
        "embedding", layers_lib.VECTOR_INIT, (c.padded_vocab_size, c.width))
    if not architecture.rotary:
      self.positions_LxD = self.param(
          "positions", layers_lib.VECTOR_INIT, (c.max_length, c.width))
    self.mask_vector_D = self.param(
        "mask_vector", layers_lib.VECTOR_INIT, (c.width,))
    self.embedding_norm = layers_lib.norm(c.layer, "embedding_norm")
    self.embedding_dropout = layers_lib.Dropout(c.dropout)
    if c.insertion_layer:
      self.early = stack.Stack(c, c.insertion_layer, 0, False)
    cross = c.decoder == "cross"
    self.late = stack.Stack(
        c, c.layers - c.insertion_layer, c.insertion_layer, cross)
    if architecture.pre_norm:
      self.final_norm = layers_lib.norm(c.layer, "final_norm")
      if cross:
        self.decoder_norm = layers_lib.norm(c.layer, "decoder_norm")
    self.head = Head(c)
    self.output_bias_V = self.param(
        "output_bias", nn.initializers.zeros_init(), (c.padded_vocab_size,))

  def __call__(self, masked, train=False, looked_up_BxKxD=None):
    """Returns the head's hidden states of the targets, [B, T, D].

    Their logits are this times the embedding, plus `output_bias`.

    Args:
      looked_up_BxKxD: `look_up` of the kept tokens, where the caller wants
        the gradient of these instead of the embedding's.
    """
    kept_BxKxD, kept_place = self._early(masked, train, looked_up_BxKxD)
    slot_BxQxD = self._embed(
        self.mask_vector_D[None, None], masked.slot_position_BxQ, train)
    slot_place = self._place(
        masked.slot_position_BxQ, masked.slot_segment_BxQ)
    target_BxTxD = _DECODERS[self.config.decoder](
        self, masked, (kept_BxKxD, kept_place), (slot_BxQxD, slot_place),
        train)
    return self.head(target_BxTxD)

  def predict(self, hidden_BxSxD):
    """Returns the head's hidden states of final ones, [B, S, D]."""
    return self.head(hidden_BxSxD)

  def encode(self, masked, train=False, target_BxT=None):
    """Returns what fine-tuning reads: the encoder's output, [B, K, D].

    The early layers and the final norm; with insertion_layer 0 all layers,
    and then `target_BxT` asks for some of the tokens only, [B, T, D].
    """
    kept_BxKxD, kept_place = self._early(masked, train)
    if not self.config.insertion_layer:
      kept_BxKxD = self.late(
          kept_BxKxD, kept_place, target_BxT, train=train)
    return self._end(kept_BxKxD)

  def _embed(self, vector, position_BxS, train):
    """Adds positions; then norm and dropout."""
    c = self.config
    if c.layer.architecture.rotary:
      vector = jnp.broadcast_to(vector, (*position_BxS.shape, c.width))
    else:
      table_LxD = mesh.constrain(self.positions_LxD, None, None)
      vector = vector + mesh.split_batch(table_LxD[position_BxS])
    return self.embedding_dropout(
        self.embedding_norm(vector.astype(c.layer.dtype)), train)

  def _early(self, masked, train, looked_up_BxKxD=None):
    """Runs the layers that see the kept tokens only."""
    if looked_up_BxKxD is None:
      looked_up_BxKxD = look_up(self.embedding_VxD, masked.kept_ids_BxK)
    kept_BxKxD = self._embed(
        looked_up_BxKxD, masked.kept_position_BxK, train)
    kept_place = self._place(
        masked.kept_position_BxK, masked.kept_segment_BxK)
    if self.config.insertion_layer:
      kept_BxKxD = self.early(kept_BxKxD, kept_place, train=train)
    return kept_BxKxD, kept_place

  def _place(self, position_BxS, segment_BxS):
    c = self.config
    return layers_lib.place(c.layer, position_BxS, segment_BxS, c.rotary_theta)

  def _end(self, hidden):
    """The final norm, where the architecture has one."""
    return (self.final_norm(hidden)
            if self.config.layer.architecture.pre_norm else hidden)


class Head(nn.Module):
  """Dense, GELU, norm: from encoder states to the space of embeddings."""

  config: ModelConfig

  @nn.compact
  def __call__(self, hidden_BxTxD):
    """Returns [B, T, D]."""
    c = self.config
    kernel_DxD = self.param(
        "kernel", layers_lib.kernel_init(c.width), (c.width, c.width))
    out_BxTxD = products.matmul(hidden_BxTxD, kernel_DxD.astype(c.layer.dtype))
    if c.layer.architecture.bias:
      out_BxTxD += self.param(
          "bias", nn.initializers.zeros_init(), (c.width,)
      ).astype(c.layer.dtype)[None, None]
    return layers_lib.norm(c.layer, "norm")(layers_lib.gelu(out_BxTxD))


# Insertions: kept and slots -> one sequence, its place, where the targets
# stand in it. Positions are explicit, so the two differ in order alone.


def _append(masked, kept, slot):
  """Slots stand behind the kept tokens: S = K + Q."""
  place = _join(kept[1], slot[1])
  batch, num_slots = masked.slot_position_BxQ.shape
  slot_index = jnp.broadcast_to(
      kept[0].shape[1] + jnp.arange(num_slots), (batch, num_slots))
  return (jnp.concatenate([kept[0], slot[0]], axis=1), place,
          jnp.concatenate([slot_index, masked.corrupted_BxC], axis=1))


def _scatter(masked, kept, slot):
  """Every token stands where it stood in the row: S = L."""
  hidden, place, _ = _append(masked, kept, slot)
  index_BxL = masked.place_BxL
  here_BxL = index_BxL < hidden.shape[1]
  index_BxL = jnp.minimum(index_BxL, hidden.shape[1] - 1)
  place = place.take(index_BxL)
  place = place.replace(
      segment_BxS=jnp.where(here_BxL, place.segment_BxS, 0))
  hidden = jnp.where(
      here_BxL[..., None], stack.take(hidden, index_BxL), 0)
  return hidden, place, masked.target_index_BxT


def _only_targets(masked, kept, slot):
  """Slots, then the targets that stayed in the encoder: S = T."""
  num_slots = slot[0].shape[1]
  noise = kept[1].take(masked.corrupted_BxC)
  # What stands in unused places must not pass for a token of document 1.
  noise = noise.replace(segment_BxS=jnp.where(
      masked.target_weights_BxT[:, num_slots:] > 0, noise.segment_BxS, 0))
  return jnp.concatenate(
      [slot[0], stack.take(kept[0], masked.corrupted_BxC)], axis=1), _join(
          slot[1], noise), None


def _join(first, second):
  """Returns the places of the one tokens, then of the others."""
  return jax.tree.map(
      lambda a, b: jnp.concatenate([a, b], axis=-1 if a.ndim == 2 else 2),
      first, second)


_INSERTIONS = {"append": _append, "scatter": _scatter}
_QUERIES = {
    "targets": lambda config: _only_targets,
    "all": lambda config: _INSERTIONS[config.insertion],
}


def _decode_self(model, masked, kept, slot, train):
  hidden, place, target_BxT = _INSERTIONS[model.config.insertion](
      masked, kept, slot)
  return model._end(model.late(hidden, place, target_BxT, train=train))


def _decode_cross(model, masked, kept, slot, train):
  c = model.config
  memory, memory_place = model._end(kept[0]), kept[1]
  hidden, place, target_BxT = _QUERIES[c.decoder_queries](c)(
      masked, (memory, memory_place), slot)
  out = model.late(hidden, place, target_BxT, memory, memory_place, train)
  return (model.decoder_norm(out) if c.layer.architecture.pre_norm else out)


_DECODERS = {"self": _decode_self, "cross": _decode_cross}


def look_up(embedding_VxD, ids_BxS):
  """Returns the word vectors of ids, [B, S, D]."""
  # Whole rows on every device of an fsdp group: a lookup in a table whose
  # rows are split would move the result about instead.
  table_VxD = mesh.constrain(embedding_VxD, "tensor", None)
  return mesh.split_batch(table_VxD[ids_BxS])
