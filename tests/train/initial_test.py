"""Initial values of kernels, and a mask vector that is a row of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask.masking import selection
from latemask.model import matrices
from latemask.model import partition
from latemask.train import mask_vector
from latemask.train import step as step_lib
from tests import conftest
from tests.train import step_test

# Inputs of each kernel of configs/base.py:tiny, whose width is 64 and MLP 128.
_INPUTS = {"attention/qkv_kernel": 64, "attention/out_kernel": 64,
           "mlp/in_kernel": 64, "mlp/out_kernel": 128, "head/kernel": 64}


def _begin(config):
  program = step_lib.build(
      config, specials.trained(step_test.VOCAB),
      mesh=step_test._mesh(1, 1, 1))
  return program, jax.device_get(program.init_state().params)


@pytest.mark.parametrize("kernels, scale, std", [
    ("fan_in", 1.0, lambda inputs: 0.02 * (768 / inputs) ** 0.5),
    ("fan_in", 0.5, lambda inputs: 0.01 * (768 / inputs) ** 0.5),
    ("fixed", 1.0, lambda inputs: 0.02),
])
def test_kernels_begin_with_this_deviation(tiny, kernels, scale, std):
  tiny.model.width, tiny.model.heads, tiny.model.mlp = 64, 2, 128
  _, drawn = _begin(tiny)
  tiny.train.init_kernels, tiny.train.init_scale = kernels, scale
  _, params = _begin(tiny)
  found = set()
  for (path, leaf), like in zip(
      jax.tree_util.tree_flatten_with_path(params)[0], jax.tree.leaves(drawn)):
    name = "/".join(partition.path_name(path).split("/")[-2:])
    if matrices.axes(path):
      found.add(name)
      # 64 x 64 normal numbers or more: their deviation is known to 2 %.
      assert np.std(leaf) == pytest.approx(std(_INPUTS[name]), rel=0.05), name
    else:
      np.testing.assert_array_equal(leaf, like, name)
  assert found == set(_INPUTS)


@pytest.mark.parametrize("kind, is_learned", [
    ("own", True), ("own", False), ("embedding", True), ("embedding", False)])
def test_another_models_mask_vector(kind, is_learned):
  """What it has learned stays; without one the row's beginning is taken."""
  rows = np.arange(12.0).reshape(4, 3)
  found = mask_vector.begun(
      kind, {"embedding": jnp.asarray(rows), "mask_vector": -jnp.ones(3)}, 2,
      is_learned)
  vector = rows[2] if (kind, is_learned) == ("embedding", False) else [-1] * 3
  np.testing.assert_array_equal(found["mask_vector"], vector)
  rows[2] = rows[2] if kind == "own" else vector
  np.testing.assert_array_equal(found["embedding"], rows)


@pytest.mark.slow
def test_mask_vector_is_a_row_of_the_embedding(tiny):
  """Its gradient is that of autodiff, and it stays the row."""
  tiny.train.mask_vector = "embedding"
  tiny.optimizer.learning_rate = 1e-2
  tiny.optimizer.warmup_fraction = 0.0
  mask = specials.TRAINED.mask
  program, begun = _begin(tiny)
  np.testing.assert_array_equal(begun["mask_vector"], begun["embedding"][mask])

  def both(params, ids_BxL):
    masked = selection.mask_batch(
        program.plan, jax.random.key(0), np.arange(16), ids_BxL)
    def loss(free):
      return program.loss_sums(
          free | {"mask_vector": free["embedding"][mask]}, masked).loss
    return (mask_vector.gradient(
        "embedding", program.gradient(params, masked, None)[0], mask),
            jax.grad(loss)(params))

  ids_BxL = conftest.random_rows(16, tiny.data.length)
  with jax.set_mesh(program.mesh):
    ours, autodiff = jax.jit(both)(begun, ids_BxL)
  assert np.abs(autodiff["embedding"][mask]).max() > 0.1
  np.testing.assert_allclose(ours["embedding"], autodiff["embedding"],
                             atol=2e-4)
  np.testing.assert_array_equal(ours["mask_vector"], 0)
  _, state, _ = step_test._run(tiny, step_test._mesh(2, 1, 1))
  params = state.params
  np.testing.assert_array_equal(
      params["mask_vector"], params["embedding"][mask])
  assert not np.array_equal(params["mask_vector"], begun["mask_vector"])
