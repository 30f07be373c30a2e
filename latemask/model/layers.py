"""One transformer layer: attention, cross-attention, MLP.

Knows nothing of masking; architecture.py says what differs between the three.
Letters: B batch, Q queries, S keys, D width, F mlp, G 2 where the MLP is
gated, else 1.
"""

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from latemask.model import architecture
from latemask.model import attention
from latemask.model import parts
from latemask.model import products

# What the backward pass of a layer needs, and could get again only by matrix
# products. All else follows from these, elementwise or by attention's two small
# products, unless these are run in blocks: then what they mix is kept, too.
# stack.py's `remat` may save just these.
SAVED = ("qkv", "mixed", "attended", "mlp_in")


class Mlp(nn.Module):
  """Dense, exact GELU (gated or not), dense."""

  config: architecture.LayerConfig

  @nn.compact
  def __call__(self, x_BxSxD):
    """Returns [B, S, D]."""
    c = self.config
    num = 2 if c.architecture.gated else 1
    kernel_GxDxF = self.param(
        "in_kernel", parts.kernel_init(c.width), (num, c.width, c.mlp))
    inside = [products.dense(x_BxSxD, kernel_GxDxF[g].astype(c.dtype))
              for g in range(num)]
    if c.architecture.bias:
      bias_GxF = self.param("in_bias", parts.ZEROS, (num, c.mlp))
      inside = [a_BxSxF + parts.row(bias_F, c.dtype)
                for a_BxSxF, bias_F in zip(inside, bias_GxF)]
    first_BxSxF, *gate = checkpoint_name(inside, "mlp_in")
    a_BxSxF = parts.gelu(first_BxSxF)
    for gate_BxSxF in gate:
      a_BxSxF *= gate_BxSxF
    kernel_FxD = self.param(
        "out_kernel", parts.kernel_init(c.mlp), (c.mlp, c.width))
    out_BxSxD = products.dense(a_BxSxF, kernel_FxD.astype(c.dtype))
    if c.architecture.bias:
      out_BxSxD += parts.row(
          self.param("out_bias", parts.ZEROS, (c.width,)), c.dtype)
    return out_BxSxD


class Layer(nn.Module):
  """Self-attention, cross-attention where there is a memory, MLP.

  Fields:
    is_local: self-attention is local. Such a layer has no cross-attention:
      the tokens of a memory stand in no block beside the queries.
  """

  config: architecture.LayerConfig
  cross: bool
  is_local: bool = False

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
    dropout = parts.Dropout(c.dropout)

    def drop(x):
      return dropout(x, train)

    attention_norm = parts.norm(c, "attention_norm")

    def before_attention(x):
      if not pre:
        return x
      if c.architecture.first_norm:
        return attention_norm(x)
      return jnp.where(is_first, x, attention_norm(x))

    keys = None if key_BxSxD is None else before_attention(key_BxSxD)
    x = query_BxQxD + drop(attention.Attention(
        c, self.is_local, name="attention")(
        before_attention(query_BxQxD), query_place, keys, key_place, train))
    x = checkpoint_name(x, "attended")
    x = x if pre else attention_norm(x)
    if self.cross:
      cross_norm = parts.norm(c, "cross_norm")
      x = x + drop(attention.Attention(c, name="cross_attention")(
          cross_norm(x) if pre else x, query_place, memory_BxKxD,
          memory_place, train))
      x = checkpoint_name(x, "attended")
      x = x if pre else cross_norm(x)
    mlp_norm = parts.norm(c, "mlp_norm")
    x = x + drop(Mlp(c, name="mlp")(mlp_norm(x) if pre else x))
    return x if pre else mlp_norm(x)
