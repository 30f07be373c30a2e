"""Matrix products in the dtype of what is multiplied, on every platform.

Beside the model, which multiplies nowhere else. Left to the default, TPUs
round float32 to bfloat16 first, and GPUs to TF32. bfloat16 is left to it.
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
