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


def dense(x, kernel):
  """Returns x times a kernel: summed over the last axis of x and its first.

  All axes of x before the last become one, so that the gradient of the kernel
  sums over one axis. Over two, XLA moves states element by element on a CPU
  before it multiplies them: in all that takes four times as long.

  Args:
    x: [..., D]
    kernel: [D, ...], of any rank.
  """
  out = jnp.tensordot(x.reshape(-1, x.shape[-1]), kernel, 1,
                      precision=_precision(x, kernel))
  return out.reshape(*x.shape[:-1], *kernel.shape[1:])


def precision_of(dtype):
  """Returns a context in which others' products are as exact as those here.

  Args:
    dtype: `config.model.dtype`; with bfloat16 the platform's default is kept.
  """
  return jax.default_matmul_precision(
      "highest" if dtype == "float32" else None)


def _precision(x, y):
  is_float32 = x.dtype == y.dtype == jnp.float32
  return jax.lax.Precision.HIGHEST if is_float32 else None
