"""Compute to the same loss: crossings by hand, and names of baselines."""

import json
import math

import numpy as np
import pytest

from latemask import errors
from latemask.report import content as content_lib
from latemask.report import look as look_lib
from latemask.report import page as page_lib
from latemask.report import reading
from latemask.report import scores
from latemask.tools import report
from tests import conftest
from tests.report import made

_KEY = "eval/rate_0.15/loss"


def _run(path, losses, flops=7.0, speed=100.0, optimizer=1.0, rows=500.0,
         **keys):
  """A run of eight steps with losses at 15 % masks at steps 0, 4 and 8."""
  made.run(path, 8, **keys)
  records = []
  for step in range(9):
    if step % 4 == 0:
      records.append({"step": step, "eval/loss": 9.0, "eval/rows": rows,
                      _KEY: losses[step // 4]})
    if step:
      records.append({"step": step, "loss": 5.0, "flops": step * flops,
                      "all_flops": step * (flops + optimizer),
                      "tokens_per_sec": speed, "devices": 4, "watts": 1800})
  (path / "metrics.jsonl").write_text(
      "".join(json.dumps(r) + "\n" for r in records))


@pytest.fixture
def runs(tmp_path):
  _run(tmp_path / "old", [6.0, 4.0, 3.0], rate=0.15, layer=0)
  # Between steps 4 and 8, halfway; at half the speed, for half the FLOPs, and
  # with an optimizer that takes three times as many.
  _run(tmp_path / "new-0", [6.0, 4.0, 2.0], 3.5, 50.0, 3.0)
  _run(tmp_path / "new-1", [6.0, 4.0, 3.5], 3.5, 50.0, 3.0, seed=1)
  _run(tmp_path / "worse", [6.0, 5.0, 4.0], rate=0.9)
  return tmp_path


def _content(folder, name):
  return content_lib.gather(reading.read([folder]), baseline=name)


def test_series_without_a_name_are_drawn_and_counted(runs):
  """So that a rival that loses is not left out without a word."""
  for i in range(7):
    _run(runs / f"other-{i}", [6.0, 5.0, 3.5 + i / 10], rate=0.2 + i / 100)
  figure, caption = page_lib.draw(_content(runs, "old"))["crossing"]
  assert "Thin, 2 of 10: series that come down later or never" in caption
  assert len(figure.legends[0].get_texts()) == 8
  thin = [line for line in figure.axes[0].lines if line.get_color() == "0.75"]
  assert len(thin) == 2


def test_by_hand(runs):
  content = _content(runs, "old")
  found = content.crossing
  assert (found.key, found.loss, found.baseline.folders) == (
      _KEY, 3.0, ["old"])
  by_folder = {s.folders[0]: i for i, s in enumerate(content.series)}
  new, old, worse = (by_folder[n] for n in ("new-0", "old", "worse"))
  assert found.steps[new][0] == 6 and math.isnan(found.steps[new][1])
  assert found.steps[old] == [8] and math.isnan(found.steps[worse][0])
  mean = {what: shares[new][0] for what, shares in found.shares.items()}
  assert mean == pytest.approx(
      {"FLOPs": 6 * 3.5 / 56, "FLOPs with the optimizer's": 6 * 6.5 / 64,
       "seconds": 6 * 2 / 8, "tokens": 6 / 8})
  used = {what: values[new][0] for what, values in found.used.items()}
  secs = 6 * content.series[new].runs[0].step_tokens / 50
  assert used == pytest.approx({"device-hours": 4 * secs / 3600,
                                "kWh (estimate)": 1.8 * secs / 3600})
  assert all(shares[old][0] == pytest.approx(1)
             for shares in found.shares.values())


def test_the_page(runs, tmp_path, monkeypatch):
  monkeypatch.setattr("sys.argv", ["report", str(runs), "--out",
                                   str(tmp_path / "page"), "--baseline",
                                   str(runs / "old")])
  report.main()
  text = (tmp_path / "page/report.md").read_text()
  rows = {row["runs that reach it"]: row
          for row in made.table(text, "## Compute to the same loss")}
  assert rows["1 of 2"]["share of the FLOPs"] == "0.375"
  assert rows["1 of 2"]["at step"] == "6"
  assert rows["by definition"]["series"].endswith("(the baseline)")
  assert rows["by definition"]["share of the FLOPs"] == "1"
  assert ("; with 0.500 of the model's FLOPs of #1, the baseline, which has "
          "3.0000") in text
  made.check_picture(tmp_path / "page", "crossing")


@pytest.mark.parametrize("other", [
    {"data.source": "builtin"}, {"data.vocab_size": 77}, {"rows": 200.0}])
def test_what_cannot_be_compared_reaches_nothing(runs, other):
  _run(runs / "other", [6.0, 3.0, 1.0], rate=0.3, **other)
  content = _content(runs, "old")
  index, = (i for i, s in enumerate(content.series) if s.folders == ["other"])
  assert math.isnan(content.crossing.steps[index][0])
  with look_lib.style():
    figure, _ = page_lib.draw(content)["crossing"]
  names = [text.get_text() for legend in figure.legends
           for text in legend.get_texts()]
  assert [name.partition(":")[0] for name in names] == [
      "1", "0.38 (1 of 2)", "never", "not comparable"]
  text, = (line for line in page_lib.text(content, {}).splitlines()
           if "other" in line and "not comparable" in line)


def test_seconds_of_many_lines_of_any_speed(tmp_path):
  """Ten times as many lines as are held; every other step is slow."""
  made.run(tmp_path / "run", 5000, **{"train.batch_size": 1,
                                      "data.length": 100})
  (tmp_path / "run/metrics.jsonl").write_text("".join(json.dumps(
      {"step": step, "loss": 5.0, "tokens_per_sec": (25.0, 100.0)[step % 2]}
  ) + "\n" for step in range(1, 5001)))
  run, = reading.read([tmp_path]).runs
  np.testing.assert_allclose(
      run.secs_at([0, 2500, 5000, 6000]), [0, 6250, 12500, 15000], rtol=0.001)


@pytest.mark.parametrize("last, is_finished, bad", [
    ({}, True, None), ({"eval/loss": "NaN"}, True, 8), (None, False, None)])
def test_a_run_ends_with_its_last_evaluation(tmp_path, last, is_finished, bad):
  _run(tmp_path / "run", [6.0, 4.0, 3.0])
  *others, evaluated, _ = (tmp_path / "run/metrics.jsonl").read_text(
      ).splitlines()
  others.append(_)
  if last is not None:
    others.append(json.dumps(json.loads(evaluated) | last))
  (tmp_path / "run/metrics.jsonl").write_text("\n".join(others) + "\n")
  run, = reading.read([tmp_path]).runs
  assert run.last_step == 8
  assert (run.is_finished, run.nonfinite_step) == (is_finished, bad)


@pytest.mark.parametrize("name, message", [
    ("none", "none of these series: "), ("live", "has not come to its end")])
def test_baselines_that_cannot_be(runs, name, message):
  made.run(runs / "live", 12, upto=5, rate=0.2)
  with pytest.raises(errors.InputError, match=message) as refused:
    _content(runs, name)
  assert "\n" not in str(refused.value)


def test_runs_with_phases_are_no_baseline_of_one_rate(tmp_path):
  _run(tmp_path / "vanilla", [6.0, 4.0, 3.0], rate=0.15, layer=0)
  _run(tmp_path / "phases", [6.0, 4.0, 3.0], rate=0.15, layer=0, **{
      "masking.phases": ((0.5, 0.5), (0.15, 0.5))})
  content, figures, text = made.drawn(tmp_path)
  assert {s.folders[0]: s.is_vanilla for s in content.series} == {
      "vanilla": True, "phases": False}
  rows = {row["folders"]: row["masks % (of the row, of what can be)"]
          for row in made.table(text, "## Runs")}
  assert rows["phases"].startswith("50 then 15,")
  assert rows["vanilla"].startswith("15,")


def test_without_one_there_is_no_such_picture(runs):
  content = content_lib.gather(reading.read([runs]))
  with look_lib.style():
    assert "crossing" not in page_lib.draw(content)


@pytest.mark.slow
def test_the_table_of_fine_tuning_follows_from_its_cells():
  """Of the study: one rate for all, the best of two on MRPC."""
  study = conftest.ROOT / "configs/sweeps/study"
  page = (study / "README.md").read_text()
  by_rate, told = {}, []
  for folder in sorted((study / "results/downstream").iterdir()):
    row, sweeps = [], {g.config["task"]: g for g in reading.read([folder]).glues}
    begun_from = conftest.ROOT / sweeps["mrpc"].config["init_from"]
    if not sweeps["mrpc"].config["from_scratch"]:
      run, = reading.read([begun_from]).runs
      row.append(f"{run.final[_KEY]:.3f}")
    for task in ("mrpc", "stsb", "sst2"):
      (_, cells), = sweeps[task].results.items()
      for cell in cells if task == "mrpc" else ():
        by_rate.setdefault(cell["learning_rate"], []).append(cell["score"])
      median, deviation = scores.percent(
          [cell for cell in cells if cell["learning_rate"] == 2e-4])
      row.append(f"{median:.2f}" + (
          f" ± {deviation:.2f}" if len(cells) > 1 else ""))
    told += [line for line in page.splitlines()
             if all(f"| {number} |" in line for number in row)]
  assert max(by_rate, key=lambda rate: np.mean(by_rate[rate])) == 2e-4
  assert len(told) == len(set(told)) == len(
      list((study / "results/downstream").iterdir()))


def test_the_page_of_the_study_follows_from_its_runs():
  """Losses and shares of the table in configs/README.md, run by run."""
  results = conftest.ROOT / "configs/sweeps/study/results"
  found = content_lib.gather(reading.read(
      [*results.glob("rate_and_place/*rate=0.002*/"),
       *results.glob("recipe/*rate=0.004_optimizer.name=muon*/")]),
                             baseline=str(results / (
      "rate_and_place/masking.rate=0.15_model.insertion_layer=0_model.layers=12"
      "_optimizer.learning_rate=0.002_seed=1")))
  page = (conftest.ROOT / "configs/README.md").read_text()
  shares, told = found.crossing.shares, 0
  for i, (s, crossing) in enumerate(zip(found.series, shares["FLOPs"])):
    losses = ", ".join(f"{run.final[_KEY]:.3f}" for run in s.runs)
    config = s.runs[0].config
    rate, layer = config["masking.rate"], config["model.insertion_layer"]
    if losses not in page:
      continue  # Within the encoder, or of another rate: told elsewhere.
    row, = (line for line in page.splitlines()
            if line.startswith("|") and f"| {losses} |" in line)
    if s is not found.crossing.baseline:
      mean, deviation, count = crossing
      assert (f"{mean:.3f} ± {deviation:.3f}" if count > 1
              else f"{mean:.3f}") in row, (rate, layer)
    told += 1
  assert told == 11
