"""One pass over held-out rows with fixed masks: sums -> scalars.

Masks depend on the seed and on the row's place among the held-out ones, never
on the step, so that two evaluations differ by the parameters alone.
"""

import jax
import numpy as np

from latemask import errors
from latemask import masking
from latemask import sharding


class Evaluator:
  """Evaluates parameters at the training rate and at `eval.rates`."""

  def __init__(self, program, loader):
    """Prepares one eval step per mask rate.

    Raises:
      InputError: `eval.batch_size` or a rate cannot be.
    """
    config = program.config
    self._batch_size = batch_size(config, program.mesh)
    self._loader = loader
    self._num_rows = min(config.eval.max_rows, loader.num_eval_rows)
    self._sharding = program.batch_sharding
    self._steps = {"eval": program.eval_step(program.plan)}
    for rate in config.eval.rates:
      plan = masking.make_plan(config, program.plan.vocab_size,
                               program.plan.word_start_V, rate)
      self._steps[f"eval/rate_{rate:g}"] = program.eval_step(plan)

  def run(self, params, stop=lambda: False, num_batches=None):
    """Evaluates.

    Args:
      params: the model's parameters.
      stop: polled between batches; True gives the evaluation up.
      num_batches: at most so many; None: all rows that `eval.max_rows` allows.

    Returns:
      None when stopped, else per rate `.../loss` (nats a target),
      `.../accuracy`, and `.../unigram_entropy`: that of the distribution of
      the targets themselves (nats), the loss of the best model that sees no
      context.
    """
    totals, under_way = dict.fromkeys(self._steps), None
    num_rows = self._num_rows
    if num_batches is not None:
      num_rows = min(num_rows, num_batches * self._batch_size)
    for rows_B, ids_BxL in self._loader.eval_batches(
        self._sharding, self._batch_size, num_rows):
      for name, step in self._steps.items():
        sums, counts_V = step(params, rows_B, ids_BxL)
        if totals[name]:
          sums, counts_V = sums + totals[name][0], counts_V + totals[name][1]
        totals[name] = sums, counts_V
      # No more than one batch ahead of the devices: who is told to stop would
      # have to wait for all that is under way.
      jax.block_until_ready(under_way)
      under_way = tuple(totals.values())
      if stop():
        return None
    scalars = {}
    for name, (sums, counts_V) in totals.items():
      scalars |= {f"{name}/{k}": float(v) for k, v in sums.means.items()}
      scalars[f"{name}/unigram_entropy"] = entropy(np.asarray(counts_V))
    return scalars


def entropy(counts_V):
  """Returns the entropy of the distribution of counts, in nats."""
  share = counts_V[counts_V > 0].astype(np.float64)
  share /= max(share.sum(), 1)
  return float(-np.sum(share * np.log(share)))


def batch_size(config, mesh):
  """Returns the rows of an evaluation batch: by default a micro-batch.

  Raises:
    InputError: it is not divisible by the shards of the mesh.
  """
  size = config.eval.batch_size or (
      config.train.batch_size // config.train.accumulation)
  shards = sharding.num_batch_shards(mesh)
  if size < 1 or size % shards:
    raise errors.InputError(
        f"eval.batch_size {size} is not divisible by the {shards} shards of "
        "the mesh (mesh.data x mesh.fsdp)")
  if config.eval.max_rows < 1:
    raise errors.InputError(
        f"eval.max_rows is {config.eval.max_rows}; it must be positive")
  return size
