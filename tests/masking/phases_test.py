"""Phases of a run: their steps, their costs, their masks."""

import jax
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.masking import phases
from latemask.train import check as check_lib
from latemask.train import step as step_lib
from tests import conftest

PHASES = ((0.5, 0.5), (0.3, 0.3), (0.15, 0.2))
VOCABULARY = specials.trained(320)


@pytest.mark.parametrize("num_steps, counts", [
    (20, [10, 6, 4]), (1000, [500, 300, 200]), (7, [4, 2, 1]), (5, [2, 2, 1])])
def test_steps_are_dealt_out(num_steps, counts):
  found = phases.lay_out([0.5, 0.3, 0.2], num_steps)
  assert found == counts and sum(found) == num_steps
  # Thirds, which do not sum to one in the last bit.
  assert sum(phases.lay_out([0.333333, 0.333333, 0.333334], 10**9)) == 10**9


def test_a_budget_pays_for_all_phases(tiny):
  tiny.masking.phases = PHASES
  tiny.masking.rate = 0.15
  tiny.train.num_steps = 20
  program = step_lib.build(tiny, VOCABULARY)
  assert [(p.first_step, p.num_steps) for p in program.phases] == [
      (0, 10), (10, 6), (16, 4)]
  assert [program.phase_at(step) for step in (0, 9, 10, 15, 16, 19)] == [
      0, 0, 1, 1, 2, 2]
  # Each counts as a run that has this rate alone.
  alone = []
  for rate, _ in PHASES:
    of_phase = conftest.tiny_config()
    of_phase.masking.rate = rate
    alone.append(step_lib.build(of_phase, VOCABULARY).step_flops)
  assert program.flops_until(20) == sum(
      n * f for n, f in zip((10, 6, 4), alone))
  assert program.flops_until(12) == 10 * alone[0] + 2 * alone[1]
  assert program.eval_plan.num_targets == round(0.15 * tiny.data.length)
  for more, num_steps in ((0, 20), (-1, 19), (min(alone) - 1, 20)):
    tiny.train.total_flops = float(program.flops_until(20) + more)
    assert step_lib.build(tiny, VOCABULARY).config.train.num_steps == num_steps


@pytest.mark.slow
def test_masks_are_those_of_a_run_of_one_rate(tiny):
  """Crossing into a phase draws none of another's anew."""
  tiny.masking.phases = ((0.5, 0.5), (0.15, 0.5))
  program = step_lib.build(tiny, VOCABULARY)
  ids_BxL = jax.device_put(conftest.random_rows(16, tiny.data.length),
                           program.batch_sharding)
  for number, rate in enumerate((0.5, 0.15)):
    tiny.masking.phases = ()
    tiny.masking.rate = rate
    alone = step_lib.build(tiny, VOCABULARY)
    (one, metrics), (two, other) = (
        steps(program.init_state().replace(step=np.int32(7)), ids_BxL)
        for steps in (program.train_steps[number], alone.train_step))
    assert metrics.sums.weight == other.sums.weight
    jax.tree.map(np.testing.assert_array_equal,
                 jax.device_get(one.params), jax.device_get(two.params))


@pytest.mark.parametrize("found, message", [
    (((0.5, 0.5), (0.15, 0.4)), "shares that sum to 0.9; it must be 1"),
    (((0.5, 0.99), (0.15, 0.01)), "phase 2 gets none of the 20 steps"),
    (((0.01, 1.0),), "the rate 0.01 hides 0 of data.length 32"),
    (((0.99, 1.0),), "the rate 0.99 hides 32 of data.length 32"),
    (((0.3, 1.0, 0.4),), "masking.predict_rate is 0.4"),
])
def test_phases_that_cannot_be(tiny, found, message):
  tiny.masking.phases = found
  with pytest.raises(errors.InputError, match=message) as refused:
    step_lib.build(tiny, VOCABULARY)
  assert "\n" not in str(refused.value)


def test_no_predict_rate_is_passed_over(tiny_run, tmp_path):
  tiny = tiny_run
  tiny.masking.update(rate=0.5, predict_rate=0.25)
  tiny.masking.phases = ((0.5, 0.5), (0.3, 0.5, 0.2))
  with pytest.raises(errors.InputError, match="a phase of masking.phases has "):
    check_lib.check(tiny, tmp_path / "run")
  tiny.masking.phases = ((0.5, 0.5, 0.4), (0.3, 0.5, 0.2))
  program, _ = check_lib.check(tiny, tmp_path / "run")
  assert len(program.phases) == 2
