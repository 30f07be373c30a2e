"""Small parts of layers: dropout, norm, GELU, initial values, padding."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from latemask.model import products
from latemask.runtime import rng

# Standard deviation of what is added to states (embeddings, positions, the mask
# vector), and of BERT's kernels.
FIXED_STD = 0.02
VECTOR_INIT = nn.initializers.normal(FIXED_STD)
ZEROS = nn.initializers.zeros_init()
# The segment of what lengths are filled up with: no token is of it.
NOWHERE = -1


def kernel_std(fan_in):
  """Returns the standard deviation of a kernel that sums over `fan_in` inputs.

  0.554 / sqrt(fan_in). 0.554 is 0.02 x sqrt(768): BERT's 0.02 at the width that
  it was chosen for, so that each sum begins as large at any other width as it
  does there.
  """
  return FIXED_STD * (768 / fan_in) ** 0.5


def kernel_init(fan_in):
  """Returns the initialiser of a kernel that sums over `fan_in` inputs."""
  return nn.initializers.normal(kernel_std(fan_in))


def row(bias_D, dtype):
  """Returns a bias as [1, 1, D], to be added to states of that dtype."""
  return bias_D.astype(dtype)[None, None]


@dataclasses.dataclass(frozen=True)
class Drop:
  """What is dropped of one array.

  Fields:
    rate: the share of its elements.
    key: which ones; None: none at all.
  """

  rate: float
  key: jax.Array | None

  def __call__(self, x, part=None):
    """Returns x with elements zeroed and the others scaled up.

    Args:
      part: the `rng.Part` of the array that x is; None: the whole one.
    """
    if self.key is None:
      return x
    bits = rng.bits(self.key, x.shape, part)
    is_kept = bits >= np.uint32(round(self.rate * 2**32))
    return jnp.where(is_kept, x / (1 - self.rate), 0)


class Dropout(nn.Module):
  """Zeroes a share `rate` of the elements and scales up the others."""

  rate: float

  def __call__(self, x, train):
    """Returns x, dropped out while training."""
    return self.draw(train)(x)

  def draw(self, train):
    """Returns the `Drop` of an array that is yet to be computed."""
    is_on = train and self.rate
    return Drop(self.rate, self.make_rng("dropout") if is_on else None)


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


def padded(length, multiple):
  """Returns a length, rounded up to a multiple."""
  return -(-length // multiple) * multiple


def pad(x_BxSx, axis, multiple, value=0):
  """Returns x filled up, behind, to a multiple of a length along an axis."""
  fill = [(0, 0)] * x_BxSx.ndim
  length = x_BxSx.shape[axis]
  fill[axis] = (0, padded(length, multiple) - length)
  return jnp.pad(x_BxSx, fill, constant_values=value)


def sees(segment_BxQ, segment_BxS):
  """Returns who sees whom, [B, 1, Q, S]: tokens those of their segment."""
  return segment_BxQ[:, None, :, None] == segment_BxS[:, None, None, :]


def scores(q_BxQxHxh, k_BxSxHxh, segment_BxQ, segment_BxS):
  """Returns the scores of global attention, float32 [B, H, Q, S]."""
  scores_BxHxQxS = products.einsum(
      "bqhk,bshk->bhqs", q_BxQxHxh, k_BxSxHxh,
      preferred_element_type=jnp.float32)
  return hide(scores_BxHxQxS, sees(segment_BxQ, segment_BxS))


def hide(scores, sees):
  """Returns scores without those of keys that a query does not see."""
  # Finite, so that a row that sees nothing (a filler) stays finite too.
  return jnp.where(sees, scores, -1e30)


def take(hidden_BxSxD, index_BxT):
  """Returns the states of some of the tokens, [B, T, D]."""
  return jnp.take_along_axis(hidden_BxSxD, index_BxT[..., None], axis=1)
