"""Matrix products in the dtype of what is multiplied, on every platform.

The model multiplies here and nowhere else. By default TPUs round float32 to
bfloat16 before they multiply, and GPUs to TF32: here float32 stays float32.
For bfloat16 the default is kept.
"""

import jax
import jax.numpy as jnp


def einsum(spec, x, y, **options):
  """Calls `jnp.einsum`."""
  return jnp.einsum(spec, x, y, precision=_precision(x, y), **options)


def matmul(x, y):
  """Calls `jnp.matmul`."""
  return jnp.matmul(x, y, precision=_precision(x, y))


def _precision(x, y):
  is_float32 = x.dtype == y.dtype == jnp.float32
  return jax.lax.Precision.HIGHEST if is_float32 else None
