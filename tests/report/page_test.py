"""Reports of generated runs: numbers, pictures, damage, refusals, ranks."""

import json
import math
import resource
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree

import jax
import jax.numpy as jnp
from matplotlib import image
import ml_collections
import numpy as np
import pytest

from configs import base
from configs import glue as glue_config
from latemask.checkpoint import checkpoints as checkpoints_lib
from latemask.data import prepare as prepare_lib
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.finetune import grid as grid_lib
from latemask.hub import pretrained
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.model import attention
from latemask.model import encoder
from latemask.model import layers
from latemask.report import comparison
from latemask.report import effective_rank
from latemask.report import folder as report_folder
from latemask.report import look as report_look
from latemask.report import page as page_lib
from latemask.report import reading
from latemask.report import runs as runs_lib
from latemask.report import series as series_lib
from latemask.runtime import mesh as mesh_lib
from latemask.tools import report
from latemask.train import step as step_lib
from tests import conftest

_STEP_FLOPS = 7.0


def _make_run(path, num_lines=12, upto=None, rate=0.5, layer=12, seed=0,
              **overrides):
  """Writes a run; returns the records of its metrics.jsonl."""
  config = base.get_config("base")
  config.masking.rate, config.model.insertion_layer = rate, layer
  config.seed, config.train.num_steps = seed, num_lines
  config.update_from_flattened_dict(overrides)
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(config.to_dict()))
  rng = np.random.default_rng([seed, layer, round(100 * rate)])
  records = []
  for step in range((upto or num_lines) + 1):
    if step % 4 == 0:
      loss = 2 + rng.random()
      records.append({"step": step, "eval/loss": loss, "eval/accuracy": 0.25,
                      "eval/rate_0.15/loss": loss / 2})
    if step:
      records.append({
          "step": step, "loss": 2 + rng.random(), "accuracy": rng.random(),
          "data_wait_fraction": rng.random() / 10,
          "flops": step * _STEP_FLOPS} | (
              {"tokens_per_sec": 100 + rng.random()} if step > 1 else {}))
  (path / "metrics.jsonl").write_text(
      "".join(json.dumps(r) + "\n" for r in records))
  return records


def _make_glue(path, init_from, quality=0.5, tasks=("cola", "mrpc", "mnli"),
               **overrides):
  """Writes a fine-tuning workdir; returns {task: results}."""
  config = glue_config.get_config()
  config.init_from = str(init_from)
  config.update_from_flattened_dict(overrides)
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(config.to_dict()))
  rng = np.random.default_rng(3)
  made = {}
  for task in tasks:
    (path / "cells" / task).mkdir(parents=True)
    for batch_size in (16, 32):
      for seed in range(3):
        metrics = {"a": quality + 0.1 * rng.random(),
                   "b": quality + 0.1 * rng.random()}
        result = {"task": task, "batch_size": batch_size,
                  "learning_rate": 1e-5, "seed": seed, "metrics": metrics,
                  "score": statistics.mean(metrics.values())}
        made.setdefault(task, []).append(result)
        (path / "cells" / task / f"{batch_size}-{seed}.json").write_text(
            json.dumps(result))
  return made


def _table(text, heading):
  """Returns the rows of the table after a heading, as dicts."""
  lines = iter(text.split(heading)[1].splitlines())
  rows = []
  for line in lines:
    if line.startswith("|"):
      rows.append([cell.strip() for cell in line.strip("|").split("|")])
    elif rows:
      break
  return [dict(zip(rows[0], row)) for row in rows[2:]]


def _check_pictures(out):
  """Every picture of the page is there, as a PNG and an SVG that are whole."""
  text = (out / "report.md").read_text()
  names = {path.stem for path in out.iterdir()} - {"report"}
  assert names == {n for n in page_lib.PICTURES if f'"{n}.png"' in text}
  for name in names:
    pixels = image.imread(out / f"{name}.png")
    assert pixels.shape[1] == round(300 * report_look.WIDTH_INCHES)
    assert np.ptp(pixels[..., :3]) > 0.5  # Not blank.
    root = xml.etree.ElementTree.parse(out / f"{name}.svg").getroot()
    assert root.tag.endswith("svg")
  return names


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
  """(records by (rate, layer, seed), page, folder) of a 2 x 2 sweep."""
  folder = tmp_path_factory.mktemp("sweep")
  records = {}
  for rate in (0.15, 0.5):
    for layer in (0, 12):
      for seed in (0, 1, 2):
        if (rate, layer, seed) != (0.5, 12, 2):  # One cell has two seeds.
          records[rate, layer, seed] = _make_run(
              folder / f"runs/deep/{rate}-{layer}-{seed}", rate=rate,
              layer=layer, seed=seed)
  out = folder / "out"
  assert report_folder.write([folder / "runs"], out) == []
  return records, (out / "report.md").read_text(), out


