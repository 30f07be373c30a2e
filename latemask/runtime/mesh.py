"""The device mesh, and how the batch lies on it.

Mesh axes: `data` replicates the parameters and splits the batch; `fsdp`
splits both; `tensor` splits heads, MLP and vocabulary. How each parameter lies
on it is a table in model/partition.py.
"""

import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from latemask import errors


def split_batch(hidden_BxSxD):
  """Keeps the batch split over the mesh."""
  return constrain(hidden_BxSxD, BATCH_AXES)

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(config, devices=None):
  """Returns the mesh of `config.mesh`; an axis of None takes what is left.

  Args:
    devices: those to use; None takes all there are.

  Raises:
    InputError: the axes do not multiply to the number of devices, or do not go
      with their slices.
  """
  devices = list(jax.devices() if devices is None else devices)
  num_devices = len(devices)
  sizes = {axis: config.mesh[axis] for axis in AXES}
  text = " x ".join(f"mesh.{axis} {size}" for axis, size in sizes.items())
  free = [axis for axis, size in sizes.items() if size is None]
  taken = math.prod(size for size in sizes.values() if size)
  if len(free) > 1 or not num_devices or num_devices % taken or (
      not free and taken != num_devices):
    raise errors.InputError(
        f"{text} does not fit {num_devices} devices; the sizes must multiply "
        "to it, and at most one may be None (what is left)")
  for axis in free:
    sizes[axis] = num_devices // taken
  try:
    laid_out = lay_out(tuple(sizes.values()), devices)
  except NotImplementedError as error:
    raise errors.InputError(f"{text} does not fit these devices: "
                            f"{' '.join(str(error).split())}") from error
  return jax.sharding.Mesh(laid_out, AXES, axis_types=(
      jax.sharding.AxisType.Auto,) * len(AXES))


def lay_out(sizes, devices):
  """Returns devices as an array of some sizes, one an axis.

  Neighbours in it are near each other. Slices (of GPUs these are hosts), whose
  connections are slow, are told apart by `data`, and then by `fsdp`: never by
  `tensor`.

  Raises:
    InputError: they cannot be.
    NotImplementedError: no such array of one slice is known.
  """
  num_slices = len({getattr(device, "slice_index", 0) for device in devices})
  if num_slices == 1:
    return mesh_utils.create_device_mesh(
        sizes, devices, allow_split_physical_axes=True)
  data = math.gcd(num_slices, sizes[0])
  across = data, num_slices // data, 1
  if sizes[1] % across[1]:
    raise errors.InputError(
        f"mesh.data {sizes[0]} x mesh.fsdp {sizes[1]} does not fit "
        f"{num_slices} slices: their number must divide the two")
  return mesh_utils.create_hybrid_device_mesh(
      tuple(np.array(sizes) // across), across, devices,
      allow_split_physical_axes=True)


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


def platform():
  """Returns cpu, gpu or tpu: that of the mesh, or else JAX's default.

  The mesh's may be one that is not there: programs are compiled ahead.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else jax.default_backend()


def per_device(function, in_specs, out_specs):
  """Returns a function that each device runs on its part of the arrays.

  Without a mesh, the function itself.

  Args:
    in_specs, out_specs: PartitionSpecs of its arguments and result.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return function
  return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs,
                       check_vma=False)


def constrain(x, *axes):
  """Pins the layout of `x` inside jit; without a mesh, does nothing.

  Args:
    axes: a mesh axis, a tuple of them, or None, per axis of `x`.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, P(*axes))
