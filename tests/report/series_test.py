"""What is one series, and what it is called."""

import json

from latemask.report import content as content_lib
from latemask.report import reading
from latemask.report import scores
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
      ["b (learning rate 0.0005)", "a (learning rate 0.001)"], [lr],
      [lr, width])
  assert name([width], a={lr: 1e-3}, b={lr: 5e-4, width: 64})[:2] == (
      ["b (mlp 64)", "a (mlp 2048)"], [width])
  assert name([width], a={lr: 1e-3}, b={lr: 5e-4}, c={width: 64})[1] == [
      width, lr]
  # What a run is comes before how it is watched.
  steps = "train.num_steps"
  assert name(a={steps: 12, "eval.max_rows": 5},
              b={steps: 16, "eval.max_rows": 7})[1] == [steps]


def test_names_tell_series_apart(tmp_path):
  """Also where values are alike as far as they are shown."""
  for number, source in enumerate(("wiki", "books")):
    run = tmp_path / f"data.source={number}"
    made.run(run, **{
        "data.source": f"text:/data/{source}/train/docs-*.jsonl.gz"})
    made.glue(run / "glue", run)
  found = content_lib.gather(reading.read([tmp_path]))
  assert [s.label for s in found.series] == [
      f"data source text:/data/{source}/train/docs-*.jsonl.gz"
      for source in ("books", "wiki")]
  assert [len(s.runs) for s in found.glue_series] == [1, 1]


def test_names_have_the_folders(tmp_path):
  def labels(folder, *names, **overrides):
    for seed, name in enumerate(names):
      made.run(tmp_path / folder / name, seed=seed, **overrides)
    series, *_ = series_lib.group(reading.read([tmp_path / folder]).runs, [])
    return {s.label: s.members for s in series}

  assert labels("x", "a") == {"a": "a"}
  assert labels("x", "a1", "b1", rate=0.3) == {
      "a1, b1 (mask rate 0.3)": "a1, b1", "a (mask rate 0.5)": "a"}
  # Where two folders have one name, what holds them tells them apart.
  made.run(tmp_path / "x/deep/a", rate=0.1)
  assert labels("x") == {
      "deep/a (mask rate 0.1)": "deep/a",
      "a1, b1 (mask rate 0.3)": "a1, b1", "a (mask rate 0.5)": "a"}
  # The name of a point of a sweep says its keys already.
  for rate in (0.3, 0.4):
    made.run(tmp_path / f"y/masking.rate={rate}_seed=0", rate=rate)
  assert labels("y") == {
      f"mask rate {rate}": f"masking.rate={rate}_seed=0"
      for rate in (0.3, 0.4)}


def test_fine_tunings_that_differ_are_no_seeds_of_one(tmp_path):
  """Of two runs of one series: told to do the same, or not."""
  for seed in (1, 2):
    made.run(tmp_path / f"run{seed}", seed=seed)
    made.glue(tmp_path / f"same{seed}", tmp_path / f"run{seed}")
    made.glue(tmp_path / f"other{seed}", tmp_path / f"run{seed}",
              max_length=64 * seed)
  found = reading.read([tmp_path])
  names = {str(tmp_path / f"run{seed}"): "the runs" for seed in (1, 2)}
  grouped = series_lib.group_glue(found.glues, names)
  assert sorted(sorted(s.folders) for s in grouped) == [
      ["other1"], ["other2"], ["same1", "same2"]]
  assert all(s.label.startswith("the runs") for s in grouped)
  assert len({s.label for s in grouped}) == 3


def test_what_began_from_scratch_says_nothing_of_a_run(tmp_path):
  made.glue(tmp_path / "tuned", tmp_path / "run", quality=0.4)
  made.glue(tmp_path / "scratch", tmp_path / "run", quality=0.9,
            from_scratch=True)
  (average,) = scores.averages(reading.read([tmp_path]).glues).values()
  (alone,) = scores.averages(reading.read([tmp_path / "tuned"]).glues).values()
  assert average == alone
