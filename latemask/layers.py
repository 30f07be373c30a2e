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
import jax.numpy as jnp
import numpy as np


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


_INIT = nn.initializers.normal(0.02)
_ZEROS = nn.initializers.zeros_init()


def _row(bias_D, dtype):
  return bias_D.astype(dtype)[None, None]


def norm(config, name):
  """Returns a layer norm; statistics in float32."""
  return nn.LayerNorm(
      epsilon=config.norm_eps, use_bias=config.architecture.bias,
      dtype=config.dtype, use_fast_variance=False, name=name)


class Attention(nn.Module):
  """Multi-head attention of queries to keys within their segment."""

  config: LayerConfig

  @nn.compact
  def __call__(self, query_BxQxD, query_place, key_BxSxD, key_place, train):
    """Returns [B, Q, D]. Keys of None are the queries themselves."""
    c = self.config
    size = c.width // c.heads
    kernel_Dx3xHxh = self.param(
        "qkv_kernel", _INIT, (c.width, 3, c.heads, size)).astype(c.dtype)
    bias_3x1x1xHxh = jnp.zeros((3, 1, 1, 1, 1), c.dtype)
    if c.architecture.bias:
      bias_3x1x1xHxh = self.param("qkv_bias", _ZEROS, (
          3, c.heads, size)).astype(c.dtype)[:, None, None]
    if key_BxSxD is None:
      key_place = query_place
      qkv = jnp.einsum(
          "bsd,dnhk->nbshk", query_BxQxD, kernel_Dx3xHxh) + bias_3x1x1xHxh
      q_BxQxHxh, k_BxSxHxh, v_BxSxHxh = qkv
    else:
      q_BxQxHxh = jnp.einsum(
          "bqd,dhk->bqhk", query_BxQxD, kernel_Dx3xHxh[:, 0]
      ) + bias_3x1x1xHxh[0]
      k_BxSxHxh, v_BxSxHxh = jnp.einsum(
          "bsd,dnhk->nbshk", key_BxSxD, kernel_Dx3xHxh[:, 1:]
      ) + bias_3x1x1xHxh[1:]
    q_BxQxHxh = _rotate(q_BxQxHxh, query_place.rotary_2xBxSxh)
    k_BxSxHxh = _rotate(k_BxSxHxh, key_place.rotary_2xBxSxh)
    scores_BxHxQxS = jnp.einsum(
        "bqhk,bshk->bhqs", q_BxQxHxh * size ** -0.5, k_BxSxHxh,
        preferred_element_type=jnp.float32)
    sees_Bx1xQxS = (query_place.segment_BxS[:, None, :, None]
                    == key_place.segment_BxS[:, None, None, :])
    # Finite, so that a row that sees nothing (a filler) stays finite too.
    scores_BxHxQxS = jnp.where(sees_Bx1xQxS, scores_BxHxQxS, -1e30)
    weights_BxHxQxS = jax.nn.softmax(scores_BxHxQxS).astype(c.dtype)
    weights_BxHxQxS = nn.Dropout(c.attention_dropout)(
        weights_BxHxQxS, deterministic=not train)
    mixed_BxQxHxh = jnp.einsum(
        "bhqs,bshk->bqhk", weights_BxHxQxS, v_BxSxHxh)
    out_kernel = self.param("out_kernel", _INIT, (c.heads, size, c.width))
    out_BxQxD = jnp.einsum(
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
    kernel_DxGxF = self.param("in_kernel", _INIT, (c.width, num, c.mlp))
    a_GxBxSxF = jnp.einsum("bsd,dgf->gbsf", x_BxSxD,
                           kernel_DxGxF.astype(c.dtype))
    if c.architecture.bias:
      bias_GxF = self.param("in_bias", _ZEROS, (num, c.mlp))
      a_GxBxSxF += bias_GxF.astype(c.dtype)[:, None, None]
    a_BxSxF = jax.nn.gelu(a_GxBxSxF[0], approximate=False)
    if c.architecture.gated:
      a_BxSxF *= a_GxBxSxF[1]
    kernel_FxD = self.param("out_kernel", _INIT, (c.mlp, c.width))
    out_BxSxD = a_BxSxF @ kernel_FxD.astype(c.dtype)
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
    drop = nn.Dropout(c.dropout, deterministic=not train)
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
    x = x if pre else attention_norm(x)
    if self.cross:
      cross_norm = norm(c, "cross_norm")
      x = x + drop(Attention(c, name="cross_attention")(
          cross_norm(x) if pre else x, query_place, memory_BxKxD,
          memory_place, train))
      x = x if pre else cross_norm(x)
    mlp_norm = norm(c, "mlp_norm")
    x = x + drop(Mlp(c, name="mlp")(mlp_norm(x) if pre else x))
    return x if pre else mlp_norm(x)
