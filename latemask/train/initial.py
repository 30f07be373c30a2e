"""Initial values of kernels (train.init_kernels, train.init_scale)."""

import math

import jax

from latemask.model import matrices
from latemask.model import parts

# How the standard deviation of a kernel depends on its inputs: a factor on
# that by fan-in, in which kernels are drawn (model/parts.py).
KERNELS = {
    "fan_in": lambda inputs: 1.0,
    "fixed": lambda inputs: parts.FIXED_STD / parts.kernel_std(inputs),
}


def rescale(params, kernels, scale):
  """Returns fresh parameters with their kernels as they shall begin.

  What is drawn normal, times a factor, is normal: so the model itself need not
  know.

  Args:
    kernels: a row of `KERNELS`.
    scale: one more factor on all kernels.

  Raises:
    InputError: no rule says which axes of a kernel are its inputs.
  """
  def one(path, leaf):
    axes = matrices.axes(path)
    if axes is None:
      return leaf
    inputs = math.prod(leaf.shape[axis] for axis in axes[0])
    return leaf * (KERNELS[kernels](inputs) * scale)

  return jax.tree_util.tree_map_with_path(one, params)
