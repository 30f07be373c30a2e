"""Muon: matrices move by the orthogonal part of their momentum.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural
networks", 2024. An update has the root mean square of Adam's (Liu et al., "Muon
is Scalable for LLM Training", arXiv 2502.16982), so that AdamW's learning rate
and weight decay are as good here. What is no matrix between states (embeddings,
positions, norms, biases, the mask vector) is left to another optimizer.

Our parameters are stacked and merged: a leaf holds the matrices of all layers,
and q, k and v of all heads. model/matrices.py says which axes are those of a
matrix; each is made orthogonal for itself. Those of one shape, of all leaves,
are one stack. It is split over the devices, or each of these would do all of
the work again: at 64 rows a chip that is half as much as the step itself.
"""

import math

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from latemask.model import matrices as matrices_lib
from latemask.runtime import mesh as mesh_lib

# Of a polynomial that is steep at 0. Singular values end between 0.7 and 1.2,
# which does no harm.
_ITERATIONS = 5
# Optax's Muon without its momentum, which would be kept a stack.
_NEWTON_SCHULZ = contrib.scale_by_muon(
    ns_steps=_ITERATIONS, beta=0.0, nesterov=False,
    weight_dimension_numbers=contrib.MuonDimensionNumbers(1, 2))
# Root mean square of an update, about that of Adam's.
_RMS = 0.2


def with_rest(momentum, rest):
  """Returns the optax transformation: Muon, and `rest` for what is not its.

  Args:
    momentum: share of the momentum that stays, in [0, 1). It is Nesterov's.
    rest: an optax transformation.
  """
  def labels(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "muon" if matrices_lib.axes(path) else "rest", params)

  return optax.partition(
      {"muon": optax.chain(
          optax.trace(momentum, nesterov=True), orthogonal_updates()),
       "rest": rest}, labels)


def orthogonal_updates():
  """Returns the optax transformation that makes each matrix orthogonal."""
  return optax.stateless(lambda updates, _: _orthogonal(updates))


def update_flops(params):
  """Returns FLOPs of an update in matrix products, all devices together."""
  flops = 0
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    axes = matrices_lib.axes(path)
    if axes is not None:
      count, short, long = _stack_shape(leaf.shape, axes)
      # A = X X', A A, and (b A + c A A) X.
      flops += 2 * count * _ITERATIONS * (
          2 * short * short * long + short ** 3)
  return flops


def _orthogonal(updates):
  leaves, tree = jax.tree_util.tree_flatten_with_path(updates)
  stacks = {}  # (short, long) -> [(index of the leaf, its matrices)].
  for index, (path, leaf) in enumerate(leaves):
    matrices_SxRxC = _to_stack(leaf, matrices_lib.axes(path))
    stacks.setdefault(matrices_SxRxC.shape[1:], []).append(
        (index, matrices_SxRxC))
  found = [None] * len(leaves)
  for parts in stacks.values():
    done_SxRxC = _orthogonal_stack(jnp.concatenate([m for _, m in parts]))
    start = 0
    for index, matrices in parts:
      path, leaf = leaves[index]
      found[index] = _from_stack(done_SxRxC[start:start + len(matrices)],
                                 leaf.shape, matrices_lib.axes(path))
      start += len(matrices)
  return jax.tree_util.tree_unflatten(tree, found)


def _orthogonal_stack(matrices_SxRxC):
  """Returns the matrices' orthogonal parts, of root mean square `_RMS`."""
  count, _, long = matrices_SxRxC.shape
  # Whole on every device, and then each takes its own: else the compiler splits
  # the gradients by layers, from which the stack is put together.
  matrices_SxRxC = mesh_lib.constrain(matrices_SxRxC, None)
  # What is added to give every device as many stays zero.
  padding = -count % mesh_lib.num_batch_shards()
  stack_SxRxC = mesh_lib.constrain(
      jnp.pad(matrices_SxRxC, ((0, padding), (0, 0), (0, 0))),
      mesh_lib.BATCH_AXES)
  done_SxRxC, _ = _NEWTON_SCHULZ.update(
      stack_SxRxC, _NEWTON_SCHULZ.init(stack_SxRxC))
  done_SxRxC = mesh_lib.constrain(done_SxRxC, mesh_lib.BATCH_AXES)
  # Gathered in one piece: leaves are cut out of it where they are needed.
  done_SxRxC = mesh_lib.constrain(done_SxRxC, None)
  return done_SxRxC[:count] * (_RMS * math.sqrt(long))


def _order(shape, axes):
  """Returns (the leaf's axes as they lie in a stack, rows, columns)."""
  rows, columns = sorted(
      axes, key=lambda some: math.prod(shape[axis] for axis in some))
  rest = [axis for axis in range(len(shape)) if axis not in rows + columns]
  return (*rest, *rows, *columns), rows, columns


def _stack_shape(shape, axes):
  _, rows, columns = _order(shape, axes)
  short, long = (math.prod(shape[axis] for axis in some)
                 for some in (rows, columns))
  return math.prod(shape) // (short * long), short, long


def _to_stack(leaf, axes):
  order, _, _ = _order(leaf.shape, axes)
  return leaf.transpose(order).reshape(_stack_shape(leaf.shape, axes))


def _from_stack(matrices_SxRxC, shape, axes):
  order, _, _ = _order(shape, axes)
  back = sorted(range(len(shape)), key=order.__getitem__)
  return matrices_SxRxC.reshape([shape[axis] for axis in order]).transpose(back)
