"""The table of architectures, and the sizes of a model.

Each architecture is the exact counterpart of a stock Hugging Face class, so
that what is trained here loads there:
  roberta          RobertaModel: post-norm, learned positions, GELU
  bert, xlm_roberta, camembert
                   the same function under other names; bert has a vector for
                   the second text of a pair besides
  roberta_prenorm  RobertaPreLayerNormModel: the same, pre-norm, final norm
  modern           ModernBertModel: pre-norm (none before the first
                   attention), rotary positions, GeGLU, no biases; layers that
                   see the whole document, and local ones between them
"""

import dataclasses

import ml_dtypes
import numpy as np

from latemask.config import keys
from latemask import errors


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What tells them apart.

  Fields:
    pre_norm: norms stand before attention and MLP, and one at the very end;
      else after each residual sum.
    first_norm: the first layer has its norm before attention.
    rotary: positions rotate queries and keys; else a learned table is added
      to the embeddings.
    gated: the MLP is act(a) * b.
    bias: dense layers and norms have biases.
    types: a vector is added to each token of the second text of a pair.
    first_dropout: the class head drops out the state that it reads, too; else
      only what its output layer reads.
  """

  pre_norm: bool
  first_norm: bool
  rotary: bool
  gated: bool
  bias: bool
  types: bool = False
  first_dropout: bool = True


_ROBERTA = Architecture(False, True, False, False, True)
ARCHITECTURES = {
    "roberta": _ROBERTA,
    "bert": dataclasses.replace(_ROBERTA, types=True, first_dropout=False),
    "xlm_roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "roberta_prenorm": Architecture(True, True, False, False, True),
    "modern": Architecture(
        True, False, True, True, False, first_dropout=False),
}


@dataclasses.dataclass(frozen=True)
class LayerConfig:
  """Sizes of a layer; `dtype` is that of the computation."""

  architecture: Architecture
  width: int
  heads: int
  mlp: int
  dropout: float
  attention_dropout: float
  norm_eps: float
  dtype: np.dtype
  attention: str
  local_window: int


# Not JAX's names of them: a config is checked before JAX is imported.
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
# Fields that say how a model is computed, whatever it is.
COMPUTING = (
    "dtype", "attention", "unroll", "remat", "loss_tokens", "loss_chunk")
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
  attention: str
  unroll: int
  remat: str | None
  global_every: int
  local_window: int
  local_rotary_theta: float
  tied_output: bool
  loss_tokens: int = keys.BEFORE["model.loss_tokens"]
  # Of runs that are older than that, in its place: targets a row.
  loss_chunk: int | None = None

  @property
  def local_layers(self):
    """See the function."""
    return local_layers(self)

  @property
  def layer(self):
    """The part that layers.py needs."""
    return LayerConfig(
        ARCHITECTURES[self.architecture], self.width, self.heads,
        self.mlp, self.dropout, self.attention_dropout, self.norm_eps,
        DTYPES[self.dtype], self.attention, self.local_window)

  @property
  def padded_vocab_size(self):
    """Rows of the word embedding."""
    return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

  @property
  def where_masks_join(self):
    """Where masks join, with the number of the key, wherever it is told."""
    return (f"masks join before layer {self.insertion_layer} of layers 0 to "
            f"{self.layers - 1}")


def local_layers(m):
  """Returns whether each layer is local: a tuple of bools.

  Layer i is global where i % global_every == 0. Late layers behind the last of
  these are global, too: what comes behind a stack, in which masks stand.

  Args:
    m: a `ModelConfig`, or `config.model`.
  """
  last = (m.layers - 1) // m.global_every * m.global_every
  return tuple(
      i % m.global_every > 0 and (i < max(m.insertion_layer, last)
                                  or not m.insertion_layer)
      for i in range(m.layers))


def vocab_rows(asked, tokenizer_size):
  """Returns the ids that a model has: those asked for, or its tokenizer's.

  Args:
    asked: `model.vocab_size`, perhaps None. An encoder may have no row left
      for what is added to its tokenizer (data.add_tokens).
  """
  return max(asked or 0, tokenizer_size)


def config_of(fields, where):
  """Returns the ModelConfig that was written somewhere, now or before.

  How its attention was computed belongs to the machine that it was trained on:
  here it is `auto`.

  Args:
    fields: {key of `config.model`: value}.
    where: the place that a message names.

  Raises:
    InputError: a key is missing or not known here, or has a value that it
      cannot have.
  """
  keys.check_group("model", fields, where)
  wanted = [field.name for field in dataclasses.fields(ModelConfig)
            if field.default is dataclasses.MISSING]
  fields = {key.removeprefix("model."): value for key, value in keys.fill(
      {f"model.{key}": value for key, value in fields.items()},
      [f"model.{key}" for key in wanted]).items()}
  if missing := sorted(set(wanted) - set(fields)):
    raise errors.InputError(f"{where} says nothing of model.{missing[0]}")
  if fields["vocab_size"] is None:
    raise errors.InputError(f"{where}: model.vocab_size is None")
  config = ModelConfig(**fields | {"attention": "auto"})
  check(config, where)
  return config


def check(sizes, where="", called="model.{}".format):
  """Checks what the sizes of a model must be to each other.

  Args:
    sizes: a `ModelConfig`, or `config.model`; each by itself is right.
    where: the file that they stand in, if it is not the config.
    called: what a field is called there.

  Raises:
    InputError: two that do not fit together.
  """
  for misfit in _misfits(sizes, called):
    raise errors.InputError(f"{where}{': ' * bool(where)}{misfit}")


def _misfits(m, called):
  """Yields in words what does not fit together."""
  heads, width = called("heads"), called("width")
  if m.width % m.heads:
    yield f"{heads} {m.heads} does not divide {width} {m.width}"
  if ARCHITECTURES[m.architecture].rotary and m.width // m.heads % 2:
    yield (f"{width} {m.width} / {heads} {m.heads} is odd; rotary positions "
           "need an even size of a head")
  if m.insertion_layer >= m.layers:
    yield (f"model.insertion_layer is {m.insertion_layer}; it must be less "
           f"than model.layers {m.layers} (0: ordinary masking)")
  if m.decoder == "cross" and not m.insertion_layer:
    yield ("model.decoder cross needs model.insertion_layer of at least 1: it "
           "reads the output of the layers before")
  yield from _misfits_of_local_layers(m, called)


def _misfits_of_local_layers(m, called):
  local = [i for i, is_local in enumerate(local_layers(m)) if is_local]
  if not local:
    return
  if not ARCHITECTURES[m.architecture].rotary:
    yield (f"model.global_every is {m.global_every}; model.architecture "
           f"{m.architecture} has no local layers (1: all global)")
  if m.local_window > m.max_length:
    yield (f"{called('local_window')} {m.local_window} is larger than the "
           f"positions, {called('max_length')} {m.max_length}")
  late = [i for i in local if i >= m.insertion_layer]
  if late and m.decoder == "cross":
    yield (f"layer {late[0]} is late and local; model.decoder cross needs "
           "late layers that are global (model.global_every)")
  elif late and m.insertion != "scatter":
    yield (f"layer {late[0]} is late and local, so it needs the tokens in "
           "order: model.insertion scatter")
