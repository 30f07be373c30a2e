"""Sharding rules: path of a parameter -> mesh axes.

Every parameter is covered by the first rule that matches its path; one that no
rule covers, or that an axis does not divide, is an error.
"""

import re

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from latemask import errors

# N: layers of the stack. qkv NxDx3xHxDh, out NxHxDhxD, mlp in NxGxDxF (G 2
# where gated), mlp out NxFxD.
RULES = (
    (r"attention/qkv_kernel$", P(None, "fsdp", None, "tensor", None)),
    (r"attention/qkv_bias$", P(None, None, "tensor", None)),
    (r"attention/out_kernel$", P(None, "tensor", None, "fsdp")),
    (r"mlp/in_kernel$", P(None, None, "fsdp", "tensor")),
    (r"mlp/in_bias$", P(None, None, "tensor")),
    (r"mlp/out_kernel$", P(None, "tensor", "fsdp")),
    (r"embedding$", P("tensor", "fsdp")),
    (r"positions$", P(None, "fsdp")),
    (r"head/kernel$", P("fsdp", "tensor")),
    (r"output_bias$", P("tensor")),
    (r"(out_bias|head/bias|mask_vector|second_text|norm/(scale|bias))$", P()),
)


def path_name(path):
  """Returns a pytree path as `early/layers/mlp/in_kernel`."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(
      k, "idx", k)))) for k in path)


def tree_shardings(tree, mesh):
  """Returns the NamedShardings of a tree of arrays or their shapes.

  Scalars are replicated. Optimizer moments end in the path of their
  parameter, so the same rules serve them.

  Raises:
    InputError: the axis of a parameter is not divisible by the mesh axis.
    ValueError: a parameter that no rule covers.
  """
  def one(path, leaf):
    name = path_name(path)
    if not leaf.ndim:
      return NamedSharding(mesh, P())
    spec = next((s for rule, s in RULES if re.search(rule, name)), None)
    if spec is None:
      raise ValueError(f"no rule in partition.RULES covers {name}")
    for size, axis in zip(leaf.shape, spec):
      if axis and size % mesh.shape[axis]:
        raise errors.InputError(
            f"mesh.{axis} {mesh.shape[axis]} does not divide {size}, an axis "
            f"of the parameter {name}; choose a divisor")
    return NamedSharding(mesh, spec)
  return jax.tree_util.tree_map_with_path(one, tree)
