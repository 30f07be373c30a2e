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
else of it is read. Where layers are local (`model.global_every`), early ones
see kept tokens that are near by position, and late ones want every token in its
place: insertion scatter, decoder self; late layers behind a stack are global
(architecture.py, `local_layers`). One final norm (pre-norm architectures) ends
the encoder; `self` ends its late layers with it, since fine-tuning may keep or
drop them.
"""

import flax.linen as nn
import jax.numpy as jnp

from latemask import errors
from latemask.model import architecture as architecture_lib
from latemask.model import attention
from latemask.model import insertion
from latemask.model import parts
from latemask.model import products
from latemask.model import stack
from latemask.model import word_embedding
from latemask.runtime import mesh


def make_model(config, vocab_size):
  """Builds the model of `config.model`.

  Args:
    vocab_size: that of the tokenizer.

  Raises:
    InputError: sizes that do not fit together.
  """
  m = config.model
  architecture_lib.check(m)
  if config.data.length > m.max_length:
    raise errors.InputError(
        f"data.length {config.data.length} is longer than model.max_length "
        f"{m.max_length}")
  may_grow = config.data.add_tokens or config.data.add_mask_token
  if m.vocab_size is not None and m.vocab_size < vocab_size and not may_grow:
    raise errors.InputError(
        f"model.vocab_size {m.vocab_size} is smaller than the tokenizer's "
        f"{vocab_size}: is it that of another encoder? model.vocab_size=None "
        "takes the tokenizer's")
  fields = dict(m) | {
      "vocab_size": architecture_lib.vocab_rows(m.vocab_size, vocab_size)}
  return LateMaskModel(architecture_lib.ModelConfig(**fields))


class LateMaskModel(nn.Module):
  """The whole model; see the module's docstring."""

  config: architecture_lib.ModelConfig

  def setup(self):
    c = self.config
    architecture = c.layer.architecture
    vocab_by_width = c.padded_vocab_size, c.width
    self.embedding_VxD = self.param(
        word_embedding.INPUT, parts.VECTOR_INIT, vocab_by_width)
    if not architecture.rotary:
      self.positions_LxD = self.param(
          "positions", parts.VECTOR_INIT, (c.max_length, c.width))
    self.mask_vector_D = self.param(
        "mask_vector", parts.VECTOR_INIT, (c.width,))
    if architecture.types:  # Fine-tuning adds it to what it looks up (cut.py).
      self.second_text_D = self.param("second_text", parts.ZEROS, (c.width,))
    self.embedding_norm = parts.norm(c.layer, "embedding_norm")
    self.embedding_dropout = parts.Dropout(c.dropout)
    if c.insertion_layer:
      self.early = stack.Stack(c, c.insertion_layer, 0, False)
    cross = c.decoder == "cross"
    self.late = stack.Stack(
        c, c.layers - c.insertion_layer, c.insertion_layer, cross)
    if architecture.pre_norm:
      self.final_norm = parts.norm(c.layer, "final_norm")
      if cross:
        self.decoder_norm = parts.norm(c.layer, "decoder_norm")
    self.head = Head(c)
    self.output_bias_V = self.param(
        "output_bias", nn.initializers.zeros_init(), (c.padded_vocab_size,))
    if not c.tied_output:  # Last: all others begin alike with and without it.
      self.output_embedding_VxD = self.param(
          word_embedding.OUTPUT, parts.VECTOR_INIT, vocab_by_width)

  def __call__(self, masked, train=False, looked_up_BxKxD=None):
    """Returns the head's hidden states of the targets, [B, T, D].

    Their logits are this times `word_embedding.output`, plus `output_bias`.

    Args:
      looked_up_BxKxD: `look_up` of the kept tokens, where the caller wants
        the gradient of these instead of the embedding's.
    """
    kept_BxKxD, kept_place = self._early(masked, train, looked_up_BxKxD)
    slot_BxQxD = self._embed(
        self.mask_vector_D[None, None], masked.slot_position_BxQ, train)
    slot_place = self._place(
        masked.slot_position_BxQ, masked.slot_segment_BxQ)
    target_BxTxD = insertion.DECODERS[self.config.decoder](
        self, masked, (kept_BxKxD, kept_place), (slot_BxQxD, slot_place),
        train)
    return self.head(target_BxTxD)

  def predict(self, hidden_BxSxD):
    """Returns the head's hidden states of final ones, [B, S, D]."""
    return self.head(hidden_BxSxD)

  def encode(self, masked, train=False, target_BxT=None, looked_up_BxKxD=None):
    """Returns what fine-tuning reads: the encoder's output, [B, K, D].

    The early layers and the final norm; with insertion_layer 0 all layers,
    and then `target_BxT` asks for some of the tokens only, [B, T, D].

    Args:
      looked_up_BxKxD: see `__call__`.
    """
    kept_BxKxD, kept_place = self._early(masked, train, looked_up_BxKxD)
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
      looked_up_BxKxD = word_embedding.look_up(
          self.embedding_VxD, masked.kept_ids_BxK)
    kept_BxKxD = self._embed(
        looked_up_BxKxD, masked.kept_position_BxK, train)
    kept_place = self._place(
        masked.kept_position_BxK, masked.kept_segment_BxK)
    if self.config.insertion_layer:
      kept_BxKxD = self.early(kept_BxKxD, kept_place, train=train)
    return kept_BxKxD, kept_place

  def _place(self, position_BxS, segment_BxS):
    c = self.config
    return attention.place(
        c.layer, position_BxS, segment_BxS, c.rotary_theta,
        c.local_rotary_theta if any(c.local_layers) else None)

  def _end(self, hidden):
    """The final norm, where the architecture has one."""
    return (self.final_norm(hidden)
            if self.config.layer.architecture.pre_norm else hidden)


class Head(nn.Module):
  """Dense, GELU, norm: from encoder states to the space of embeddings."""

  config: architecture_lib.ModelConfig

  @nn.compact
  def __call__(self, hidden_BxTxD):
    """Returns [B, T, D]."""
    c = self.config
    kernel_DxD = self.param(
        "kernel", parts.kernel_init(c.width), (c.width, c.width))
    out_BxTxD = products.dense(hidden_BxTxD, kernel_DxD.astype(c.layer.dtype))
    if c.layer.architecture.bias:
      out_BxTxD += self.param(
          "bias", nn.initializers.zeros_init(), (c.width,)
      ).astype(c.layer.dtype)[None, None]
    return parts.norm(c.layer, "norm")(parts.gelu(out_BxTxD))
