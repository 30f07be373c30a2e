"""Phases of a run, each with a mask rate of its own (`masking.phases`).

Shapes are static within a phase: each has a train step of its own, and a run
goes through all of them. Masks follow from (seed, step), so that a phase draws
none of another's anew.
"""

import dataclasses
import itertools

from latemask import errors
from latemask.masking import plan as plan_lib

# Of the sum of shares, which are decimal fractions.
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Phase:
  """A stretch of a run.

  Fields:
    first_step: updates done before it.
    num_steps: its own.
    plan: the `plan.Plan` of its masks.
  """

  first_step: int
  num_steps: int
  plan: plan_lib.Plan


def plans(config, vocabulary):
  """Returns [(share of the steps, plan)], in order; one without phases.

  Raises:
    InputError: shares that do not sum to one, or a rate that cannot be.
  """
  rule = config.masking
  if not rule.phases:
    return [(1.0, plan_lib.make_plan(config, vocabulary))]
  total = sum(share for _, share, *_ in rule.phases)
  if abs(total - 1) > _TOLERANCE:
    raise errors.InputError(
        f"masking.phases have shares that sum to {total:g}; it must be 1")
  found = []
  for rate, share, *predict_rate in rule.phases:
    of_phase = rule.copy_and_resolve_references()
    with of_phase.unlocked():
      of_phase.update(rate=rate, predict_rate=(*predict_rate, None)[0])
    found.append((share, plan_lib.of_rule(
        of_phase, config.data.length, vocabulary, "masking.phases: the rate")))
  return found


def lay_out(shares, num_steps):
  """Returns the number of steps of each phase of a run."""
  # The last one ends with the run, whatever shares sum to in the last bit.
  ends = [round(end * num_steps) for end in itertools.accumulate(shares)]
  ends[-1] = num_steps
  return [end - start for start, end in itertools.pairwise([0, *ends])]


def of_run(plans_of_phases, num_steps):
  """Returns the `Phase`s of a run.

  Args:
    plans_of_phases: see `plans`.

  Raises:
    InputError: a phase gets no step.
  """
  counts = lay_out([share for share, _ in plans_of_phases], num_steps)
  if min(counts) < 1:
    raise errors.InputError(
        f"masking.phases: phase {counts.index(min(counts)) + 1} gets none of "
        f"the {num_steps:,} steps")
  starts = itertools.accumulate([0, *counts])
  return tuple(Phase(start, count, plan) for start, count, (_, plan) in zip(
      starts, counts, plans_of_phases))