def test_numbers_of_the_table(sweep):
  records, text, _ = sweep
  rows = _table(text, "## Runs")
  assert len(rows) == 4
  for row in rows:
    rate = float(row["`masking.rate`"])
    layer = int(row["`model.insertion_layer`"])
    mine = [r for key, r in records.items() if key[:2] == (rate, layer)]
    assert row["runs"].startswith(f"{len(mine)}: ")
    finals = [[r for r in run if "eval/loss" in r][-1] for run in mine]
    for column, key in (("held-out loss", "eval/loss"),
                        ("at 15 % masks", "eval/rate_0.15/loss")):
      losses = [final[key] for final in finals]
      assert row[column] == (f"{statistics.mean(losses):.4f} ± "
                             f"{statistics.stdev(losses):.4f}")
    assert float(row["tokens"]) == pytest.approx(12 * 4096 * 128, rel=1e-2)
    assert float(row["FLOPs"]) == 12 * _STEP_FLOPS
    waits = [statistics.mean(r["data_wait_fraction"] for r in run
                             if "loss" in r) for run in mine]
    assert row["data wait %"] == f"{100 * statistics.mean(waits):.2f}"
    speeds = [statistics.median(r["tokens_per_sec"] for r in run
                                if "tokens_per_sec" in r) for run in mine]
    assert row["tokens/s"] == f"{statistics.mean(speeds):,.0f}"
    assert row["state"] == "finished"


def test_heat_map_and_frontier(sweep):
  records, _, out = sweep
  found = reading.read([out.parent / "runs"])
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


def test_the_best_is_compared_with_vanilla(sweep):
  records, text, _ = sweep
  means = {}
  for key, run in records.items():
    means.setdefault(key[:2], []).append(
        [r["eval/rate_0.15/loss"] for r in run if "eval/loss" in r][-1])
  means = {key: statistics.mean(losses) for key, losses in means.items()}
  best = min(means, key=means.get)
  told, = (line for line in text.splitlines() if line.startswith("Lowest"))
  assert f"at 15 % masks: **{means[best]:.4f}**" in told
  assert (f"1.000 of the FLOPs of the vanilla baseline, which has "
          f"{means[0.15, 0]:.4f}" in told) == (best != (0.15, 0))


def test_pictures_of_a_sweep(sweep):
  assert _check_pictures(sweep[2]) == {
      "frontier", "heat_map", "loss_steps", "loss_tokens", "loss_flops",
      "accuracy", "throughput"}


def test_axes_curves_and_look(sweep):
  found = reading.read([sweep[2].parent / "runs"])
  page = page_lib.Page(found)
  with report_look.style():
    page.draw()
  ends = {}
  for name in ("steps", "tokens", "flops"):
    top, bottom = page.figures[f"loss_{name}"].axes
    assert len(top.lines) == len(bottom.lines) == 4
    assert len(top.collections) == 4  # Bands over seeds.
    ends[name] = max(line.get_xdata()[-1] for line in top.lines)
    assert bottom.get_xlabel() and "nats" in bottom.get_ylabel()
  assert ends["steps"] == 12
  assert ends["tokens"] == pytest.approx(12 * 4096 * 128 / 1e6)
  assert ends["flops"] == 12 * _STEP_FLOPS
  for fig in page.figures.values():
    assert fig.get_size_inches()[0] == report_look.WIDTH_INCHES
    for ax in fig.axes:
      assert all(text.get_fontsize() >= 7 for text in ax.findobj(
          lambda artist: hasattr(artist, "get_fontsize")))
  assert len(set(page._look.colors)) == 4


