"""What a run of a sweep has come to, in words: its loss, or its scores."""

import statistics

from latemask.finetune import grid as cells_lib
from latemask.sweep import points as points_lib
from latemask.train import evaluate


def text(point):
  """Returns what to say of a run; "" before it has anything to tell.

  Of pre-training, the loss of the last evaluation; of fine-tuning, the score
  of each task, in percent: the median over seeds at the chosen settings.
  """
  return (_scores if "task" in point.config else _losses)(point.path)


def _losses(path):
  last = next((found for found in points_lib.newest_lines(path)
               if "eval/loss" in found), None)
  if last is None:
    return ""
  others = "".join(
      f", at mask rate {rate:g}: {last[name]:.3f}"
      for name, rate in evaluate.rates(last).items())
  return f"held-out loss {last['eval/loss']:.3f}{others}"


def _scores(path):
  chosen = {name: cells_lib.choose(results) for name, results
            in cells_lib.scores_of(path).items()}
  found = ", ".join(
      f"{name} {100 * statistics.median(r['score'] for r in results):.2f}"
      for name, results in chosen.items() if results)
  return f"dev score: {found}" if found else ""
