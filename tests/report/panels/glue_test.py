"""GLUE: scores of the pictures and of the tables."""

import json
import statistics

import numpy as np
import pytest

from configs import finetune
from latemask.finetune import grid as grid_lib
from tests.report import made


def test_failed_cells_are_told(tmp_path):
  made.run(tmp_path / "run")
  made.glue(tmp_path / "run/glue", tmp_path / "run", tasks=("cola", "rte"))
  for task, batch_size in (("rte", 16), ("rte", 32), ("cola", 32)):
    for seed in range(3):
      path = tmp_path / f"run/glue/cells/{task}/{batch_size}-{seed}.json"
      path.write_text(json.dumps(json.loads(path.read_text()) | {
          "score": None, "metrics": None,
          "epochs": [{"loss": None, "score": None}]}))
  content, _, text = made.drawn(tmp_path)
  assert content.problems == []
  row, = made.table(text, "## GLUE")
  assert (row["rte"], row["average"]) == ("failed", "–")
  assert "±" in row["cola"]
  assert "6, 3 failed" in text
  assert "- rte, learning rate 1e-05, batch 16, seed 2: epoch 1" in text


def test_glue_table_is_that_of_results(tmp_path):
  run = tmp_path / "runs/run"
  made.run(run)
  made.run(tmp_path / "runs/other", rate=0.15, layer=0)
  first = made.glue(tmp_path / "runs/g1", run)
  made.glue(tmp_path / "runs/g2", tmp_path / "runs/other", 0.7)
  hurt = tmp_path / "runs/g2/cells/cola/16-0.json"
  hurt.write_text(hurt.read_text()[:40])
  content, figures, text = made.drawn(tmp_path / "runs")
  problem, = content.problems
  assert str(hurt) in problem
  assert grid_lib.tabulate(first) in text
  for name, axis in (("glue", "x"), ("frontier_glue", "y")):
    axes = figures[name].axes[0]
    assert getattr(axes, f"get_{axis}lim")()[0] == 0
  # Named and coloured as the run that it began from.
  assert [s.label for s in content.glue_series] == [
      s.label for s in content.series]
  scores = [statistics.median(r["score"] for r in grid_lib.choose(cells))
            for cells in first.values()]
  drawn = [line.get_xdata()[0] for line in figures["glue"].axes[0].lines
           if line.get_color() == content.look.colors[1]
           and len(line.get_xdata()) == 1]
  for score in (*scores, statistics.mean(scores)):
    assert any(x == pytest.approx(100 * score) for x in drawn)


@pytest.mark.slow
def test_glue_of_runs_that_differ_in_their_seed(tmp_path):
  qualities = {(0.15, 0): 0.2, (0.15, 12): 0.4, (0.5, 0): 0.6, (0.5, 12): 0.8}
  cells = {}
  for (rate, layer), quality in qualities.items():
    for seed in (0, 1):
      run = tmp_path / f"runs/{rate}-{layer}-{seed}"
      made.run(run, rate=rate, layer=layer, seed=seed)
      results = made.glue(run / "glue", run, quality + 0.05 * seed)
      cells.setdefault((rate, layer), []).append(results)
  content, figures, text = made.drawn(tmp_path / "runs")
  assert content.problems == []
  rows = made.table(text, "## GLUE")
  assert len(rows) == len(qualities)
  for row, mine in zip(rows, cells.values()):
    assert row["workdirs"] == "2"
    for task in mine[0]:
      both = [r["score"] for r in grid_lib.choose(
          mine[0][task] + mine[1][task])]
      assert len(both) == 6
      assert row[task] == (f"{100 * statistics.median(both):.2f} ± "
                           f"{100 * statistics.stdev(both):.2f}")
  image_RxI = figures["heat_map_glue"].axes[0].images[0].get_array()
  for (row, column), value in np.ndenumerate(image_RxI):
    mine = cells[((0.15, 0.5)[row], (0, 12)[column])]
    assert value == pytest.approx(100 * statistics.mean(
        statistics.median(r["score"] for r in grid_lib.choose(results))
        for found in mine for results in found.values()))


def test_tasks_of_ones_own_are_no_glue(tmp_path):
  """Nor is one of one file that of another."""
  for name, quality in (("a", 0.2), ("b", 0.8)):
    made.run(tmp_path / name, rate=quality)
    made.glue(tmp_path / name / "mine", tmp_path / name, quality, ("classes",))
    path = tmp_path / name / "mine" / "config.json"
    config = json.loads(path.read_text()) | finetune.get_config().to_dict()
    config["data"]["dev"] = f"{name}/dev.csv"
    path.write_text(json.dumps(config | {"init_from": str(tmp_path / name)}))
  content, pictures, text = made.drawn(tmp_path)
  assert not content.glue_averages
  assert "glue" in pictures and "frontier_glue" not in pictures
  row, other = made.table(text, "## Fine-tuning\n")
  assert [row["classes, b/dev.csv"], other["classes, a/dev.csv"]] == ["–", "–"]


def test_one_fine_tuning_workdir_alone(tmp_path):
  made.glue(tmp_path / "g", "nowhere", tasks=("rte",))
  made.glue(tmp_path / "g/hurt", "nowhere", tasks=("cola",))
  (tmp_path / "g/hurt/config.json").write_text('{"task": "cola"}')
  content, figures, _ = made.drawn(tmp_path / "g")
  problem, = content.problems
  assert "hurt/config.json has no init_from" in problem
  assert set(figures) == {"glue"}