def test_the_mean_curve_is_that_of_its_seeds(tmp_path):
  records = [_make_run(tmp_path / str(seed), seed=seed, upto=upto)
             for seed, upto in ((0, None), (1, 8))]
  found = reading.read([tmp_path])
  (series,), _, _ = series_lib.group(found.runs, [])
  x, mean, low, high = series_lib.curve(
      series, lambda run: 2.0, "train", "loss")
  first, second = ([r["loss"] for r in run if "loss" in r] for run in records)
  np.testing.assert_array_equal(x, 2.0 * np.arange(1, 13))
  np.testing.assert_allclose(
      mean[:8], np.mean([first[:8], second], axis=0))
  np.testing.assert_allclose(mean[8:], first[8:])
  np.testing.assert_allclose(low[:8], np.minimum(first[:8], second))
  np.testing.assert_allclose(high[:8], np.maximum(first[:8], second))


def test_thinning_keeps_the_mean_and_passes_over_what_is_not_finite():
  rng = np.random.default_rng(0)
  y = rng.random(1003)
  y[[5, 700]] = np.nan, np.inf
  y[300:310] = np.nan
  thinned = runs_lib.thin({"step": np.arange(1003.0), "y": y}, 100)
  assert len(thinned["step"]) == len(thinned["y"]) == 100
  edges = np.linspace(0, 1003, 101).astype(int)
  for i, (start, stop) in enumerate(zip(edges, edges[1:])):
    part = y[start:stop]
    if np.isfinite(part).any():
      assert thinned["y"][i] == pytest.approx(
          part[np.isfinite(part)].mean())
    assert start <= thinned["step"][i] < stop


def test_damage_is_told_and_left_out(tmp_path, monkeypatch, capsys):
  runs = tmp_path / "runs"
  _make_run(runs / "good")
  _make_run(runs / "gone", rate=0.4)
  (runs / "gone/metrics.jsonl").write_bytes(b"\0\xff" * 99 + b"\nrubbish\n")
  _make_run(runs / "config", rate=0.3)
  (runs / "config/config.json").write_text("{")
  _make_run(runs / "old", rate=0.2)
  (runs / "old/config.json").write_text('{"seed": 0}')
  _make_run(runs / "empty", rate=0.1)
  (runs / "empty/metrics.jsonl").write_text("")
  _make_run(runs / "hurt", rate=0.45)
  path = runs / "hurt/metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  lines[5:7] = ['{"step": 1, "lo\n', "[1]\n", '{"step": 2, "loss": []}\n']
  path.write_text("".join(lines))
  monkeypatch.setattr(
      sys, "argv", ["report", str(runs), "--out", str(tmp_path / "out")])
  report.main()
  text = (tmp_path / "out/report.md").read_text()
  for told in (text, capsys.readouterr().err):
    for name, why in (("gone/metrics.jsonl", "none of its 2 lines"),
                      ("config/config.json", "cannot be read"),
                      ("old/config.json", "has no masking.rate"),
                      ("empty/metrics.jsonl", "no line so far"),
                      ("hurt/metrics.jsonl",
                       f"3 of {len(lines)} lines cannot be read")):
      assert any(name in line and why in line for line in told.splitlines()), (
          name, told)
  assert [row["runs"] for row in _table(text, "## Runs")] == [
      "1: hurt", "1: good"]
  _check_pictures(tmp_path / "out")


