"""Evaluation: fixed masks, every held-out row once, entropies."""

import jax
import numpy as np
import pytest

from latemask import errors
from latemask import evaluate
from latemask import sharding
from latemask import step as step_lib
from latemask.data import loader as loader_lib
from latemask.data import packing


@pytest.fixture
def parts(tiny_run):
  packed = packing.prepare(tiny_run, tiny_run.data.dir)
  mesh = jax.make_mesh((1, 1, 1), sharding.AXES, devices=jax.devices()[:1],
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)
  program = step_lib.build(tiny_run, packed.tokenizer.vocab_size, mesh=mesh)
  return program, loader_lib.Loader(packed, tiny_run)


def test_masks_are_fixed_and_batches_do_not_matter(parts):
  program, loader = parts
  params = program.init_state().params
  first = evaluate.Evaluator(program, loader).run(params)
  assert first == evaluate.Evaluator(program, loader).run(params)
  program.config.eval.batch_size = 7
  other = evaluate.Evaluator(program, loader).run(params)
  assert other == pytest.approx(first, rel=1e-5)
  program.config.eval.max_rows = 10
  few = evaluate.Evaluator(program, loader).run(params)
  assert few["eval/loss"] != first["eval/loss"]


def test_stop_gives_up(parts):
  program, loader = parts
  params = program.init_state().params
  assert evaluate.Evaluator(program, loader).run(params, lambda: True) is None


def test_entropy():
  assert evaluate.entropy(np.array([0, 0, 0])) == 0
  assert evaluate.entropy(np.array([5, 0, 0])) == 0
  np.testing.assert_allclose(
      evaluate.entropy(np.array([2, 1, 1, 0])), 1.5 * np.log(2))


def test_bad_batch_sizes(tiny):
  tiny.eval.batch_size = 6
  with pytest.raises(errors.InputError, match="eval.batch_size 6"):
    evaluate.batch_size(tiny, sharding.make_mesh(tiny))
