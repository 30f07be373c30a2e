"""Products: float32 is multiplied in float32, forwards and backwards."""

import ast

import jax
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask.train import optimizer as optimizer_lib
from latemask.train import step as step_lib
from tests import conftest

ROOT = conftest.ROOT


@pytest.mark.parametrize("optimizer", optimizer_lib.OPTIMIZERS)
@pytest.mark.parametrize("dtype, is_highest", [
    ("float32", True), ("bfloat16", False)])
def test_every_product_of_a_step_says_how_it_is_multiplied(
    tiny, dtype, is_highest, optimizer):
  """CPUs do not read it; what TPUs and GPUs are given is the same text."""
  tiny.model.dtype = dtype
  tiny.optimizer.name = optimizer
  tiny.model.decoder = "cross"
  program = step_lib.build(tiny, specials.trained(320))
  ids = jax.ShapeDtypeStruct((16, 32), np.int32)
  text = program.train_step.lower(program.state_shapes, ids).as_text()
  products = [line for line in text.splitlines() if "dot_general" in line]
  assert len(products) > 40
  assert {"precision = [HIGHEST, HIGHEST]" in line
          for line in products} == {is_highest}
  # The gradient of a kernel sums over batch and tokens, as one axis.
  assert not [line for line in products
              if "contracting_dims = [0, 1]" in line]


def test_nothing_is_multiplied_elsewhere():
  """So that none is forgotten. NumPy, on the host, knows no less than 32."""
  for path in (ROOT / "latemask").rglob("*.py"):
    if path.name in ("products.py", "torch_peer.py"):
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      assert not (isinstance(node, ast.BinOp)
                  and isinstance(node.op, ast.MatMult)), path
      assert not (isinstance(node, ast.Attribute) and node.attr in (
          "einsum", "matmul", "dot", "tensordot", "vdot", "dot_general",
          "DenseGeneral", "Dense")
                  and ast.unparse(node.value) != "products"), (
          path, node.lineno)
