"""Muon: each matrix for itself, split over devices, covered by a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.train import muon
from latemask.train import step as step_lib
from tests.train import step_test


def _orthogonal(matrix):
  """Jordan's five iterations, in float64."""
  x = matrix.astype(np.float64)
  x /= np.linalg.norm(x)
  for _ in range(5):
    a = x @ x.T
    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
  return x * 0.2 * np.sqrt(max(x.shape))


def test_each_matrix_is_made_orthogonal_for_itself(tiny):
  rng = np.random.default_rng(0)
  updates = jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(np.float32),
      {"attention": {"qkv_kernel": np.zeros((2, 16, 3, 2, 8)),
                     "out_kernel": np.zeros((2, 2, 8, 16))},
       "mlp": {"in_kernel": np.zeros((2, 2, 16, 24)),
               "out_kernel": np.zeros((2, 24, 16))},
       "head": {"kernel": np.zeros((16, 16))}})
  optimizer = muon.orthogonal_updates()
  found, _ = jax.jit(optimizer.update)(updates, optimizer.init(updates))

  def check(names, matrix_of, *indices):
    given, made = updates, found
    for name in names:
      given, made = given[name], made[name]
    for index in np.ndindex(*indices):
      np.testing.assert_allclose(
          matrix_of(made[index]), _orthogonal(matrix_of(given[index])),
          atol=2e-4, err_msg=f"{names} {index}")

  rows = lambda x: np.reshape(x, (len(x), -1))
  columns = lambda x: np.reshape(x, (-1, x.shape[-1]))
  check(("attention", "out_kernel"), columns, 2)
  check(("mlp", "in_kernel"), rows, 2, 2)
  check(("mlp", "out_kernel"), columns, 2)
  check(("head", "kernel"), rows)
  # Of q, k and v, each: the axis stands behind that of the input.
  for tree in (updates, found):
    tree["attention"]["qkv_kernel"] = np.moveaxis(
        tree["attention"]["qkv_kernel"], 2, 1)
  check(("attention", "qkv_kernel"), rows, 2, 3)


def test_momentum_is_nesterovs():
  rng = np.random.default_rng(0)
  first, then = (rng.normal(size=(16, 16)).astype(np.float32) for _ in range(2))
  optimizer = muon.with_rest(0.9, optax.identity())
  state = optimizer.init({"head": {"kernel": first}})
  for grad, direction in (
      (first, first), (then, then + 0.9 * (then + 0.9 * first))):
    found, state = optimizer.update({"head": {"kernel": grad}}, state)
    np.testing.assert_allclose(
        found["head"]["kernel"], _orthogonal(direction), atol=2e-4)


@pytest.mark.slow
def test_devices_change_nothing(tiny):
  tiny.optimizer.name = "muon"
  # Updates of 0.1 to 1: far more than parameters are rounded to.
  tiny.optimizer.learning_rate = 1.0
  # Or Adam's first update is the sign of gradients, however small.
  tiny.optimizer.eps = 1e-3
  (before, one, _), (_, two, _) = (
      step_test._run(tiny, step_test._mesh(*sizes), num_steps=1)
      for sizes in ((1, 1, 1), (2, 2, 2)))
  jax.tree.map(
      lambda start, a, b: np.testing.assert_allclose(
          a - start, b - start, atol=1e-5),
      before, one.params, two.params)


def test_the_work_is_split():
  """As counted, and no device does that of another."""
  kernels = {"attention": {"qkv_kernel": jnp.zeros((4, 16, 3, 2, 8))}}
  optimizer = muon.orthogonal_updates()

  def flops(mesh):
    with jax.set_mesh(mesh):
      return jax.jit(lambda x: optimizer.update(x, None)[0]).lower(
          kernels).compile().cost_analysis()["flops"]

  # Twelve matrices: two for each of eight devices.
  counted = muon.update_flops(kernels)
  alone = flops(step_test._mesh(1, 1, 1))
  assert counted < alone < 1.3 * counted  # Sums and norms come on top.
  assert flops(step_test._mesh(4, 2, 1)) < 1.1 * alone * 2 / 12


def test_every_parameter_has_a_rule(tiny):
  for architecture in ("modern", "roberta", "bert"):
    tiny.model.architecture = architecture
    tiny.optimizer.name = "muon"
    step_lib.build(tiny, specials.trained(step_test.VOCAB))
  optimizer = muon.with_rest(0.95, muon.orthogonal_updates())
  with pytest.raises(errors.InputError, match="parameter early/gate"):
    optimizer.init({"early": {"gate": jnp.zeros((2, 2))}})
