"""Attention, MLP, norms and positions: one transformer layer, any of three.

Knows nothing of masking. Each architecture is the exact counterpart of a
stock Hugging Face class, so that what is trained here loads there:
  roberta          RobertaModel: post-norm, learned positions, GELU
  roberta_prenorm  RobertaPreLayerNormModel: the same, pre-norm, final norm
  modern           ModernBertModel, all layers global: pre-norm (none before
                   the first attention), rotary positions, GeGLU, no biases
Letters: B batch, Q queries, S keys, D width, H heads, h D/H, F mlp, G 2 where
the MLP is gated, else 1.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from latemask.model import products

# What the backward pass of a layer needs and only matrix products can give
# again; all else follows from these, elementwise or by attention's two small
# products. model.py's `remat` may save just these.
SAVED = ("qkv", "attended", "mlp_in")


@dataclasses.dataclass(frozen=True)
class Architecture:
  """What tells the three apart.

  Fields:
    pre_norm: norms stand before attention and MLP, and one at the very end;
      else after each residual sum.
    first_norm: the first layer has its norm before attention.
    rotary: positions rotate queries and keys; else a learned table is added
      to the embeddings.
    gated: the MLP is act(a) * b.
    bias: dense layers and norms have biases.
  """

  pre_norm: bool
  first_norm: bool
  rotary: bool
  gated: bool
  bias: bool


ARCHITECTURES = {
    "roberta": Architecture(False, True, False, False, True),
    "roberta_prenorm": Architecture(True, True, False, False, True),
    "modern": Architecture(True, False, True, True, False),
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
  dtype: jnp.dtype


@flax.struct.dataclass
class Place:
  """Where tokens stand, for attention.

  Fields:
    segment_BxS: tokens see each other where these are equal.
    rotary_2xBxSxh: float32 cosine and sine, or None without rotary positions.
  """

  segment_BxS: jax.Array
  rotary_2xBxSxh: jax.Array | None

  def take(self, index_BxT):
    """Returns the place of some of the tokens."""
    segment_BxT = jnp.take_along_axis(self.segment_BxS, index_BxT, axis=1)
    if self.rotary_2xBxSxh is None:
      return Place(segment_BxT, None)
    return Place(segment_BxT, jnp.take_along_axis(
        self.rotary_2xBxSxh, index_BxT[None, :, :, None], axis=2))


def place(config, position_BxS, segment_BxS, rotary_theta):
  """Returns the `Place` of tokens at these positions of these segments."""
  if not config.architecture.rotary:
    return Place(segment_BxS, None)
  return Place(segment_BxS, rotary(
      position_BxS, config.width // config.heads, rotary_theta))


def rotary(position_BxS, size, theta):
  """Returns cosine and sine of the rotary angles, [2, B, S, size].

  Source: RoFormer (arXiv 2104.09864), halves rotated as in ModernBERT.
  """
  frequency_h = theta ** -(np.arange(0, size, 2, dtype=np.float32) / size)
  angle_BxSxh = position_BxS[..., None].astype(jnp.float32) * np.concatenate(
      [frequency_h, frequency_h])[None, None]
  return jnp.stack([jnp.cos(angle_BxSxh), jnp.sin(angle_BxSxh)])


def _rotate(x_BxSxHxh, rotary_2xBxSxh):
  if rotary_2xBxSxh is None:
    return x_BxSxHxh
  cos, sin = rotary_2xBxSxh[:, :, :, None]
  x = x_BxSxHxh.astype(jnp.float32)
  first, second = jnp.split(x, 2, axis=-1)
  turned = jnp.concatenate([-second, first], axis=-1)
  return (x * cos + turned * sin).astype(x_BxSxHxh.dtype)


# Initial values of what is added to states: embeddings, positions, the mask
# vector. BERT's.
VECTOR_INIT = nn.initializers.normal(0.02)
_ZEROS = nn.initializers.zeros_init()


def kernel_init(fan_in):
  """Returns the initialiser of a kernel that sums over `fan_in` inputs.

  Normal, of standard deviation 0.554 / sqrt(fan_in). 0.554 is 0.02 x sqrt(768):
  BERT's 0.02 at the width that it was chosen for, so that each sum begins as
  large at any other width as it does there.
  """
  return nn.initializers.normal(0.02 * (768 / fan_in) ** 0.5)


def _row(bias_D, dtype):
  return bias_D.astype(dtype)[None, None]


class Dropout(nn.Module):
  """Zeroes a share `rate` of the elements and scales up the others."""

  rate: float

  @nn.compact
  def __call__(self, x, train):
    """Returns x, dropped out while training."""
    if not train or not self.rate:
      return x
    bits = jax.random.bits(self.make_rng("dropout"), x.shape)
    is_kept = bits >= np.uint32(round(self.rate * 2**32))
    return jnp.where(is_kept, x / (1 - self.rate), 0)


def norm(config, name):
  """Returns a layer norm; statistics in float32."""
  return nn.LayerNorm(
      epsilon=config.norm_eps, use_bias=config.architecture.bias,
      dtype=config.dtype, use_fast_variance=False, name=name)


def gelu(x):
  """Returns the exact GELU, computed in float32 by the formula of PyTorch.

  jax.nn.gelu goes through erfc, which costs an exponential and a division
  more, to be exact where the result is next to zero.
  """
  x32 = x.astype(jnp.float32)
  return (x32 * 0.5 * (1 + jax.lax.erf(x32 * 0.5 ** 0.5))).astype(x.dtype)


class Attention(nn.Module):
  """Multi-head attention of queries to keys within their segment."""

  config: LayerConfig

  @nn.compact
  def __call__(self, query_BxQxD, query_place, key_BxSxD, key_place, train):
    """Returns [B, Q, D]. Keys of None are the queries themselves."""
    c = self.config
    size = c.width // c.heads
    # Heads stay merged up to here: an axis of 64 at the end would be padded
    # to the 128 lanes of a TPU wherever it lies in memory.
    kernel_Dx3xD = self.param(
        "qkv_kernel", kernel_init(c.width), (c.width, 3, c.heads, size)
    ).astype(c.dtype).reshape(c.width, 3, c.width)
    bias_3x1x1xD = jnp.zeros((3, 1, 1, 1), c.dtype)
    if c.architecture.bias:
      bias_3x1x1xD = self.param("qkv_bias", _ZEROS, (
          3, c.heads, size)).astype(c.dtype).reshape(3, 1, 1, c.width)

    def project(x_BxSxD, first, last):
      # Moved after the product: einsum would move its operands about.
      y_NxBxSxD = checkpoint_name(jnp.moveaxis(products.einsum(
          "bsd,dne->bsne", x_BxSxD, kernel_Dx3xD[:, first:last]
      ), 2, 0) + bias_3x1x1xD[first:last], "qkv")
      return y_NxBxSxD.reshape(*y_NxBxSxD.shape[:3], c.heads, size)

    if key_BxSxD is None:
      key_place = query_place
      q_BxQxHxh, k_BxSxHxh, v_BxSxHxh = project(query_BxQxD, 0, 3)
    else:
      q_BxQxHxh, = project(query_BxQxD, 0, 1)
      k_BxSxHxh, v_BxSxHxh = project(key_BxSxD, 1, 3)
    q_BxQxHxh = _rotate(q_BxQxHxh, query_place.rotary_2xBxSxh)
    k_BxSxHxh = _rotate(k_BxSxHxh, key_place.rotary_2xBxSxh)
    scores_BxHxQxS = products.einsum(
        "bqhk,bshk->bhqs", q_BxQxHxh * size ** -0.5, k_BxSxHxh,
        preferred_element_type=jnp.float32)
    sees_Bx1xQxS = (query_place.segment_BxS[:, None, :, None]
                    == key_place.segment_BxS[:, None, None, :])
    # Finite, so that a row that sees nothing (a filler) stays finite too.
    scores_BxHxQxS = jnp.where(sees_Bx1xQxS, scores_BxHxQxS, -1e30)
    weights_BxHxQxS = jax.nn.softmax(scores_BxHxQxS).astype(c.dtype)
    weights_BxHxQxS = Dropout(c.attention_dropout)(weights_BxHxQxS, train)
    mixed_BxQxHxh = products.einsum(
        "bhqs,bshk->bqhk", weights_BxHxQxS, v_BxSxHxh)
    out_kernel = self.param(
        "out_kernel", kernel_init(c.width), (c.heads, size, c.width))
    out_BxQxD = products.einsum(
        "bqhk,hkd->bqd", mixed_BxQxHxh, out_kernel.astype(c.dtype))
    if c.architecture.bias:
      out_BxQxD += _row(self.param("out_bias", _ZEROS, (c.width,)), c.dtype)
    return out_BxQxD


class Mlp(nn.Module):
  """Dense, exact GELU (gated or not), dense."""

  config: LayerConfig

  @nn.compact
  def __call__(self, x_BxSxD):
    """Returns [B, S, D]."""
    c = self.config
    num = 2 if c.architecture.gated else 1
    kernel_GxDxF = self.param(
        "in_kernel", kernel_init(c.width), (num, c.width, c.mlp))
    inside = [products.matmul(x_BxSxD, kernel_GxDxF[g].astype(c.dtype))
              for g in range(num)]
    if c.architecture.bias:
      bias_GxF = self.param("in_bias", _ZEROS, (num, c.mlp))
      inside = [a_BxSxF + _row(bias_F, c.dtype)
                for a_BxSxF, bias_F in zip(inside, bias_GxF)]
    first_BxSxF, *gate = checkpoint_name(inside, "mlp_in")
    a_BxSxF = gelu(first_BxSxF)
    for gate_BxSxF in gate:
      a_BxSxF *= gate_BxSxF
    kernel_FxD = self.param(
        "out_kernel", kernel_init(c.mlp), (c.mlp, c.width))
    out_BxSxD = products.matmul(a_BxSxF, kernel_FxD.astype(c.dtype))
    if c.architecture.bias:
      out_BxSxD += _row(self.param("out_bias", _ZEROS, (c.width,)), c.dtype)
    return out_BxSxD


class Layer(nn.Module):
  """Self-attention, cross-attention where there is a memory, MLP."""

  config: LayerConfig
  cross: bool

  @nn.compact
  def __call__(self, query_BxQxD, query_place, key_BxSxD=None, key_place=None,
               memory_BxKxD=None, memory_place=None, is_first=False,
               train=False):
    """Applies the layer.

    Args:
      query_BxQxD: the tokens whose states are wanted.
      key_BxSxD: the tokens that they see, where those are more; None for the
        queries themselves.
      memory_BxKxD: what cross-attention reads; used as it is given.
      is_first: bool or bool array; the first layer of the whole stack.

    Returns:
      [B, Q, D]
    """
    c = self.config
    pre = c.architecture.pre_norm
    dropout = Dropout(c.dropout)

    def drop(x):
      return dropout(x, train)

    attention_norm = norm(c, "attention_norm")

    def before_attention(x):
      if not pre:
        return x
      if c.architecture.first_norm:
        return attention_norm(x)
      return jnp.where(is_first, x, attention_norm(x))

    keys = None if key_BxSxD is None else before_attention(key_BxSxD)
    x = query_BxQxD + drop(Attention(c, name="attention")(
        before_attention(query_BxQxD), query_place, keys, key_place, train))
    x = checkpoint_name(x, "attended")
    x = x if pre else attention_norm(x)
    if self.cross:
      cross_norm = norm(c, "cross_norm")
      x = x + drop(Attention(c, name="cross_attention")(
          cross_norm(x) if pre else x, query_place, memory_BxKxD,
          memory_place, train))
      x = checkpoint_name(x, "attended")
      x = x if pre else cross_norm(x)
    mlp_norm = norm(c, "mlp_norm")
    x = x + drop(Mlp(c, name="mlp")(mlp_norm(x) if pre else x))
    return x if pre else mlp_norm(x)
