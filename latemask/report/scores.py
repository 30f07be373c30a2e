"""GLUE scores by task: of a series of fine-tuning, and of each run."""

import math
import statistics

from latemask.finetune import grid as grid_lib
from latemask.finetune.tasks import glue


def results(series):
  """Returns {task: results of the cells of all members} of a GLUE series."""
  found = {}
  for task in _tasks(run.results for run in series.runs):
    found[task] = [cell for run in series.runs
                   for cell in run.results.get(task, ())]
  return found


def _tasks(results):
  """Returns the names of all tasks in some {task: ...}, in order."""
  return grid_lib.in_order(sorted(set().union(*results)))


def percent(cells):
  """Returns (median, deviation) of the chosen scores; None without any."""
  scores = [100 * r["score"] for r in grid_lib.choose(cells or ())]
  return (statistics.median(scores), grid_lib.deviation(scores)
          ) if scores else None


def are_glue(tasks):
  """Whether all of some tasks are GLUE's, and none somebody's own."""
  return set(tasks) <= set(glue.TASKS)


def _is_averaged(task):
  return task in glue.TASKS and task not in glue.NOT_AVERAGED


def averages(glues):
  """Returns {real path of a run: GLUE average of what began from it}.

  Of those that were asked all the tasks, the best where there are several.
  """
  glues = [g for g in glues if are_glue(g.results)]
  tasks = max((set(g.results) for g in glues), key=len, default=set())
  found = {}
  for run in glues:
    if run.config["from_scratch"]:
      continue  # It says nothing of the run whose sizes it has.
    scores = [percent(cells) for task, cells in run.results.items()
              if _is_averaged(task)]
    if set(run.results) == tasks and scores and all(scores):
      found[run.begun_from] = max(
          found.get(run.begun_from, -math.inf),
          statistics.fmean(median for median, _ in scores))
  return found


def by_task(results_of_series):
  """Returns [(task, [(median, deviation) or None, one a series])].

  Of several tasks of GLUE the last row is their average, without a deviation:
  each task has seeds of its own.

  Args:
    results_of_series: one a series, as of `results`.
  """
  rows = [(task, [percent(found.get(task)) for found in results_of_series])
          for task in _tasks(results_of_series)]
  averaged = [scores for task, scores in rows if _is_averaged(task)]
  if len(averaged) > 1:
    columns = zip(*averaged)
    rows.append(("average", [
        (statistics.fmean(median for median, _ in scores), math.nan)
        if all(scores) else None for scores in columns]))
  return rows