def test_a_live_run_and_one_that_is_not_finite(tmp_path):
  runs = tmp_path / "runs"
  _make_run(runs / "live", upto=7)
  path = runs / "live/metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 8, "loss": 2.')
  _make_run(runs / "nan", rate=0.4, upto=3)
  with (runs / "nan/metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "loss": "nan", "accuracy": 0.0}\n')
  _make_run(runs / "new", rate=0.3)
  (runs / "new/metrics.jsonl").write_text(
      '{"step": 0, "eval/loss": 9.0, "eval/accuracy": 0.0}\n')
  assert report_folder.write([runs], tmp_path / "out") == []
  text = (tmp_path / "out/report.md").read_text()
  states = {row["runs"]: row["state"] for row in _table(text, "## Runs")}
  assert states == {"1: live": "step 7 of 12", "1: new": "step 0 of 12",
                    "1: nan": "not finite at step 4"}
  assert "No run has ended yet" in text
  assert ("3 pre-training runs in 3 series: 0 finished, 2 under way or "
          "stopped, 1 whose loss is not finite.") in text
  _check_pictures(tmp_path / "out")
  # Rollbacks are told, and change no count.
  _make_run(runs / "back", rate=0.2)
  for name in ("back", "nan"):
    with (runs / name / "metrics.jsonl").open("a") as file:
      file.write('{"step": 3, "rollback": 1, "skipped_rows": 16}\n')
  report_folder.write([runs], tmp_path / "out")
  text = (tmp_path / "out/report.md").read_text()
  states = {row["runs"]: row["state"] for row in _table(text, "## Runs")}
  assert states["1: back"] == "finished, 1 rollbacks"
  assert states["1: nan"] == "not finite at step 4, 1 rollbacks"
  assert ("4 pre-training runs in 4 series: 1 finished, 2 under way or "
          "stopped, 1 whose loss is not finite.") in text


def test_what_is_drawn_over_depends_on_whether_runs_cost_the_same(tmp_path):
  for rate in (0.15, 0.3, 0.5):
    for layer in (0, 6):
      _make_run(tmp_path / f"same/{rate}-{layer}", rate=rate, layer=layer)
    _make_run(tmp_path / f"more/{rate}", round(100 * rate), rate=rate)
  texts = {}
  for name in ("same", "more"):
    assert report_folder.write([tmp_path / name], tmp_path / f"out-{name}") == []
    assert "frontier" in _check_pictures(tmp_path / f"out-{name}")
    texts[name] = (tmp_path / f"out-{name}/report.md").read_text()
  # The colour of points is that of the key of more values.
  assert "against insertion layer, mean and" in texts["same"]
  assert "against the FLOPs spent on it" in texts["more"]
  series, *_ = series_lib.group(
      reading.read([tmp_path / "same"]).runs, [])
  key, values, groups = comparison.equal_compute(series)
  assert key == "model.insertion_layer"
  assert values == [0, 6] * 3
  assert groups == [(0.15,)] * 2 + [(0.3,)] * 2 + [(0.5,)] * 2
  page = page_lib.Page(reading.read([tmp_path / "same"]))
  with report_look.style():
    page.draw()
  axes = page.figures["frontier"].axes[0]
  assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "6"]
  for s in series:
    mean, *_ = s.scalar(comparison.final("eval/rate_0.15/loss"))
    x, = (line.get_xdata()[0] for line in axes.lines
          if len(line.get_xdata()) == 1 and line.get_ydata()[0] == mean)
    assert round(x) == [0, 6].index(s.values["model.insertion_layer"])


def _page(folder):
  """Returns the page of the runs in a folder, drawn."""
  page = page_lib.Page(reading.read([folder]))
  with report_look.style():
    page.draw()
  return page


def _joined(figure):
  """Returns the lines of a picture that join points, as sets of heights."""
  return [set(line.get_ydata()) for line in figure.axes[0].lines
          if len(line.get_xdata()) > 1 and len(set(line.get_ydata())) > 1]


@pytest.mark.parametrize("is_equal", [True, False])
def test_runs_of_other_texts_are_not_joined(tmp_path, is_equal):
  """At equal compute or not; nor is one of them called the best."""
  for text in "ab":
    for rate in (0.3, 0.5):
      _make_run(tmp_path / f"{text}{rate}",
                12 if is_equal else round(40 * rate), rate=rate, layer=6,
                **{"data.source": f"text:{text}"})
  page = _page(tmp_path)
  text = page.text()
  assert "of 2 texts or tokenizers" in text and "Lowest" not in text
  assert "heat_map" not in page.figures
  losses = [{s.scalar(comparison.final("eval/rate_0.15/loss"))[0]
             for s in page._series if s.runs[0].config["data.source"] == source}
            for source in ("text:a", "text:b")]
  for line in _joined(page.figures["frontier"]):
    assert any(line <= mine for mine in losses)
  if is_equal:
    assert len(_joined(page.figures["frontier"])) == 2


def test_rows_tell_texts_apart_where_they_lie(tmp_path):
  """Other names of the same rows are one text, other rows of a name two."""
  for name, digest in (("a", "x"), ("b", "x"), ("c", "y")):
    _make_run(tmp_path / name, **{"data.source": f"text:{name}"[:5]})
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
  assert comparison.task(run, key) == (0.15, "token", 0.1, 0.0)


def _runs(folder, *overrides):
  for i, override in enumerate(overrides):
    _make_run(folder / str(i), **override)
  return reading.read([folder]).runs


