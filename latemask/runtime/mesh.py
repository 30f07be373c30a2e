"""The device mesh and the one table that says how parameters lie on it.

Mesh axes: `data` replicates the parameters and splits the batch; `fsdp`
splits both; `tensor` splits heads, MLP and vocabulary. Specs are ordered
(regex, axes) rules over parameter paths, first match wins, and a parameter
that no rule covers or no axis divides raises.
"""

import re

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np

from latemask import errors

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

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
    (r"(out_bias|head/bias|mask_vector|norm/(scale|bias))$", P()),
)


def make_mesh(config, devices=None):
  """Returns the mesh of `config.mesh`; an axis of None takes what is left.

  Args:
    devices: those to use; None takes all there are.

  Raises:
    InputError: the axes do not multiply to the number of devices.
  """
  num_devices = jax.device_count() if devices is None else len(devices)
  sizes = {axis: config.mesh[axis] for axis in AXES}
  text = " x ".join(f"mesh.{axis} {size}" for axis, size in sizes.items())
  free = [axis for axis, size in sizes.items() if size is None]
  taken = int(np.prod([size for size in sizes.values() if size]))
  if len(free) > 1 or min(taken, num_devices) < 1 or num_devices % taken or (
      not free and taken != num_devices):
    raise errors.InputError(
        f"{text} does not fit {num_devices} devices; the sizes must multiply "
        "to it, and at most one may be None (what is left)")
  for axis in free:
    sizes[axis] = num_devices // taken
  return jax.make_mesh(
      tuple(sizes.values()), AXES, devices=devices, axis_types=(
          jax.sharding.AxisType.Auto,) * len(AXES))


def batch_sharding(mesh):
  """Returns the sharding of arrays whose first axis is the batch."""
  return NamedSharding(mesh, P(BATCH_AXES))


def num_batch_shards(mesh=None):
  """Returns into how many parts the batch is split.

  Args:
    mesh: a mesh; None takes the one set by `jax.set_mesh`, if any.
  """
  shape = (mesh or jax.sharding.get_abstract_mesh()).shape
  return int(np.prod([shape.get(axis, 1) for axis in BATCH_AXES]))


def constrain(x, *axes):
  """Pins the layout of `x` inside jit; without a mesh, does nothing.

  Args:
    axes: a mesh axis, a tuple of them, or None, per axis of `x`.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, P(*axes))


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
      raise ValueError(f"no rule in sharding.RULES covers {name}")
    for size, axis in zip(leaf.shape, spec):
      if axis and size % mesh.shape[axis]:
        raise errors.InputError(
            f"mesh.{axis} {mesh.shape[axis]} does not divide {size}, an axis "
            f"of the parameter {name}; choose a divisor")
    return NamedSharding(mesh, spec)
  return jax.tree_util.tree_map_with_path(one, tree)
