"""What is one series, and what it is called."""

import json

from latemask.report import reading
from latemask.report import series as series_lib
from tests.report import made


def test_names_are_what_differs(tmp_path):
  def name(columns=(), **runs):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    for run, overrides in runs.items():
      made.run(folder / run, **overrides)
    if columns:
      (folder / "sweep.json").write_text(json.dumps({"columns": columns}))
    found = reading.read([folder])
    series, naming, differing = series_lib.group(found.runs, found.columns)
    return [s.label for s in series], naming, differing

  lr, width = "optimizer.learning_rate", "model.mlp"
  assert name(a={}) == (["a"], [], [])
  # Seeds, and what may change on the way of a run, make no other series.
  assert name(a={"seed": 0}, b={
      "seed": 1, "data.dir": "x", "data.cache_dir": "y", "checkpoint.keep": 9,
      "train.on_nonfinite": "rollback", "train.max_rollbacks": 7})[1:] == (
          [], [])
  assert name(a={lr: 1e-3}, b={lr: 5e-4, width: 64}) == (
      ["learning rate 0.0005", "learning rate 0.001"], [lr], [lr, width])
  assert name([width], a={lr: 1e-3}, b={lr: 5e-4, width: 64})[:2] == (
      ["mlp 64", "mlp 2048"], [width])
  assert name([width], a={lr: 1e-3}, b={lr: 5e-4}, c={width: 64})[1] == [
      width, lr]
  # What a run is comes before how it is watched.
  steps = "train.num_steps"
  assert name(a={steps: 12, "eval.every_steps": 5},
              b={steps: 16, "eval.every_steps": 7})[1] == [steps]