@pytest.mark.parametrize("rows, names_it", [(99, False), (100, True)])
def test_few_held_out_rows_name_no_winner(tmp_path, rows, names_it):
  for i, steps in enumerate((12, 16, 20)):
    _make_run(tmp_path / str(i), steps, layer=i)
    path = tmp_path / str(i) / "metrics.jsonl"
    path.write_text("".join(json.dumps(record | (
        {"eval/rows": rows, "eval/hidden_fraction": 0.5312}
        if "eval/loss" in record else {})) + "\n" for record in map(
            json.loads, path.read_text().splitlines())))
  text = _page(tmp_path).text()
  assert ("Lowest held-out loss" in text) == names_it
  assert ("fewer than 100" in text) != names_it
  row, *_ = _table(text, "## Runs")
  assert row["masks % (of the row, of what can be)"] == "50, 53.1"


def test_failed_cells_are_told(tmp_path):
  _make_run(tmp_path / "run")
  _make_glue(tmp_path / "run/glue", tmp_path / "run", tasks=("cola", "rte"))
  for task, batch_size in (("rte", 16), ("rte", 32), ("cola", 32)):
    for seed in range(3):
      path = tmp_path / f"run/glue/cells/{task}/{batch_size}-{seed}.json"
      path.write_text(json.dumps(json.loads(path.read_text()) | {
          "score": None, "metrics": None,
          "epochs": [{"loss": None, "score": None}]}))
  page = _page(tmp_path)
  assert page.problems == []
  text = page.text()
  row, = _table(text, "## GLUE")
  assert (row["rte"], row["average"]) == ("failed", "–")
  assert "±" in row["cola"]
  assert "6, 3 failed" in text
  assert "- rte, learning rate 1e-05, batch 16, seed 2: epoch 1" in text


def test_layers_are_called_what_they_are(tmp_path):
  for layer, num_layers in ((0, 12), (6, 12), (12, 14), (12, 16)):
    _make_run(tmp_path / f"{layer}-{num_layers}", layer=layer,
              **{"model.layers": num_layers})
  series, *_ = series_lib.group(reading.read([tmp_path]).runs, [])
  assert comparison.depths(series[:2]) == {0: "0", 6: "6"}
  assert comparison.depths(series[1:3]) == {6: "6 of 12", 12: "12 of 14"}
  assert comparison.depths(series) == {0: "0", 6: "6", 12: "12"}


def test_glue_table_is_that_of_results(tmp_path):
  run = tmp_path / "runs/run"
  _make_run(run)
  _make_run(tmp_path / "runs/other", rate=0.15, layer=0)
  made = _make_glue(tmp_path / "runs/g1", run)
  _make_glue(tmp_path / "runs/g2", tmp_path / "runs/other", 0.7)
  hurt = tmp_path / "runs/g2/cells/cola/16-0.json"
  hurt.write_text(hurt.read_text()[:40])
  out = tmp_path / "out"
  problem, = report_folder.write([tmp_path / "runs"], out)
  assert str(hurt) in problem
  text = (out / "report.md").read_text()
  assert grid_lib.tabulate(made) in text
  assert {"glue", "frontier_glue"} <= _check_pictures(out)
  page = page_lib.Page(reading.read([tmp_path / "runs"]))
  # Named and coloured as the run that it began from.
  assert [s.label for s in page._glue_series] == [s.label
                                                  for s in page._series]
  with report_look.style():
    page.draw()
  scores = [statistics.median(r["score"] for r in grid_lib.choose(cells))
            for cells in made.values()]
  drawn = [line.get_xdata()[0] for line in page.figures["glue"].axes[0].lines
           if line.get_color() == page._look.colors[1] and len(line.get_xdata())
           == 1]
  for score in (*scores, statistics.mean(scores)):
    assert any(x == pytest.approx(100 * score) for x in drawn)


