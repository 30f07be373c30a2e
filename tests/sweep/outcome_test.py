"""What a sweep says of a run that has ended."""

import json

from etils import epath
import ml_collections
import pytest

from latemask.sweep import outcome
from latemask.sweep import points as points_lib


def _point(path, **config):
  return points_lib.Point("x", epath.Path(path), {},
                          ml_collections.ConfigDict(config), ())


@pytest.mark.parametrize("lines, expected", [
    ([], ""),
    ([{"step": 1, "loss": 5.0}], ""),
    ([{"step": 1, "eval/loss": 6.0}, {"step": 2, "loss": 5.0},
      {"step": 2, "eval/loss": 4.25, "eval/accuracy": 0.3,
       "eval/rate_0.15/loss": 3.5, "eval/rate_0.15/accuracy": 0.4},
      {"step": 3, "loss": 5.0}],
     "held-out loss 4.250, at mask rate 0.15: 3.500"),
    ([{"step": 1, "eval/loss": 6.0}, "{cut"], "held-out loss 6.000")])
def test_the_last_evaluation(tmp_path, lines, expected):
  (tmp_path / "metrics.jsonl").write_text("".join(
      (line if isinstance(line, str) else json.dumps(line)) + "\n"
      for line in lines))
  assert outcome.text(_point(tmp_path)) == expected


def test_nothing_is_there(tmp_path):
  assert outcome.text(_point(tmp_path / "none")) == ""
  assert outcome.text(_point(tmp_path / "none", task="cola")) == ""


def test_scores_of_fine_tuning(tmp_path):
  for task, scores in {"cola": (0.2, 0.3, 0.7), "rte": (None,)}.items():
    (tmp_path / "cells" / task).mkdir(parents=True)
    for seed, score in enumerate(scores):
      (tmp_path / "cells" / task / f"{seed}.json").write_text(json.dumps({
          "batch_size": 16, "learning_rate": 1e-4, "seed": seed,
          "score": score, "epochs": [{"loss": 0.1, "score": score}]}))
  assert outcome.text(_point(tmp_path, task="all")) == "dev score: cola 30.00"
