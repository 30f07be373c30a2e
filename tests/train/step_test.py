"""The train step: sums over micro-batches and devices, sharding, one golden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.masking import selection
from latemask.model import partition
from latemask.runtime import mesh as mesh_lib
from latemask.train import optimizer as optimizer_lib
from latemask.train import step as step_lib
from tests import conftest

VOCAB = 320


def _mesh(*sizes):
  return jax.make_mesh(
      sizes, mesh_lib.AXES, devices=jax.devices()[:int(np.prod(sizes))],
      axis_types=(jax.sharding.AxisType.Auto,) * 3)


def _run(config, mesh, num_steps=2):
  program = step_lib.build(config, specials.trained(VOCAB), mesh=mesh)
  state = program.init_state()
  before = jax.device_get(state.params)
  metrics = []
  for seed in range(num_steps):
    ids_BxL = conftest.random_rows(16, config.data.length, seed=seed)
    state, step_metrics = program.train_step(
        state, jax.device_put(ids_BxL, program.batch_sharding))
    metrics.append(jax.device_get(step_metrics))
  return before, jax.device_get(state), metrics


def _assert_same_update(one, two, tolerance):
  """Compares updates, not parameters: the bound is far below an update."""
  before_one, state_one, metrics_one = one
  before_two, state_two, metrics_two = two
  jax.tree.map(np.testing.assert_array_equal, before_one, before_two)
  for a, b in zip(metrics_one, metrics_two):
    np.testing.assert_allclose(a.sums.loss, b.sums.loss, rtol=1e-5)
    np.testing.assert_allclose(a.grad_norm, b.grad_norm, rtol=1e-4)
    assert a.sums.weight == b.sums.weight
  # Second moments are quadratic in the gradient: they show what an update of
  # Adam, nearly its sign, would hide.
  scale = max(np.max(np.abs(x)) for x in jax.tree.leaves(
      state_one.opt_state[1].mu))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance * scale),
      state_one.opt_state[1].mu, state_two.opt_state[1].mu)


@pytest.mark.slow
def test_devices_change_nothing(tiny):
  tiny.optimizer.learning_rate = 1e-3
  tiny.optimizer.clip_norm = 0.1
  alone = _run(tiny, _mesh(1, 1, 1))
  together = _run(tiny, _mesh(2, 2, 2))
  _assert_same_update(alone, together, 1e-4)


@pytest.mark.slow
def test_accumulation_changes_nothing(tiny):
  # Rows differ in length: a mean of means would be another gradient.
  tiny.masking.same_rate = 0.2
  whole = _run(tiny, _mesh(2, 1, 1))
  tiny.train.accumulation = 4
  _assert_same_update(whole, _run(tiny, _mesh(2, 1, 1)), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sizes, tied", [
    ((1, 1, 1), True), ((2, 2, 2), True), ((2, 2, 2), False)])
def test_gradient_is_that_of_autodiff(tiny, sizes, tied):
  """The embedding's is put together by hand; see `Program.gradient`."""
  tiny.masking.same_rate = 0.2
  tiny.model.tied_output = tied
  tiny.model.unroll = 2
  program = step_lib.build(tiny, specials.trained(VOCAB), mesh=_mesh(*sizes))
  params = program.init_state().params

  def both(params, ids_BxL):
    masked = selection.mask_batch(
        program.plan, jax.random.key(0), np.arange(16), ids_BxL)
    return (program.gradient(params, masked, None)[0],
            jax.grad(lambda p: program.loss_sums(p, masked).loss)(params))

  with jax.set_mesh(program.mesh):
    ours, autodiff = jax.jit(both)(params, jax.device_put(
        conftest.random_rows(16, tiny.data.length), program.batch_sharding))
  assert ("output_embedding" in ours) == (not tied)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, atol=1e-5 * np.max(np.abs(b))), ours, autodiff)