def test_glue_of_runs_that_differ_in_their_seed(tmp_path):
  qualities = {(0.15, 0): 0.2, (0.15, 12): 0.4, (0.5, 0): 0.6, (0.5, 12): 0.8}
  cells = {}
  for (rate, layer), quality in qualities.items():
    for seed in (0, 1):
      run = tmp_path / f"runs/{rate}-{layer}-{seed}"
      _make_run(run, rate=rate, layer=layer, seed=seed)
      made = _make_glue(run / "glue", run, quality + 0.05 * seed)
      cells.setdefault((rate, layer), []).append(made)
  out = tmp_path / "out"
  assert report_folder.write([tmp_path / "runs"], out) == []
  assert {"glue", "heat_map_glue"} <= _check_pictures(out)
  rows = _table((out / "report.md").read_text(), "## GLUE")
  assert len(rows) == len(qualities)
  for row, mine in zip(rows, cells.values()):
    assert row["workdirs"] == "2"
    for task in mine[0]:
      both = [r["score"] for r in grid_lib.choose(
          mine[0][task] + mine[1][task])]
      assert len(both) == 6
      assert row[task] == (f"{100 * statistics.median(both):.2f} ± "
                           f"{100 * statistics.stdev(both):.2f}")
  page = page_lib.Page(reading.read([tmp_path / "runs"]))
  with report_look.style():
    page.draw()
  image_RxI = page.figures["heat_map_glue"].axes[0].images[0].get_array()
  for (row, column), value in np.ndenumerate(image_RxI):
    mine = cells[((0.15, 0.5)[row], (0, 12)[column])]
    assert value == pytest.approx(100 * statistics.mean(
        statistics.median(r["score"] for r in grid_lib.choose(results))
        for made in mine for results in made.values()))


def test_one_fine_tuning_workdir_alone(tmp_path):
  _make_glue(tmp_path / "g", "nowhere", tasks=("rte",))
  _make_glue(tmp_path / "g/hurt", "nowhere", tasks=("cola",))
  (tmp_path / "g/hurt/config.json").write_text('{"task": "cola"}')
  problem, = report_folder.write([tmp_path / "g"], tmp_path / "out")
  assert "hurt/config.json has no init_from" in problem
  assert _check_pictures(tmp_path / "out") == {"glue"}


def test_names_are_what_differs(tmp_path):
  def name(columns=(), **runs):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    for run, overrides in runs.items():
      _make_run(folder / run, **overrides)
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


def test_many_series_have_a_colour_bar(tmp_path):
  for i, rate in enumerate((0.1, 0.2, 0.3, 0.4, 0.5)):
    for layer in (4, 12):
      _make_run(tmp_path / f"{i}-{layer}", rate=rate, layer=layer)
  found = reading.read([tmp_path])
  series, _, _ = series_lib.group(found.runs, [])
  looks = report_look.look(series)
  assert looks.bar[1] == "mask rate"
  assert [name for _, name in looks.handles] == [
      "insertion layer 4", "insertion layer 12"]
  assert len(set(map(tuple, looks.colors))) == 5
  for s, color in zip(series, looks.colors):
    same = series[0].values["masking.rate"] == s.values["masking.rate"]
    assert (tuple(color) == tuple(looks.colors[0])) == same


def test_refusals(tmp_path, monkeypatch, capsys):
  runs, out = tmp_path / "runs", tmp_path / "out"
  _make_run(runs / "run")
  (tmp_path / "none").mkdir()

  def refused(*args):
    monkeypatch.setattr(sys, "argv", ["report", *map(str, args)])
    with pytest.raises(SystemExit) as ending:
      report.main()
    assert ending.value.code == 2
    line, = capsys.readouterr().err.splitlines()[-1:]
    return line

  assert "no run in" in refused(tmp_path / "none", "--out", out)
  assert "is no folder" in refused(tmp_path / "nowhere", "--out", out)
  assert not out.exists()
  before = {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}
  assert "something else" in refused(runs, "--out", runs / "run")
  assert "something else" in refused(runs, "--out", runs)
  out.mkdir()
  (out / "report.md").write_text("my own\n")
  assert "something else" in refused(runs, "--out", out)
  (out / "report.md").unlink()
  (out / "file").write_text("")
  assert "is no folder" in refused(runs, "--out", out / "file")
  (out / "file").unlink()
  assert "must be positive" in refused(runs, "--out", out, "--rank_rows", 0)
  (tmp_path / "hurt").mkdir()
  (tmp_path / "hurt/config.json").write_text("{")
  (tmp_path / "hurt/metrics.jsonl").write_text("")
  assert "no run can be used" in refused(tmp_path / "hurt", "--out", out)
  assert before == {p: p.read_bytes() for p in runs.rglob("*")
                    if p.is_file()}
  # An earlier report is written anew, and no stale picture stays.
  runs = tmp_path / "fine"
  _make_glue(runs, "nowhere", tasks=("rte",))
  report_folder.write([runs], out)
  first = {p.name: p.read_bytes() for p in out.iterdir()}
  (out / "rank.png").write_text("of an earlier report")
  report_folder.write([runs], out)
  assert first == {p.name: p.read_bytes() for p in out.iterdir()}
  (out / "notes.txt").write_text("mine")
  with pytest.raises(errors.InputError, match="notes.txt"):
    report_folder.write([runs], out)


