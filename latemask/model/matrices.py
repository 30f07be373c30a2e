"""Which axes of a parameter are those of its matrices.

Parameters are stacked and merged: a leaf holds the matrices of all layers, and
q, k and v of all heads. What treats a matrix as one asks here.
"""

import re

from latemask import errors
from latemask.model import partition

# First match wins. (Axes of what a matrix is multiplied with, axes of the
# product); all others count matrices. None: it holds none.
_RULES = (
    (r"attention/qkv_kernel$", ((1,), (3, 4))),
    (r"attention/out_kernel$", ((1, 2), (3,))),
    (r"mlp/in_kernel$", ((2,), (3,))),
    (r"mlp/out_kernel$", ((1,), (2,))),
    (r"head/kernel$", ((0,), (1,))),
    (r"(bias|scale|mask_vector|second_text|embedding|positions)$", None),
)


def axes(path):
  """Returns (axes summed over, axes of the product); None: no matrix.

  Args:
    path: that of the parameter, as in a pytree.

  Raises:
    InputError: no rule covers it.
  """
  name = partition.path_name(path)
  for rule, found in _RULES:
    if re.search(rule, name):
      return found
  raise errors.InputError(
      f"no rule says which axes of the parameter {name} are those of a matrix; "
      "optimizer.name muon and train.init_kernels need one")