@pytest.mark.slow
def test_what_is_computed_again_drops_the_same(tiny):
  tiny.model.dropout = tiny.model.attention_dropout = 0.1
  again = _run(tiny, _mesh(1, 1, 1))
  tiny.model.remat = None
  _assert_same_update(_run(tiny, _mesh(1, 1, 1)), again, 1e-4)


@pytest.mark.long
def test_hashed_dropout_is_the_same_on_every_mesh(tiny):
  tiny.model.dropout = tiny.model.attention_dropout = 0.1
  assert tiny.train.dropout_rng == "hash"
  _assert_same_update(_run(tiny, _mesh(1, 1, 1)), _run(tiny, _mesh(2, 2, 2)),
                      1e-4)


def test_parameters_are_born_split(tiny):
  program = step_lib.build(tiny, specials.trained(VOCAB), mesh=_mesh(2, 2, 2))
  state = program.init_state()
  flat = {partition.path_name(path): x for path, x in
          jax.tree_util.tree_leaves_with_path(state)}
  kernel = flat["params/early/layers/attention/qkv_kernel"]
  assert kernel.shape == (3, 16, 3, 2, 8)
  assert kernel.addressable_shards[0].data.shape == (3, 8, 3, 1, 8)
  embedding = flat["params/embedding"]
  assert embedding.addressable_shards[0].data.shape == (192, 8)
  moment = next(x for name, x in flat.items() if name.endswith(
      "mu/early/layers/mlp/in_kernel"))
  assert moment.addressable_shards[0].data.shape == (3, 1, 8, 16)


