"""Who sees whom (`Place`), rotary positions, and attention itself.

How global attention is computed is a table, attention_kinds.py; local attention
is in local.py. Letters: B batch, Q queries, S keys, D width, H heads, h D/H.
"""

import flax.linen as nn
import flax.struct
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from latemask.model import architecture
from latemask.model import attention_kinds
from latemask.model import local
from latemask.model import parts
from latemask.model import products


@flax.struct.dataclass
class Place:
  """Where tokens stand, for attention.

  Fields:
    segment_BxS: tokens see each other where these are equal.
    rotary_2xBxSxh: float32 cosine and sine, or None without rotary positions.
    position_BxS, local_rotary_2xBxSxh: what local layers read besides, the
      angles by their own base; None where there are none.
  """

  segment_BxS: jax.Array
  rotary_2xBxSxh: jax.Array | None
  position_BxS: jax.Array | None = None
  local_rotary_2xBxSxh: jax.Array | None = None

  def take(self, index_BxT):
    """Returns the place of some of the tokens."""
    def of(x):
      if x.ndim == 2:
        return jnp.take_along_axis(x, index_BxT, axis=1)
      return jnp.take_along_axis(x, index_BxT[None, :, :, None], axis=2)
    return jax.tree.map(of, self)


def place(config, position_BxS, segment_BxS, theta, local_theta=None):
  """Returns the `Place` of tokens at these positions of these segments.

  Args:
    config: a `LayerConfig`.
    theta, local_theta: bases of the angles of global and of local layers; None
      where there are no local ones.
  """
  if not config.architecture.rotary:
    return Place(segment_BxS, None)
  size = config.width // config.heads
  found = Place(segment_BxS, rotary(position_BxS, size, theta))
  if local_theta is None:
    return found
  return found.replace(
      position_BxS=position_BxS,
      local_rotary_2xBxSxh=rotary(position_BxS, size, local_theta))


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


class Attention(nn.Module):
  """Multi-head attention of queries to keys within their segment.

  Fields:
    is_local: only to those near them (local.py); queries are the keys then.
  """

  config: architecture.LayerConfig
  is_local: bool = False

  @nn.compact
  def __call__(self, query_BxQxD, query_place, key_BxSxD, key_place, train):
    """Returns [B, Q, D]. Keys of None are the queries themselves."""
    c = self.config
    size = c.width // c.heads
    # Heads stay merged up to here: an axis of 64 at the end would be padded
    # to the 128 lanes of a TPU wherever it lies in memory.
    kernel_Dx3xD = self.param(
        "qkv_kernel", parts.kernel_init(c.width), (c.width, 3, c.heads, size)
    ).astype(c.dtype).reshape(c.width, 3, c.width)
    bias_3x1x1xD = jnp.zeros((3, 1, 1, 1), c.dtype)
    if c.architecture.bias:
      bias_3x1x1xD = self.param("qkv_bias", parts.ZEROS, (
          3, c.heads, size)).astype(c.dtype).reshape(3, 1, 1, c.width)

    def project(x_BxSxD, first, last):
      # Moved after the product: else what is multiplied would be moved.
      y_NxBxSxD = checkpoint_name(
          jnp.moveaxis(products.dense(
              x_BxSxD, kernel_Dx3xD[:, first:last]), 2, 0)
          + bias_3x1x1xD[first:last], "qkv")
      return y_NxBxSxD.reshape(*y_NxBxSxD.shape[:3], c.heads, size)

    if key_BxSxD is None:
      key_place = query_place
      q_BxQxHxh, k_BxSxHxh, v_BxSxHxh = project(query_BxQxD, 0, 3)
    else:
      q_BxQxHxh, = project(query_BxQxD, 0, 1)
      k_BxSxHxh, v_BxSxHxh = project(key_BxSxD, 1, 3)
    drop = parts.Dropout(c.attention_dropout).draw(train)

    def turn(x_BxSxHxh, place):
      return _rotate(x_BxSxHxh, place.local_rotary_2xBxSxh if self.is_local
                     else place.rotary_2xBxSxh)

    q_BxQxHxh = turn(q_BxQxHxh, query_place)
    k_BxSxHxh = turn(k_BxSxHxh, key_place)
    if self.is_local:
      mixed_BxQxHxh = local.mix(
          q_BxQxHxh, k_BxSxHxh, v_BxSxHxh, query_place, c.local_window, drop)
    else:
      # Initial values do not depend on it.
      kind = "xla" if self.is_initializing() else c.attention
      mixed_BxQxHxh = attention_kinds.KINDS[kind].attend(
          q_BxQxHxh * size ** -0.5, k_BxSxHxh, v_BxSxHxh,
          query_place.segment_BxS, key_place.segment_BxS, drop)
    out_kernel = self.param(
        "out_kernel", parts.kernel_init(c.width), (c.heads, size, c.width))
    out_BxQxD = products.dense(
        mixed_BxQxHxh.reshape(*mixed_BxQxHxh.shape[:2], c.width),
        out_kernel.astype(c.dtype).reshape(c.width, c.width))
    if c.architecture.bias:
      out_BxQxD += parts.row(
          self.param("out_bias", parts.ZEROS, (c.width,)), c.dtype)
    return out_BxQxD
