"""Effective ranks against numpy, and in a report."""

import json
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from latemask.checkpoint import checkpoints as checkpoints_lib
from latemask.data import loader as loader_lib
from latemask.data import packed_set
from latemask.data import prepare as prepare_lib
from latemask.data.tokenizers import specials
from latemask.hub import pretrained
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.model import attention
from latemask.model import encoder
from latemask.model import layers
from latemask.report import effective_rank
from latemask.runtime import mesh as mesh_lib
from latemask.train import step as step_lib
from tests import conftest
from tests.report import made


def test_effective_rank_of_known_matrices():
  rng = np.random.default_rng(0)
  orthogonal, _ = np.linalg.qr(rng.normal(size=(50, 7)))
  assert effective_rank.effective_rank(orthogonal) == pytest.approx(7)
  assert effective_rank.effective_rank(3 * orthogonal.T) == pytest.approx(7)
  assert effective_rank.effective_rank(np.outer(rng.normal(size=40), rng.normal(
      size=9))) == pytest.approx(1, abs=1e-6)
  assert effective_rank.effective_rank(np.zeros((4, 3))) == 0
  # Singular values 3 and 1: entropy of (3/4, 1/4).
  assert effective_rank.effective_rank(np.diag([3.0, 1.0])) == pytest.approx(
      math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def _by_hand(config, params, masked):
  """Returns [kept; slots] after each layer, by layers.py alone."""
  layer = layers.Layer(config.layer, False, parent=None)
  model = encoder.LateMaskModel(config)
  tables = params["early"]["layers"], params["late"]["layers"]

  def one(table, index):
    return {"params": jax.tree.map(lambda x: x[index], table)}

  def embed(bound, vector, position):
    return bound._embed(vector, position, False)

  kept = model.apply(
      {"params": params}, params["embedding"][masked.kept_ids_BxK],
      masked.kept_position_BxK, method=embed)
  slots = model.apply(
      {"params": params}, params["mask_vector"][None, None],
      masked.slot_position_BxQ, method=embed)
  states = [kept]
  place = attention.place(config.layer, masked.kept_position_BxK,
                          masked.kept_segment_BxK, config.rotary_theta)
  for index in range(config.insertion_layer):
    states.append(layer.apply(one(tables[0], index), states[-1], place,
                              is_first=index == 0))
  both = jnp.concatenate([states[-1], slots], axis=1)
  place = attention.place(
      config.layer, jnp.concatenate(
          [masked.kept_position_BxK, masked.slot_position_BxQ], 1),
      jnp.concatenate([masked.kept_segment_BxK, masked.slot_segment_BxQ], 1),
      config.rotary_theta)
  late = [both]
  for index in range(config.layers - config.insertion_layer):
    late.append(layer.apply(one(tables[1], index), late[-1], place,
                            is_first=False))
  return states, late


def _tiny(source="builtin"):
  config = conftest.tiny_config(source)
  config.model.layers, config.model.insertion_layer = 3, 1
  config.train.num_steps, config.optimizer.warmup_fraction = 2, 0.5
  return config


@pytest.fixture(scope="module")
def saved(tmp_path_factory, packed_dir, corpus):
  """The workdir of a run of one early and two late layers, saved."""
  config = _tiny(f"text:{corpus}/*.txt")
  config.data.dir = str(packed_dir)
  packed = prepare_lib.prepare(config, packed_dir)
  mesh = jax.make_mesh((1, 1, 1), mesh_lib.AXES, devices=jax.devices()[:1],
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)
  program = step_lib.build(
      config, packed.tokenizer.vocabulary("spaces"), mesh=mesh)
  # As if trained for long: weights that tell contexts apart.
  state = program.init_state()
  state = state.replace(params=jax.tree.map(lambda x: 8 * x, state.params))
  workdir = tmp_path_factory.mktemp("saved") / "run"
  made.run(workdir, num_lines=2)
  (workdir / "config.json").write_text(json.dumps(config.to_dict()))
  checkpoints = checkpoints_lib.Checkpoints(workdir, config, packed)
  checkpoints.save(2, checkpoints_lib.Progress(state))
  checkpoints.wait()
  checkpoints.close()
  return workdir


@pytest.fixture(scope="module")
def found(saved):
  """`Ranks` of 21 held-out rows of the saved run."""
  return effective_rank.measure(saved, 21)


@pytest.mark.slow
def test_rank_of_a_saved_model_equals_numpy(saved, found):
  loaded = pretrained.load(saved)
  config = json.loads((saved / "config.json").read_text())
  ids_NxL = effective_rank.held_out(
      saved, ml_collections.ConfigDict(config), 21)
  assert len(ids_NxL) == 21  # Two batches of the analysis.
  config = ml_collections.ConfigDict(config)
  loader = loader_lib.Loader(packed_set.load(
      config, packed_set.directory_of(config, saved)), config)
  _, eval_ids = next(loader.eval_batches(jax.sharding.SingleDeviceSharding(
      jax.devices()[0]), 21, 21))
  np.testing.assert_array_equal(ids_NxL, eval_ids)
  plan = plan_lib.make_plan(
      _tiny(), loaded.tokenizer.vocabulary("spaces"), rate=0.5)
  masked = jax.jit(lambda ids_NxL: selection.mask_batch(
      plan, jax.random.key(effective_rank._KEY), jnp.arange(21),
      ids_NxL))(ids_NxL)
  states, late = jax.jit(lambda params, masked: _by_hand(
      loaded.config, params, masked))(loaded.params, masked)
  num_kept = plan.num_kept
  is_real = np.asarray((masked.kept_ids_BxK >= len(specials.NAMES))
                       & (masked.kept_segment_BxK > 0))
  is_slot = np.asarray(masked.slot_segment_BxQ > 0)

  def by_numpy(matrix):
    values = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    share = values / values.sum()
    return np.exp(-(share * np.log(share)).sum())

  real = [np.asarray(x)[is_real] for x in states] + [
      np.asarray(x[:, :num_kept])[is_real] for x in late[1:]]
  slots = [np.asarray(x[:, num_kept:])[is_slot] for x in late]
  assert found.num_tokens == is_real.sum() > found.width
  np.testing.assert_allclose(
      found.masked, [by_numpy(x) for x in real], rtol=1e-4)
  np.testing.assert_allclose(
      found.slots[1:], [by_numpy(x) for x in slots], rtol=1e-4)
  np.testing.assert_allclose(found.both[1:], [
      by_numpy(np.concatenate(pair)) for pair in zip(real[1:], slots)],
                             rtol=1e-4)
  assert np.isnan(found.slots[:1]).all() and np.isnan(found.both[:1]).all()
  # The same tokens at the embeddings, other contexts after that.
  assert found.unmasked[0] == pytest.approx(found.masked[0], rel=1e-5)
  assert np.all(np.abs(found.unmasked[1:] / found.masked[1:] - 1) > 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("layer, decoder", [(0, "self"), (1, "cross")])
def test_rank_of_every_kind_of_model(layer, decoder):
  tiny = _tiny()
  tiny.model.layers = 2
  tiny.model.insertion_layer, tiny.model.decoder = layer, decoder
  model = encoder.make_model(tiny, 320)
  plan = plan_lib.make_plan(tiny, specials.trained(320))
  ids_BxL = conftest.random_rows(4, tiny.data.length)
  params = jax.jit(lambda: model.init(jax.random.key(1), selection.mask_batch(
      plan, jax.random.key(0), np.arange(4), jnp.asarray(ids_BxL))))()["params"]
  found = effective_rank.measure_rows(
      model.config, params, plan, np.asarray(ids_BxL))
  known = layer + 1 if decoder == "cross" else 3
  for name in ("unmasked", "masked"):
    values = getattr(found, name)
    assert np.isfinite(values[:known]).all() and np.isnan(values[known:]).all()
    assert np.all((values[:known] >= 1) & (values[:known] <= 16))
  assert np.isfinite(found.slots).sum() == (
      0 if decoder == "cross" else 3 - layer)


def test_report_with_rank(saved, found, tmp_path):
  bare = tmp_path / "bare"
  made.run(bare, rate=0.4)
  content, figures, text = made.drawn(saved, bare, rank_rows=21)
  problem, = content.problems
  assert f"no effective rank of {bare}" in problem
  assert "rank" in figures
  rows = made.table(text, "## Effective rank")
  assert [row["half masked"] for row in rows] == [
      f"{v:.1f}" for v in found.masked]
  assert rows[0]["slots"] == "–"