@pytest.mark.slow
def test_seed_decides(tiny):
  tiny.model.dropout = tiny.model.attention_dropout = 0.1
  first, again = (_run(tiny, _mesh(1, 1, 1), 1)[1:] for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  tiny.seed = 1
  other = _run(tiny, _mesh(1, 1, 1), 1)[2]
  assert other[0].sums.loss != first[1][0].sums.loss


@pytest.mark.slow
def test_bfloat16_computes_what_float32_does(tiny):
  _, _, exact = _run(tiny, _mesh(1, 1, 1), 1)
  tiny.model.dtype = "bfloat16"
  _, state, rough = _run(tiny, _mesh(1, 1, 1), 1)
  assert all(p.dtype == np.float32 for p in jax.tree.leaves(state.params))
  # bfloat16 has 8 bits: near, and not the same.
  np.testing.assert_allclose(rough[0].sums.loss, exact[0].sums.loss, rtol=3e-3)
  np.testing.assert_allclose(rough[0].grad_norm, exact[0].grad_norm, rtol=0.03)
  assert rough[0].sums.loss != exact[0].sums.loss


def test_golden_step(tiny):
  """One step, measured once; a change of its numbers must be meant."""
  _, state, metrics = _run(tiny, _mesh(1, 1, 1), num_steps=3)
  losses = [float(m.sums.means["loss"]) for m in metrics]
  # An update changes the loss by more than 100 times the tolerance.
  np.testing.assert_allclose(losses, [5.770756, 5.76928, 5.765589], atol=2e-5)
  assert int(state.step) == 3


@pytest.mark.slow
def test_only_matrices_decay(tiny):
  tiny.optimizer.weight_decay = 0.5
  tiny.optimizer.learning_rate = 0.1
  tiny.optimizer.warmup_fraction = 0.0
  program = step_lib.build(tiny, specials.trained(VOCAB), mesh=_mesh(1, 1, 1))
  params = jax.tree.map(np.ones_like, jax.device_get(
      program.init_state().params))
  zeros = jax.tree.map(np.zeros_like, params)
  updates, _ = program.optimizer.update(
      zeros, program.optimizer.init(params), params)
  for path, update in jax.tree_util.tree_leaves_with_path(updates):
    name = partition.path_name(path)
    decays = name.endswith(("kernel", "embedding", "positions"))
    np.testing.assert_allclose(update, -0.05 if decays else 0, atol=1e-7,
                               err_msg=name)


@pytest.mark.parametrize("schedule, middle, end, last", [
    ("linear", 0.5, 1 / 90, 0.5 + 1.5 / 100),
    ("cosine", 0.5, 0.5 - 0.5 * np.cos(np.pi / 90),
     0.5 + 0.75 * (1 - np.cos(np.pi / 100))),
    ("inverse_sqrt", (10 / 56) ** 0.5, 0.1 ** 0.5, 0.5),
    ("constant", 1, 1, 2), ("wsd", 1, 1 / 20, 0.5 + 1.5 / 20)])
def test_schedules(tiny, schedule, middle, end, last):
  tiny.train.num_steps = 100
  tiny.optimizer.warmup_fraction = 0.1
  tiny.optimizer.learning_rate = 2.0
  tiny.optimizer.schedule = schedule
  tiny.optimizer.decay_fraction = 0.2
  rate = step_lib.schedule_lib.schedule_of(tiny)
  np.testing.assert_allclose(
      [float(rate(s)) for s in (0, 4, 9, 55, 99)],
      [0.2, 1.0, 2.0, 2 * middle, 2 * end], atol=1e-6)
  tiny.optimizer.warmup_fraction = 0.0
  assert float(step_lib.schedule_lib.schedule_of(tiny)(0)) == 2.0
  tiny.optimizer.final_learning_rate = 0.5
  np.testing.assert_allclose(
      step_lib.schedule_lib.schedule_of(tiny)(99), last, rtol=1e-5)


def test_gradients_are_clipped_together(tiny):
  """To a norm of all of them, before the moments are taken."""
  tiny.optimizer.clip_norm, tiny.optimizer.b1 = 0.5, 0.75
  optimizer = optimizer_lib.make_optimizer(
      "adamw", tiny.optimizer, lambda step: 1e-3)
  params = {"mask_vector": jnp.ones(3), "head": {"kernel": jnp.ones((2, 2))}}
  for size, kept in ((1.0, 0.5 / 7 ** 0.5), (0.1, 0.1)):
    _, state = optimizer.update(
        jax.tree.map(lambda x: size * x, params), optimizer.init(params),
        params)
    moments, = (leaf.mu for leaf in jax.tree.leaves(
        state, is_leaf=lambda leaf: hasattr(leaf, "mu"))
                if hasattr(leaf, "mu"))
    jax.tree.map(lambda x: np.testing.assert_allclose(
        x, 0.25 * kept, rtol=1e-5), moments)


def test_wsd_falls_from_its_peak(tiny):
  """Behind a warm-up that takes more than the decay leaves."""
  tiny.train.num_steps, tiny.optimizer.learning_rate = 100, 1.0
  tiny.optimizer.schedule = "wsd"
  tiny.optimizer.warmup_fraction, tiny.optimizer.decay_fraction = 0.4, 0.8
  rate = step_lib.schedule_lib.schedule_of(tiny)
  np.testing.assert_allclose(
      [float(rate(s)) for s in (39, 40, 70, 99)], [1, 1, 0.5, 1 / 60],
      rtol=1e-5)


@pytest.mark.parametrize("changes, message", [
    ({"train.batch_size": 12}, "not divisible by the 8 shards"),
    ({"train.accumulation": 3}, "train.accumulation 3"),
    ({"mesh.tensor": 3}, "does not fit 8 devices"),
    ({"mesh.data": 2}, "does not fit 8 devices"),
    ({"mesh.tensor": 8}, "does not divide 2"),
    ({"optimizer.final_learning_rate": 1.0}, "not be more than optimizer.lea"),
    ({"train.total_flops": 1e30}, "1 to 2..31 - 1 of them"),
])
def test_bad_steps(tiny, changes, message):
  tiny.update_from_flattened_dict(changes)
  with pytest.raises(errors.InputError, match=message):
    step_lib.build(tiny, specials.trained(VOCAB))
