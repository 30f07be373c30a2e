"""A sweep from the command line: its points, its messages."""

import sys

import pytest

from latemask import errors
from latemask.sweep import costs
from latemask.sweep import grid as grid_lib
from latemask.sweep import points as points_lib
from latemask.tools import sweep

BASE = "configs/base.py:tiny,data.source=builtin"


@pytest.mark.parametrize("text, expected", [
    ("masking.rate=0.15,0.5", [0.15, 0.5]),
    ("masking.rate=0.15", [0.15]),
    ("seed=1, 2,3", [1, 2, 3]),
    ("masking.unit=word,span", ["word", "span"]),
    ("model.remat=None,layer", [None, "layer"]),
    ("eval.rates=(),(0.15,),(0.15,0.3)", [(), (0.15,), (0.15, 0.3)]),
    ("data.source='text:a,text:b','builtin'", ["text:a,text:b", "builtin"]),
    ("data.source=text:/a=b/*,builtin", ["text:/a=b/*", "builtin"])])
def test_values_are_read_as_on_the_command_line(text, expected):
  key = text.partition("=")[0]
  assert grid_lib.parse([text]) == {key: expected}


def _read(grid, spec=BASE):
  return points_lib.read(spec, "/out", grid=grid_lib.parse(grid))


def test_all_pairs_are_points():
  points, columns = _read(
      ["masking.rate=0.15,0.5", "model.insertion_layer=0,2"])
  assert [point.overrides for point in points] == [
      {"masking.rate": rate, "model.insertion_layer": layer}
      for rate in (0.15, 0.5) for layer in (0, 2)]
  assert columns == ["masking.rate", "model.insertion_layer"]
  assert points[2].name == "masking.rate=0.5_model.insertion_layer=0"
  assert points[2].config.masking.rate == 0.5
  # What is as in the file needs no flag.
  assert set(points[2].flags) >= {"--config.model.insertion_layer=0"}
  assert points[2].config.data.dir == points[0].config.data.dir


def test_a_sweep_file_is_multiplied():
  file = "configs/sweeps/mask_rate.py:tiny,data.source=builtin"
  alone, columns = points_lib.read(file, "/out")
  points, more = _read(["model.insertion_layer=0,1"], file)
  assert more == columns + ["model.insertion_layer"]
  assert [point.overrides for point in points] == [
      point.overrides | {"model.insertion_layer": layer}
      for point in alone for layer in (0, 1)]


def test_runs_are_fine_tuned_with_each_value():
  points, columns = points_lib.read(
      "configs/glue.py,task=cola", "/out", ["runs/a", "runs/b"],
      grid_lib.parse(["dropout=0.0,0.1"]))
  assert [point.name for point in points] == [
      "a/glue_dropout=0.0", "b/glue_dropout=0.0",
      "a/glue_dropout=0.1", "b/glue_dropout=0.1"]
  assert columns == ["dropout"]
  assert not costs.rows(points)


def test_own_labels_are_no_rows_of_pre_training(tmp_path, monkeypatch, capsys):
  (tmp_path / "run").mkdir()
  monkeypatch.setattr(sys, "argv", [
      "sweep", "--config", f"configs/finetune.py,data.train={tmp_path}/a.csv,"
      f"data.dev={tmp_path}/b.csv", "--init_from", str(tmp_path / "run"),
      "--grid", "dropout=0.0,0.1", "--dry_run"])
  with pytest.raises(SystemExit) as ended:
    sweep.main()
  assert ended.value.code == 0
  assert "2 of 2 to do" in capsys.readouterr().out


def test_the_command(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", [
      "sweep", "--config", BASE, "--out", str(tmp_path / "out"), "--dry_run",
      "--grid", "masking.rate=0.15,0.5"])
  with pytest.raises(SystemExit) as ended:
    sweep.main()
  assert ended.value.code == 0
  names = [line.split("|")[1].strip()
           for line in capsys.readouterr().out.splitlines()]
  assert names[2:] == ["masking.rate=0.15", "masking.rate=0.5",
                       "2 of 2 to do, 1 at a time"]


@pytest.mark.parametrize("grid, message", [
    ("masking.rate", "it must be KEY=VALUE,VALUE..."),
    ("masking.rate=", "it must be KEY=VALUE,VALUE..."),
    ("=0.5", "it must be KEY=VALUE,VALUE..."),
    ("masking.rat=0.5",
     "--grid: there is no key masking.rat (did you mean masking.rate?)"),
    ("masking=0.5", "--grid: there is no key masking"),
    ("masking.rate=0.15,x", "--grid: masking.rate is 'x'; it must be a number"),
    ("seed=1.5", "--grid: seed is 1.5; it must be a whole number"),
    ("masking.rate=0.15,1.5", "masking.rate=1.5: masking.rate"),
    ("seed=1,1", "seed=1 is the same run as seed=1"),
    ("data.source=None,builtin", "data.source is None"),
    ("masking.rate={[1]:2}", "masking.rate is '{[1]:2}'; it must be a number"),
    ("model.unroll=2 model.unroll=4", "--grid names model.unroll twice"),
])
def test_what_cannot_be_is_one_line(
    tmp_path, monkeypatch, capsys, grid, message):
  options = [word for option in grid.split() for word in ("--grid", option)]
  monkeypatch.setattr(sys, "argv", [
      "sweep", "--config", BASE, "--out", str(tmp_path / "out"), *options])
  with pytest.raises(SystemExit) as ended:
    sweep.main()
  assert ended.value.code == 2
  line, = capsys.readouterr().err.splitlines()
  assert line.startswith("latemask: ") and message in line
  assert not list(tmp_path.iterdir())


def test_a_key_that_the_file_sweeps():
  with pytest.raises(errors.InputError, match="already sweeps this key"):
    _read(["seed=1,2"], "configs/sweeps/mask_rate.py:tiny")
