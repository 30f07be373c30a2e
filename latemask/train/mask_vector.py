"""What the mask vector is to the word embedding (train.mask_vector).

`own` leaves it to itself, as late masks have it. `embedding` makes it the
mask's row of the word embedding, as the input of ordinary masked language
modelling has it: then its gradient is the row's, and after each update it is
set to the row. So the model, evaluation and export need not know. What another
model has learned as its mask vector becomes the row.
"""

from typing import Callable, NamedTuple


class _MaskVector(NamedTuple):
  """A row of `MASK_VECTORS`.

  Fields, functions of (a tree laid out as the parameters, id of the mask):
    gradient: of the gradient, before an update.
    tied: of the parameters, after it.
    learned: of those of another model, which has a mask vector.
  """

  gradient: Callable
  tied: Callable
  learned: Callable


def _same(tree, mask):
  del mask
  return tree


MASK_VECTORS = {
    "own": _MaskVector(_same, _same, _same),
    "embedding": _MaskVector(
        lambda grads, mask: grads | {
            "embedding": grads["embedding"].at[mask].add(grads["mask_vector"]),
            "mask_vector": 0 * grads["mask_vector"]},
        lambda params, mask: params | {
            "mask_vector": params["embedding"][mask]},
        lambda params, mask: params | {
            "embedding": params["embedding"].at[mask].set(
                params["mask_vector"])}),
}


def gradient(kind, grads, mask):
  """Returns the gradient of the parameters that are free.

  Args:
    kind: a row of `MASK_VECTORS`.
    grads: with respect to each parameter for itself, laid out as these.
    mask: id of the mask.
  """
  return MASK_VECTORS[kind].gradient(grads, mask)


def begun(kind, params, mask, is_learned):
  """Returns the parameters with which a run goes on from another model.

  Args:
    is_learned: whether the mask vector in `params` is that model's.
  """
  if is_learned:
    params = MASK_VECTORS[kind].learned(params, mask)
  return tied(kind, params, mask)


def tied(kind, params, mask):
  """Returns the parameters with the mask vector that follows from them."""
  return MASK_VECTORS[kind].tied(params, mask)
