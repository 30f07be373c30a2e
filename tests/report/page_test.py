"""The page: its numbers, and what it says of runs."""

import json
import resource
import statistics
import subprocess
import sys
import time

import pytest

from latemask.report import page as page_lib
from tests.report import made


def test_numbers_of_the_table(sweep, page):
  (records, _), (_, _, text) = sweep, page
  rows = made.table(text, "## Runs")
  assert len(rows) == 4
  for row in rows:
    rate = float(row["`masking.rate`"])
    layer = int(row["`model.insertion_layer`"])
    mine = [r for key, r in records.items() if key[:2] == (rate, layer)]
    assert row["folders"] == ", ".join(
        f"{rate}-{layer}-{seed}" for seed in range(len(mine)))
    finals = [[r for r in run if "eval/loss" in r][-1] for run in mine]
    for column, key in (("held-out loss", "eval/loss"),
                        ("at 15 % masks", "eval/rate_0.15/loss")):
      losses = [final[key] for final in finals]
      assert row[column] == (f"{statistics.mean(losses):.4f} ± "
                             f"{statistics.stdev(losses):.4f}")
    assert float(row["tokens"]) == pytest.approx(12 * 4096 * 128, rel=1e-2)
    assert float(row["FLOPs"]) == 12 * made.STEP_FLOPS
    waits = [statistics.mean(r["data_wait_fraction"] for r in run
                             if "loss" in r) for run in mine]
    assert row["data wait %"] == f"{100 * statistics.mean(waits):.2f}"
    speeds = [statistics.median(r["tokens_per_sec"] for r in run
                                if "tokens_per_sec" in r) for run in mine]
    assert row["tokens/s"] == f"{statistics.mean(speeds):,.0f}"
    assert row["state"] == "finished"


def test_the_best_is_compared_with_vanilla(sweep, page):
  (records, _), (_, _, text) = sweep, page
  means = {}
  for key, run in records.items():
    means.setdefault(key[:2], []).append(
        [r["eval/rate_0.15/loss"] for r in run if "eval/loss" in r][-1])
  means = {key: statistics.mean(losses) for key, losses in means.items()}
  best = min(means, key=means.get)
  told, = (line for line in text.splitlines() if line.startswith("Lowest"))
  assert f"at 15 % masks: **{means[best]:.4f}**" in told
  assert (f"1.000 of the model's FLOPs of #1, a vanilla baseline, which has "
          f"{means[0.15, 0]:.4f}" in told) == (best != (0.15, 0))


@pytest.mark.slow
def test_a_live_run_and_one_that_is_not_finite(tmp_path):
  runs = tmp_path / "runs"
  made.run(runs / "live", upto=7)
  path = runs / "live/metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 8, "loss": 2.')
  made.run(runs / "nan", rate=0.4, upto=3)
  with (runs / "nan/metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "loss": "nan", "accuracy": 0.0}\n')
  made.run(runs / "new", rate=0.3)
  (runs / "new/metrics.jsonl").write_text(
      '{"step": 0, "eval/loss": 9.0, "eval/accuracy": 0.0}\n')
  content, _, text = made.drawn(runs)
  assert content.problems == []
  states = {row["folders"]: row["state"]
            for row in made.table(text, "## Runs")}
  assert states == {"live": "step 7 of 12", "new": "step 0 of 12",
                    "nan": "not finite at step 4"}
  assert "No run has ended yet" in text
  assert ("3 pre-training runs in 3 series: 0 finished, 2 under way or "
          "stopped, 1 whose loss is not finite.") in text
  # Rollbacks are told, and change no count.
  made.run(runs / "back", rate=0.2)
  for name in ("back", "nan"):
    with (runs / name / "metrics.jsonl").open("a") as file:
      file.write('{"step": 3, "rollback": 1, "skipped_rows": 16}\n')
  text = made.drawn(runs)[-1]
  states = {row["folders"]: row["state"]
            for row in made.table(text, "## Runs")}
  assert states["back"] == "finished, 1 rollbacks"
  assert states["nan"] == "not finite at step 4, 1 rollbacks"
  assert ("4 pre-training runs in 4 series: 1 finished, 2 under way or "
          "stopped, 1 whose loss is not finite.") in text


@pytest.mark.parametrize("rows, names_it", [(99, False), (100, True)])
def test_few_held_out_rows_name_no_winner(tmp_path, rows, names_it):
  for i, steps in enumerate((12, 16, 20)):
    made.run(tmp_path / str(i), steps, layer=i)
    path = tmp_path / str(i) / "metrics.jsonl"
    path.write_text("".join(json.dumps(record | (
        {"eval/rows": rows, "eval/hidden_fraction": 0.5312}
        if "eval/loss" in record else {})) + "\n" for record in map(
            json.loads, path.read_text().splitlines())))
  text = made.drawn(tmp_path)[-1]
  assert ("Lowest held-out loss" in text) == names_it
  assert ("fewer than 100" in text) != names_it
  row, *_ = made.table(text, "## Runs")
  assert row["masks % (of the row, of what can be)"] == "50, 53.1"


def test_a_panel_is_drawn_where_its_needs_are_met(page, monkeypatch):
  """And left out where a need is empty, or where it knows too little."""
  content, asked = page[0], []

  def panel(name, needs, drawn):
    return page_lib.Panel(
        name, needs, lambda content: asked.append(name) or drawn)

  monkeypatch.setattr(page_lib, "_ROWS", (
      (panel("a_picture", ("series", "is_one_text"), ("figure", "Said.")),
       panel("too_little", ("series",), None)),
      (panel("no_glue", ("series", "glue_series"), ("figure", "GLUE.")),)))
  pictures = page_lib.draw(content)
  assert pictures == {"a_picture": ("figure", "Said.")}
  assert asked == ["a_picture", "too_little"]
  text = page_lib.text(content, pictures)
  assert "*a picture*: Said." in text and '"a_picture.png"' in text
  assert "GLUE" not in text and "too" not in text


@pytest.mark.long
def test_two_hundred_runs(tmp_path):
  """Of 10,000 lines each, 0.5 GB in all: `--durations` has the time."""
  for number in range(200):
    made.run(tmp_path / f"runs/{number}", 10_000, seed=number % 2,
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
