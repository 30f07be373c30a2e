"""From the results of fine-tuned cells to a choice, and to a table.

The result of a cell is a dict, as finetune.py writes it: learning_rate,
batch_size, seed; metrics and their mean, score, at its best epoch.
"""

import statistics

from latemask import markdown


def choose(results):
  """Returns the results, one a seed, of the best rate and batch size.

  The best by the median over seeds, among those with the most seeds.
  """
  by_point = {}
  for result in results:
    by_point.setdefault(
        (result["batch_size"], result["learning_rate"]), []).append(result)
  return max(by_point.values(), key=lambda point: (
      len(point), statistics.median(r["score"] for r in point)))


def tabulate(results):
  """Returns results as Markdown, in percent.

  Args:
    results: {task: results of its cells}.
  """
  rows = [("task", "metric", "median", "std", "best", "learning rate",
           "batch", "seeds", "cells")]
  scores = []
  for name, cells in results.items():
    chosen = choose(cells)
    first = chosen[0]
    for metric in first["metrics"]:
      rows.append((name, metric, *_spread(
          [result["metrics"][metric] for result in chosen]),
          f"{first['learning_rate']:g}", str(first["batch_size"]),
          str(len(chosen)), str(len(cells))))
    scores.append([result["score"] for result in chosen])
  rows.append((
      "average", "", *(f"{100 * statistics.mean(map(f, scores)):.2f}"
                       for f in (statistics.median, deviation, max)),
      "", "", "", ""))
  return markdown.table(rows)


def _spread(values):
  return (f"{100 * statistics.median(values):.2f}",
          f"{100 * deviation(values):.2f}", f"{100 * max(values):.2f}")


def deviation(values):
  """Returns the sample's standard deviation; 0 of a single value."""
  return statistics.stdev(values) if len(values) > 1 else 0.0
