"""Evaluation: fixed masks, every held-out row once, entropies."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from latemask.data import loader as loader_lib
from latemask.data import prepare as prepare_lib
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.masking import plan as plan_lib
from latemask.runtime import mesh as mesh_lib
from latemask.train import evaluate
from latemask.train import loop
from latemask.train import step as step_lib


@pytest.fixture
def parts(tiny_run):
  packed = prepare_lib.prepare(tiny_run, tiny_run.data.dir)
  mesh = jax.make_mesh((1, 1, 1), mesh_lib.AXES, devices=jax.devices()[:1],
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)
  program = step_lib.build(tiny_run, specials.trained(packed.tokenizer.vocab_size), mesh=mesh)
  return program, loader_lib.Loader(packed, tiny_run)


@pytest.mark.slow
def test_masks_are_fixed_and_batches_do_not_matter(parts):
  program, loader = parts
  params = program.init_state().params
  evaluator = evaluate.Evaluator(program, loader)
  first = evaluator.run(params)
  assert first == evaluator.run(params)
  _check_record(first, loader)
  program.config.eval.batch_size = 7
  other = evaluate.Evaluator(program, loader).run(params)
  assert other == pytest.approx(first, rel=1e-5)
  program.config.eval.max_rows = 10
  few = evaluate.Evaluator(program, loader).run(params)
  assert few["eval/loss"] != first["eval/loss"]
  # Rows so long that an int32 does not hold the tokens of two batches.
  ((name, step),), many = evaluator._steps.items(), np.int32(2**31 - 1)
  evaluator._steps = {name: lambda *batch: (
      step(*batch)[0], (many // 4, many))}
  found = evaluator.run(params)
  assert found["eval/rows"] > evaluator._batch_size
  assert found["eval/hidden_fraction"] == pytest.approx(0.25)


def _check_record(scalars, loader):
  """What a reader needs beside the loss, against numpy."""
  held = loader.read([loader.eval_row(i) for i in range(loader.num_eval_rows)])
  trained = loader.read([loader.train_row(i)
                         for i in range(loader.num_train_rows)])
  num_targets = np.round(0.5 * np.sum(held != specials.TRAINED.pad, axis=1)).sum()
  assert scalars["eval/rows"] == len(held)
  assert scalars["eval/targets"] == num_targets
  np.testing.assert_allclose(
      scalars["eval/hidden_fraction"],
      num_targets / np.sum(held >= len(specials.NAMES)), rtol=1e-6)
  # Of the row a half, of what can be hidden more.
  assert 0.53 < scalars["eval/hidden_fraction"] < 0.6
  # Of the training text, whatever is held out or hidden.
  ids = trained[trained >= len(specials.NAMES)]
  _, counts = np.unique(ids, return_counts=True)
  np.testing.assert_allclose(
      scalars["eval/unigram_entropy"],
      stats.entropy(counts) + (len(counts) - 1) / (2 * len(ids)))


@pytest.mark.slow
@pytest.mark.parametrize("masks", ["fixed", "seeded"])
def test_masks_of_runs_that_differ_in_seed_unit_and_noise(
    parts, monkeypatch, masks):
  """The same ones, all of them slots; those of old runs are their own."""
  program, loader = parts
  monkeypatch.setattr(step_lib.Program, "loss_sums",
                      lambda self, params, masked: masked)
  monkeypatch.setattr(step_lib.Program, "_jit",
                      lambda self, function, **options: jax.jit(function))
  program.config.eval.masks = masks
  ids_BxL = loader.read([loader.eval_row(i) for i in range(8)])
  found = []
  for keys in ({}, {"seed": 1}, {
      "masking.unit": "span", "masking.random_rate": 0.1,
      "masking.same_rate": 0.1}):
    config = program.config.copy_and_resolve_references()
    config.update_from_flattened_dict(keys)
    plan = plan_lib.make_plan(config, program.plan.vocabulary, rate=0.3)
    other = dataclasses.replace(program, config=config)
    masked, counts = other.eval_step(plan)(
        {}, np.arange(8, dtype=np.int32), ids_BxL)
    found.append(np.asarray(masked.target_index_BxT))
    assert plan.num_corrupted == (masks == "seeded" and len(found) == 3) * 2
    num_ordinary = np.sum(ids_BxL >= len(specials.NAMES))
    assert counts == (masked.target_weights_BxT.sum(), num_ordinary)
  same = [np.array_equal(index, found[0]) for index in found]
  assert same == [True] + [masks == "fixed"] * 2


@pytest.mark.slow
def test_stop_gives_up(parts):
  program, loader = parts
  params = program.init_state().params
  assert evaluate.Evaluator(program, loader).run(params, lambda: True) is None


def test_entropy():
  assert evaluate.entropy(np.array([0, 0, 0])) == 0
  assert evaluate.entropy(np.array([5, 0, 0])) == 0
  np.testing.assert_allclose(evaluate.entropy(
      10**9 * np.array([2, 1, 1, 0])), 1.5 * np.log(2))


def test_entropy_of_a_sample_is_that_of_its_source():
  """Of few draws, too, whose own is too low."""
  share = 1 / np.arange(1, 101)
  share /= share.sum()
  counts = np.random.default_rng(0).multinomial(1000, share, size=50)
  found = np.mean([evaluate.entropy(row) for row in counts])
  own = np.mean([stats.entropy(row) for row in counts])
  assert abs(found - stats.entropy(share)) < 0.01 < 0.03 < (
      stats.entropy(share) - own)


@pytest.mark.parametrize("loss, said", [
    (4.0, "eval loss 4.000, 0.58 below what guessing by word frequency alone would give (4.580)"),
    (5.16, "eval loss 5.160, 0.58 above what guessing by word frequency alone would give (4.580)")])
def test_the_line_says_on_which_side(loss, said):
  assert said in loop._evaluation_line(3, {
      "eval/loss": loss, "eval/accuracy": 0.1, "eval/unigram_entropy": 4.58})


def test_bad_batch_sizes(tiny):
  tiny.eval.batch_size = 6
  with pytest.raises(errors.InputError, match="eval.batch_size 6"):
    evaluate.batch_size(tiny, mesh_lib.make_mesh(tiny))
