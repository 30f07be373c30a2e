"""One pass over held-out rows with fixed masks: sums -> scalars.

Masks depend on the row's place among the held-out ones, never on the step or,
unless `eval.masks` is seeded, on the run: two evaluations differ by the
parameters alone.
"""

import functools
import re

import jax
import numpy as np

from latemask import errors
from latemask.masking import plan as plan_lib
from latemask.runtime import mesh as mesh_lib

# With fewer held-out rows, runs cannot be told apart.
FEW_ROWS = 100
# Tokens of the training rows that the unigram entropy is counted on, at most.
_SAMPLE_TOKENS = 1 << 21
# Loss of the average of the parameters.
AVERAGE = "eval/average/loss"
_AT_A_RATE = re.compile(r"eval/rate_(.+)/loss")
_OF_A_SOURCE = re.compile(r"eval/source/([^/]+)/loss")


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
    self._length = config.data.length
    self._max_rows = config.eval.max_rows
    self._names = _source_names(loader.order.sources)
    self._sharding = program.batch_sharding
    self._steps = {"eval": program.eval_step(program.eval_plan)}
    for rate in config.eval.rates:
      plan = plan_lib.make_plan(config, program.plan.vocabulary, rate)
      self._steps[f"eval/rate_{rate:g}"] = program.eval_step(plan)

  def run(self, params, stop=lambda: False, num_batches=None):
    """Evaluates.

    Args:
      params: the model's parameters.
      stop: polled between batches; True gives the evaluation up.
      num_batches: at most so many; None: all rows that `eval.max_rows` allows.

    Returns:
      None when stopped, else per rate `.../loss` (nats a target),
      `.../accuracy`, `.../targets` (how many) and `.../hidden_fraction` (of the
      tokens that can be masked, the share that was selected); `eval/rows`; and
      `eval/unigram_entropy` (nats), see `unigram_entropy`. Of sources with
      shares, means are weighted by them, and each source has its own, too:
      `eval/source/NAME/loss`, `eval/source/NAME/rate_.../loss`.
    """
    found, total_rows = [], 0
    for source in self._loader.order.sources:
      num_rows = min(source.num_eval_rows,
                     max(1, round(self._max_rows * source.share)))
      if num_batches is not None:
        num_rows = min(num_rows, num_batches * self._batch_size)
      totals = self._totals(params, stop, source, num_rows)
      if totals is None:
        return None
      found.append(totals)
      total_rows += num_rows
    return self._scalars(jax.device_get(found)) | {
        "eval/rows": float(total_rows),
        "eval/unigram_entropy": self._unigram_entropy}

  def _totals(self, params, stop, source, num_rows):
    """Returns {rate: (sums, counts)} of rows of a source; None if stopped."""
    totals, under_way = dict.fromkeys(self._steps), {}
    # On the host: many long rows have more tokens than an int32 holds.
    counts_2 = {name: np.zeros(2, np.int64) for name in self._steps}

    def read(under_way):
      for name, found in under_way.items():
        counts_2[name] += np.asarray(jax.device_get(found))

    for rows_B, ids_BxL in self._loader.eval_batches(
        self._sharding, self._batch_size, num_rows, source):
      before, under_way = under_way, {}
      for name, step in self._steps.items():
        sums, under_way[name] = step(params, rows_B, ids_BxL)
        totals[name] = sums + totals[name] if totals[name] else sums
      # No more than one batch ahead of the devices: who is told to stop would
      # have to wait for all that is under way.
      read(before)
      if stop():
        return None
    read(under_way)
    return {name: (totals[name], counts_2[name]) for name in self._steps}

  def _scalars(self, found):
    """Returns the scalars of {rate: (sums, counts)} of each source."""
    scalars = {}
    for name in self._steps:
      scalars |= dict.fromkeys(
          (f"{name}/{k}" for k in (*found[0][name][0].means, "targets")), 0.0)
      counts = sum(totals[name][1] for totals in found)
      scalars[f"{name}/hidden_fraction"] = float(
          counts[0] / max(counts[1], 1))
      for source, label, totals in zip(
          self._loader.order.sources, self._names, found):
        sums = totals[name][0]
        scalars[f"{name}/targets"] += float(sums.weight)
        for k, v in sums.means.items():
          scalars[f"{name}/{k}"] += source.share * float(v)
          if label:
            scalars[name.replace("eval", label, 1) + f"/{k}"] = float(v)
    return scalars

  @functools.cached_property
  def _unigram_entropy(self):
    return unigram_entropy(self._loader, max(
        1, _SAMPLE_TOKENS // self._length))


def _source_names(sources):
  """Returns what scalars of each source begin with; None of the only one."""
  if len(sources) == 1:
    return [None]
  found = []
  for source in sources:
    name = "eval/source/" + re.sub(r"[^\w.-]+", "_", source.name).strip("_")
    found.append(f"{name}_{len(found) + 1}" if name in found else name)
  return found


def named_average(scalars):
  """Returns the losses and accuracies as those of an average's evaluation."""
  return {name.replace("eval/", "eval/average/", 1): value
          for name, value in scalars.items()
          if name.endswith(("/loss", "/accuracy"))}


def rates(names):
  """Returns {name of a loss at a rate of `eval.rates`: that rate}.

  Args:
    names: of scalars, these and others.
  """
  return {match[0]: float(match[1])
          for match in map(_AT_A_RATE.fullmatch, names) if match}


def by_source(scalars):
  """Returns {name of a source: its loss at the training rate}."""
  return {match[1]: scalars[match[0]]
          for match in map(_OF_A_SOURCE.fullmatch, scalars) if match}


def unigram_entropy(loader, max_rows):
  """Returns the entropy of the ordinary tokens of training rows, in nats.

  The loss of the best model that sees no context. Counted on the first
  `max_rows` rows of the training order, or all of them.

  Raises:
    InputError: one of the rows is damaged.
  """
  ids_NxL = loader.read([loader.train_row(index) for index in range(
      min(max_rows, loader.num_train_rows))])
  is_special_NxL = loader.packed.tokenizer.is_special(ids_NxL)
  return entropy(np.bincount(ids_NxL[~is_special_NxL]))


def entropy(counts_V):
  """Returns the entropy of what counts were drawn from, in nats.

  The entropy of the counts is too low by (distinct ids - 1) / 2N on average;
  that is added. Source: Miller, "Note on the bias of information
  estimates" (1955).
  """
  counts = counts_V[counts_V > 0].astype(np.float64)
  if not len(counts):
    return 0.0
  share = counts / counts.sum()
  return float(-np.sum(share * np.log(share))
               + (len(counts) - 1) / (2 * counts.sum()))


def batch_size(config, mesh):
  """Returns the rows of an evaluation batch: by default a micro-batch.

  Raises:
    InputError: it is not divisible by the shards of the mesh.
  """
  size = config.eval.batch_size or (
      config.train.batch_size // config.train.accumulation)
  shards = mesh_lib.num_batch_shards(mesh)
  if size % shards:
    raise errors.InputError(
        f"eval.batch_size {size} is not divisible by the {shards} shards of "
        "the mesh (mesh.data x mesh.fsdp)")
  return size
