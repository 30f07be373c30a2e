"""LoRA: to a matrix that stands still a product of two thin ones is added.

One pair a matrix of the stock class: q, k and v apart where stock has them
apart (BERT, RoBERTa), `Wqkv` whole in ModernBERT. Which they are, and how they
lie in our stacked arrays, say the tables of hub/weights.py. Source: arXiv
2106.09685.

The pairs are multiplied and added to the kernels before the forward pass, once
a step: merged and not merged are the same function, and the model knows
nothing of it. So gradients of whole kernels are computed, but no state of the
optimizer is kept for them.

Letters: N layers, M stock matrices in an array, I inputs, O outputs, R rank.
"""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from latemask import errors
from latemask.hub import layouts
from latemask.hub import weights as hf_weights
from latemask.model import products

# Name of a group -> how the path of its kernels ends.
MATRICES = {"qkv": "attention/qkv_kernel", "out": "attention/out_kernel",
            "mlp_in": "mlp/in_kernel", "mlp_out": "mlp/out_kernel"}
A, B = "a_kernel", "b_kernel"


def targets(config, matrices):
  """Returns {path of an array: its layout, a `layouts.Layers`}.

  Args:
    config: the `ModelConfig`.
    matrices: groups, keys of `MATRICES`.
  """
  rows = hf_weights.encoder(config.architecture, 0)
  return {path: rows[path] for group in MATRICES if group in matrices
          for path in rows if path.endswith(MATRICES[group])
          and isinstance(rows[path], layouts.Layers)}


def begin(settings, config, encoder, key):
  """Returns {path: {A: [N, M, I, R], B: [N, M, R, O]}} as a tree.

  B is 0, and A as in peft: uniform, up to 1 / sqrt(I).

  Raises:
    InputError: the rank is larger than the width.
  """
  rank, pairs = settings.rank, {}
  if rank > config.width:
    raise errors.InputError(
        f"adapter.rank is {rank}; the encoder has width {config.width}, and a "
        "product of larger matrices is no smaller than what it is added to")
  flat = flax.traverse_util.flatten_dict(encoder, sep="/")
  for number, (path, row) in enumerate(
      targets(config, settings.matrices).items()):
    outputs, inputs = row.one.stock_shape(flat[path].shape[1:])
    lead = (len(flat[path]), len(row.one.names))
    bound = inputs ** -0.5
    pairs[f"{path}/{A}"] = jax.random.uniform(
        jax.random.fold_in(key, number), (*lead, inputs, rank),
        minval=-bound, maxval=bound)
    pairs[f"{path}/{B}"] = jnp.zeros((*lead, rank, outputs))
  return flax.traverse_util.unflatten_dict(pairs, sep="/")


def whole(settings, config, encoder, params, key_drop=None):
  """Returns the encoder with the products added.

  Args:
    key_drop: for dropout of the inputs of the pairs, one draw a step for all
      tokens; None for none.
  """
  flat = flax.traverse_util.flatten_dict(encoder, sep="/")
  pairs = flax.traverse_util.flatten_dict(params, sep="/")
  scale = settings.alpha / settings.rank
  for number, (path, row) in enumerate(
      targets(config, settings.matrices).items()):
    a_NxMxIxR, b_NxMxRxO = (pairs[f"{path}/{name}"] for name in (A, B))
    if key_drop is not None and settings.dropout:
      keep = 1 - settings.dropout
      is_kept_NxMxIx1 = jax.random.bernoulli(
          jax.random.fold_in(key_drop, number), keep,
          (*a_NxMxIxR.shape[:3], 1))
      a_NxMxIxR = a_NxMxIxR * is_kept_NxMxIx1 / keep
    delta_NxMxOxI = scale * products.einsum(
        "nmir,nmro->nmoi", a_NxMxIxR, b_NxMxRxO)
    flat[path] = flat[path] + _as_ours(row.one, delta_NxMxOxI, flat[path].shape)
  return flax.traverse_util.unflatten_dict(flat, sep="/")


def _as_ours(row, delta_NxMxOxI, shape):
  """Returns stock matrices as they lie in an array of ours."""
  axes = row.order(len(shape) - 1)
  turned = delta_NxMxOxI.reshape(
      shape[0], *(shape[1:][axis] for axis in axes))
  return turned.transpose(0, *(1 + np.argsort(axes)))
