"""Which runs can be compared, by what, and how it is laid out."""

import json
import statistics

import numpy as np
import pytest

from latemask.report import comparison
from latemask.report import reading
from latemask.report import series as series_lib
from tests.report import made


def test_heat_map_and_frontier(sweep):
  records, folder = sweep
  found = reading.read([folder])
  series, naming, _ = series_lib.group(found.runs, found.columns)
  assert naming == ["masking.rate", "model.insertion_layer"]
  rates, layer_list, loss_RxI, count_RxI = comparison.grid(
      series, comparison.final("eval/loss"))
  for (row, column), loss in np.ndenumerate(loss_RxI):
    finals = [[r["eval/loss"] for r in run if "eval/loss" in r][-1]
              for key, run in records.items()
              if key[:2] == (rates[row], layer_list[column])]
    assert loss == pytest.approx(statistics.mean(finals))
    assert count_RxI[row, column] == len(finals)
  assert count_RxI.tolist() == [[3, 3], [3, 2]]
  assert [s.is_vanilla for s in series] == [True, False, False, False]
  assert comparison.quality_key(found.runs) == "eval/rate_0.15/loss"
  assert set(comparison.kinds(series, "eval/rate_0.15/loss")) == {0}
  for run in found.runs[:1]:
    del run.final["eval/rate_0.15/loss"]
  assert comparison.quality_key(found.runs) == "eval/loss"
  assert comparison.kinds(series, "eval/loss") == [0, 0, 1, 1]
  points = [(3.0, 1.0), (1.0, 2.0), (2.0, 2.5), (2.0, 1.5), (4.0, 1.0)]
  assert comparison.frontier(points) == [1, 3, 0]


def test_rows_tell_texts_apart_where_they_lie(tmp_path):
  """Other names of the same rows are one text, other rows of a name two."""
  for name, digest in (("a", "x"), ("b", "x"), ("c", "y")):
    made.run(tmp_path / name, **{"data.source": f"text:{name}"[:5]})
    (tmp_path / name / "data").mkdir()
    (tmp_path / name / "data/manifest.json").write_text(json.dumps({
        "settings": {"source": "text:", "length": 128, "tokenizer": "t",
                     "packing": "documents"},
        "shards": [{"sha256": digest, "rows": 3}]}))
  runs = reading.read([tmp_path]).runs
  a, b, c = map(comparison.text, runs)
  assert a == b != c
  # One that does not say leaves it to the keys, which are the same.
  (tmp_path / "a/data/manifest.json").unlink()
  runs = reading.read([tmp_path]).runs
  assert len({comparison.text(run) for run in runs}) == 1


def _runs(folder, *overrides):
  for i, override in enumerate(overrides):
    made.run(folder / str(i), **override)
  return reading.read([folder]).runs


def test_unlike_tasks_are_not_joined(tmp_path):
  """Runs of before evaluate eval.rates with their own noise and unit."""
  noise = {"masking.random_rate": 0.1, "masking.same_rate": 0.1}
  old = {"eval.masks": "seeded"}
  new = _runs(tmp_path / "new", {}, noise, {"masking.unit": "word"})
  assert comparison.quality_key(new) == "eval/rate_0.15/loss"
  key = "eval/rate_0.15/loss"
  assert len({comparison.task(run, key) for run in new}) == 1
  mixed = _runs(tmp_path / "mixed", {}, old, noise | old)
  assert [comparison.task(run, key) == comparison.task(mixed[0], key)
          for run in mixed] == [True, True, False]
  # Without eval.masks in config.json it is an old one.
  path = tmp_path / "mixed/0/config.json"
  config = json.loads(path.read_text())
  del config["eval"]["masks"]
  config["masking"]["random_rate"] = 0.1
  path.write_text(json.dumps(config))
  run = reading.read([tmp_path / "mixed/0"]).runs[0]
  assert comparison.task(run, key) == (100, 0.15, "token", 0.1, 0.0)


def test_layers_are_called_what_they_are(tmp_path):
  for layer, num_layers in ((0, 12), (6, 12), (12, 14), (12, 16)):
    made.run(tmp_path / f"{layer}-{num_layers}", layer=layer,
              **{"model.layers": num_layers})
  series, *_ = series_lib.group(reading.read([tmp_path]).runs, [])
  assert comparison.depths(series[:2]) == {0: "0", 6: "6"}
  assert comparison.depths(series[1:3]) == {6: "6 of 12", 12: "12 of 14"}
  assert comparison.depths(series) == {0: "0", 6: "6", 12: "12"}