def test_effective_rank_of_known_matrices():
  rng = np.random.default_rng(0)
  orthogonal, _ = np.linalg.qr(rng.normal(size=(50, 7)))
  assert effective_rank.effective_rank(orthogonal) == pytest.approx(7)
  assert effective_rank.effective_rank(3 * orthogonal.T) == pytest.approx(7)
  assert effective_rank.effective_rank(np.outer(rng.normal(size=40), rng.normal(
      size=9))) == pytest.approx(1, abs=1e-6)
  assert effective_rank.effective_rank(np.zeros((4, 3))) == 0
  # Singular values 3 and 1: entropy of (3/4, 1/4).
  assert effective_rank.effective_rank(np.diag([3.0, 1.0])) == pytest.approx(
      math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def _by_hand(config, params, masked):
  """Returns [kept; slots] after each layer, by layers.py alone."""
  layer = layers.Layer(config.layer, False, parent=None)
  model = encoder.LateMaskModel(config)
  tables = params["early"]["layers"], params["late"]["layers"]

  def one(table, index):
    return {"params": jax.tree.map(lambda x: x[index], table)}

  def embed(bound, vector, position):
    return bound._embed(vector, position, False)

  kept = model.apply(
      {"params": params}, params["embedding"][masked.kept_ids_BxK],
      masked.kept_position_BxK, method=embed)
  slots = model.apply(
      {"params": params}, params["mask_vector"][None, None],
      masked.slot_position_BxQ, method=embed)
  states = [kept]
  place = attention.place(config.layer, masked.kept_position_BxK,
                          masked.kept_segment_BxK, config.rotary_theta)
  for index in range(config.insertion_layer):
    states.append(layer.apply(one(tables[0], index), states[-1], place,
                              is_first=index == 0))
  both = jnp.concatenate([states[-1], slots], axis=1)
  place = attention.place(
      config.layer, jnp.concatenate(
          [masked.kept_position_BxK, masked.slot_position_BxQ], 1),
      jnp.concatenate([masked.kept_segment_BxK, masked.slot_segment_BxQ], 1),
      config.rotary_theta)
  late = [both]
  for index in range(config.layers - config.insertion_layer):
    late.append(layer.apply(one(tables[1], index), late[-1], place,
                            is_first=False))
  return states, late


def _tiny(source="builtin"):
  config = conftest.tiny_config(source)
  config.model.layers, config.model.insertion_layer = 3, 1
  config.train.num_steps, config.optimizer.warmup_fraction = 2, 0.5
  return config


@pytest.fixture(scope="module")
def saved(tmp_path_factory, packed_dir, corpus):
  """The workdir of a run of one early and two late layers, saved."""
  config = _tiny(f"text:{corpus}/*.txt")
  config.data.dir = str(packed_dir)
  packed = prepare_lib.prepare(config, packed_dir)
  mesh = jax.make_mesh((1, 1, 1), mesh_lib.AXES, devices=jax.devices()[:1],
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)
  program = step_lib.build(config, packed.tokenizer.vocab_size, mesh=mesh)
  # As if trained for long: weights that tell contexts apart.
  state = program.init_state()
  state = state.replace(params=jax.tree.map(lambda x: 8 * x, state.params))
  workdir = tmp_path_factory.mktemp("saved") / "run"
  _make_run(workdir, num_lines=2)
  (workdir / "config.json").write_text(json.dumps(config.to_dict()))
  checkpoints = checkpoints_lib.Checkpoints(workdir, config, packed)
  checkpoints.save(2, checkpoints_lib.Progress(state))
  checkpoints.wait()
  checkpoints.close()
  return workdir


@pytest.fixture(scope="module")
def found(saved):
  """`Ranks` of 21 held-out rows of the saved run."""
  return effective_rank.measure(saved, 21)


def test_rank_of_a_saved_model_equals_numpy(saved, found):
  loaded = pretrained.load(saved)
  config = json.loads((saved / "config.json").read_text())
  ids_NxL = effective_rank.held_out(saved, ml_collections.ConfigDict(config), 21)
  assert len(ids_NxL) == 21  # Two batches of the analysis.
  plan = plan_lib.make_plan(
      _tiny(), loaded.tokenizer.vocab_size, rate=0.5)
  masked = jax.jit(lambda ids_NxL: selection.mask_batch(
      plan, jax.random.key(effective_rank._KEY), jnp.arange(21), ids_NxL))(ids_NxL)
  states, late = jax.jit(lambda params, masked: _by_hand(
      loaded.config, params, masked))(loaded.params, masked)
  num_kept = plan.num_kept
  is_real = np.asarray((masked.kept_ids_BxK >= specials.NUM_SPECIALS)
                       & (masked.kept_segment_BxK > 0))
  is_slot = np.asarray(masked.slot_segment_BxQ > 0)

  def by_numpy(matrix):
    values = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    share = values / values.sum()
    return np.exp(-(share * np.log(share)).sum())

  real = [np.asarray(x)[is_real] for x in states] + [
      np.asarray(x[:, :num_kept])[is_real] for x in late[1:]]
  slots = [np.asarray(x[:, num_kept:])[is_slot] for x in late]
  assert found.num_tokens == is_real.sum() > found.width
  np.testing.assert_allclose(
      found.masked, [by_numpy(x) for x in real], rtol=1e-4)
  np.testing.assert_allclose(
      found.slots[1:], [by_numpy(x) for x in slots], rtol=1e-4)
  np.testing.assert_allclose(found.both[1:], [
      by_numpy(np.concatenate(pair)) for pair in zip(real[1:], slots)],
                             rtol=1e-4)
  assert np.isnan(found.slots[:1]).all() and np.isnan(found.both[:1]).all()
  # The same tokens at the embeddings, other contexts after that.
  assert found.unmasked[0] == pytest.approx(found.masked[0], rel=1e-5)
  assert np.all(np.abs(found.unmasked[1:] / found.masked[1:] - 1) > 1e-4)


@pytest.mark.parametrize("layer, decoder", [(0, "self"), (1, "cross")])
def test_rank_of_every_kind_of_model(layer, decoder):
  tiny = _tiny()
  tiny.model.layers = 2
  tiny.model.insertion_layer, tiny.model.decoder = layer, decoder
  model = encoder.make_model(tiny, 320)
  plan = plan_lib.make_plan(tiny, 320)
  ids_BxL = conftest.random_rows(4, tiny.data.length)
  params = jax.jit(lambda: model.init(jax.random.key(1), selection.mask_batch(
      plan, jax.random.key(0), np.arange(4), jnp.asarray(ids_BxL))))()["params"]
  found = effective_rank.measure_rows(model.config, params, plan, np.asarray(ids_BxL))
  known = layer + 1 if decoder == "cross" else 3
  for name in ("unmasked", "masked"):
    values = getattr(found, name)
    assert np.isfinite(values[:known]).all() and np.isnan(values[known:]).all()
    assert np.all((values[:known] >= 1) & (values[:known] <= 16))
  assert np.isfinite(found.slots).sum() == (
      0 if decoder == "cross" else 3 - layer)


def test_report_with_rank(saved, found, tmp_path):
  bare = tmp_path / "bare"
  _make_run(bare, rate=0.4)
  problem, = report_folder.write([saved, bare], tmp_path / "out", ["rank"], 21)
  assert f"no effective rank of {bare}" in problem
  assert "rank" in _check_pictures(tmp_path / "out")
  rows = _table((tmp_path / "out/report.md").read_text(),
                "## Effective rank")
  assert [row["half masked"] for row in rows] == [
      f"{v:.1f}" for v in found.masked]
  assert rows[0]["slots"] == "–"


@pytest.mark.long
def test_two_hundred_runs(tmp_path):
  """Of 10,000 lines each, 0.5 GB in all: `--durations` has the time."""
  for number in range(200):
    _make_run(tmp_path / f"runs/{number}", 10_000, seed=number % 2,
              rate=(number // 2 % 10 + 1) / 20, layer=number // 20)
  start_secs = time.monotonic()
  done = subprocess.run(
      [sys.executable, "-m", "latemask.tools.report", str(tmp_path / "runs"),
       "--out", str(tmp_path / "out")], capture_output=True, text=True)
  print(f"{time.monotonic() - start_secs:.1f} s")
  assert done.returncode == 0, done.stderr
  assert "200 pre-training runs in 100 series: 200 finished" in (
      tmp_path / "out/report.md").read_text()
  peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
  print(f"{peak_bytes / 1e9:.2f} GB")
  assert peak_bytes < 2e9
