"""What a run of a sweep has come to, in words: its loss, or its scores."""

import re
import statistics

from latemask.finetune import grid as cells_lib
from latemask.sweep import points as points_lib

# The loss at a rate of eval.rates, at which runs of all rates can be compared.
_AT_A_RATE = re.compile(r"eval/rate_(.+)/loss")


def text(point):
  """Returns what to say of a run; "" before it has anything to tell.

  Of pre-training, the loss of the last evaluation; of fine-tuning, the score
  of each task, in percent: the median over seeds at the chosen settings.
  """
  return (_scores if "task" in point.config else _losses)(point.path)


def _losses(path):
  file = path / "metrics.jsonl"
  lines = file.read_text().splitlines() if file.exists() else ()
  last = next((found for found in map(points_lib.as_object, reversed(lines))
               if "eval/loss" in found), None)
  if last is None:
    return ""
  others = "".join(
      f", at mask rate {match[1]}: {last[match[0]]:.3f}"
      for match in map(_AT_A_RATE.fullmatch, last) if match)
  return f"held-out loss {last['eval/loss']:.3f}{others}"


def _scores(path):
  chosen = {name: cells_lib.choose(results) for name, results
            in cells_lib.scores_of(path).items()}
  found = ", ".join(
      f"{name} {100 * statistics.median(r['score'] for r in results):.2f}"
      for name, results in chosen.items() if results)
  return f"dev score: {found}" if found else ""
