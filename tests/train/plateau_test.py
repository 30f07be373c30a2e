"""When a run is told that it has learned nothing but frequencies."""

import copy

import pytest

from latemask.train import plateau


@pytest.mark.parametrize("num_steps, every_steps, step", [
    (1200, 400, 400), (1201, 400, 800), (1500, 200, 600), (20, 10, 10),
    (20_000, 1000, 7000), (200, 200, 200), (200, 150, 150), (4, 10, 4),
    (1, 1, 1)])
def test_it_is_judged_at_one_evaluation(tiny, num_steps, every_steps, step):
  tiny.train.num_steps, tiny.eval.every_steps = num_steps, every_steps
  scalars = {"eval/loss": 6.3, "eval/unigram_entropy": 6.35}
  evaluations = {s for s in range(num_steps + 1)
                 if s % every_steps == 0} | {num_steps}
  assert [s for s in sorted(evaluations)
          if plateau.warning(tiny, s, scalars)] == [step]
  assert 3 * step >= num_steps


@pytest.mark.parametrize("loss, is_told", [
    (6.0, False), (6.2499, False), (6.2501, True), (6.35, True), (8.0, True),
    (float("inf"), True), (float("nan"), False)])  # Which is a failure.
def test_it_is_told_below_a_tenth_of_a_nat(tiny, loss, is_told):
  scalars = {"eval/loss": loss, "eval/unigram_entropy": 6.35}
  assert bool(plateau.warning(tiny, 10, scalars)) == is_told


def test_advice_is_of_use(tiny):
  """What is done already does not help."""
  scalars = {"eval/loss": 6.35, "eval/unigram_entropy": 6.35}
  told = plateau.warning(tiny, 10, scalars)
  assert "model.architecture=modern (it is roberta_prenorm)" in told
  assert "\n" not in told
  for key, value in (("model.architecture", "modern"),
                     ("train.init_from", "exported/demo")):
    config = copy.deepcopy(tiny)
    config.update_from_flattened_dict({key: value})
    told = plateau.warning(config, 10, scalars)
    assert "architecture" not in told and "optimizer.learning_rate" in told
