"""From the results of fine-tuned cells to a choice, and to a table.

The result of a cell is a dict, as cell.py makes it: learning_rate,
batch_size, seed; metrics and their mean, score, at its best epoch, and the
same of all epochs. A cell whose loss or logits were not finite has failed: it
has no score, whatever it had before that epoch.
"""

import dataclasses
import json
import math
import statistics

from latemask import errors
from latemask.finetune.tasks import glue
from latemask.runtime import console


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
  """A point of the grid."""

  batch_size: int
  learning_rate: float
  seed: int

  def __str__(self):
    return (f"lr{self.learning_rate}-batch{self.batch_size}"
            f"-seed{self.seed}")


class FailedError(errors.Ending):
  """No cell of a task has a score."""

  code = 3


def failed_epoch(result):
  """Returns the epoch, from 1, at which a cell failed; None of a good one.

  Cells of before that failed have a score; what they lack is the loss.
  """
  return next((number for number, epoch in enumerate(
      result.get("epochs", ()), 1)
               if None in (epoch["loss"], epoch["score"])), None)


def one_answer(result):
  """Returns the answer that all dev rows got at a cell's best epoch.

  None where there were several; and of cells of before that was written down.
  """
  epochs = result.get("epochs")
  return epochs and epochs[result["best_epoch"] - 1].get("one_answer")


def scored(results):
  """Returns the results of cells that have not failed."""
  return [result for result in results if failed_epoch(result) is None]


def choose(results):
  """Returns the results, one a seed, of the best rate and batch size.

  The best by the median over seeds, among those with the most seeds; none
  where all cells have failed.
  """
  by_point = {}
  for result in scored(results):
    by_point.setdefault(
        (result["batch_size"], result["learning_rate"]), []).append(result)
  return max(by_point.values(), default=[], key=lambda point: (
      len(point), statistics.median(r["score"] for r in point)))


def check(results):
  """Checks that there is a score of every task.

  Args:
    results: {task: results of its cells}.

  Raises:
    FailedError: all cells of a task have failed.
  """
  without = [name for name, cells in results.items() if not scored(cells)]
  if without:
    raise FailedError(
        f"all cells of {', '.join(without)} have failed: their logits are not "
        "finite. Lower grid.learning_rates, more optimizer.warmup_fraction or "
        "a clip_norm may help, in another --workdir")


def tabulate(results):
  """Returns results as Markdown, in percent; what has failed is named.

  Args:
    results: {task: results of its cells}.
  """
  rows = [("task", "metric", "median", "std", "best", "learning rate",
           "batch", "seeds", "cells")]
  scores, failed, same = [], [], []
  for name, cells in results.items():
    chosen = choose(cells)
    bad = [cell for cell in cells if failed_epoch(cell) is not None]
    failed += [f"- {name}, learning rate {cell['learning_rate']:g}, batch "
               f"{cell['batch_size']}, seed {cell['seed']}: epoch "
               f"{failed_epoch(cell)}\n" for cell in bad]
    count = f"{len(cells)}" + f", {len(bad)} failed" * bool(bad)
    if not chosen:
      rows.append((name, "failed", *"–––", "", "", "0", count))
    for metric in chosen[0]["metrics"] if chosen else ():
      rows.append((name, metric, *_spread(
          [result["metrics"][metric] for result in chosen]),
          f"{chosen[0]['learning_rate']:g}", str(chosen[0]["batch_size"]),
          str(len(chosen)), count))
    if name not in glue.NOT_AVERAGED:
      scores.append([result["score"] for result in chosen])
    same += [f"- {name}, seed {result['seed']}: {answer}\n"
             for result in chosen if (answer := one_answer(result))]
  median, best = (f"{100 * statistics.mean(map(f, scores)):.2f}"
                  if scores and all(scores) else "–"
                  for f in (statistics.median, max))
  rows.append(("average", "", median, "", best, "", "", "", ""))
  return console.table(rows) + (
      "\nFailed, and without a score, since loss or logits were not finite:\n\n"
      + "".join(failed) if failed else "") + (
      "\nOne answer was given to all rows of the dev set, as by a model that "
      "has learned nothing of the task:\n\n" + "".join(same) if same else "")


def _spread(values):
  return (f"{100 * statistics.median(values):.2f}",
          f"{100 * deviation(values):.2f}" if len(values) > 1 else "–",
          f"{100 * max(values):.2f}")


def deviation(values):
  """Returns the sample's standard deviation; NaN of a single value."""
  return statistics.stdev(values) if len(values) > 1 else math.nan


def cell_path(workdir, name, cell):
  """Returns where the result of a task's cell lies."""
  return workdir / "cells" / name / f"{cell}.json"


def check_digests(workdir, data):
  """Checks that all results of a task are of the same weights and rows.

  Also those of cells that are in the grid no longer: the best is chosen among
  all.

  Raises:
    InputError: one is of others.
  """
  for path in sorted((workdir / "cells" / data.name).glob("*.json")):
    found = _read_json(path)
    # Older ones do not have the second.
    if (found["digest"], found.get("labels_digest", data.labels_digest)) != (
        data.digest, data.labels_digest):
      raise errors.InputError(
          f"{path} comes from other weights, initial values, rows or labels "
          "than this command has (max_length None once meant all positions); "
          "choose another --workdir")


def _read_json(path):
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise errors.InputError(
        f"{path} is not JSON ({error}); delete it, and it is made anew"
    ) from error


def scores_of(workdir):
  """Returns {task: results of its cells on disk}, tasks in GLUE's order."""
  names = [folder.name for folder in sorted((workdir / "cells").glob("*"))]
  found = {name: [_read_json(path) for path in sorted(
      (workdir / "cells" / name).glob("*.json"))] for name in in_order(names)}
  return {name: results for name, results in found.items() if results}


def in_order(names):
  """Returns names of tasks: those of GLUE in its order, then the others."""
  return [name for name in glue.TASKS if name in names] + [
      name for name in names if name not in glue.TASKS]
