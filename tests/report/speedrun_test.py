"""An entry of a speedrun: its line, and every rule that it can break."""

import json
import sys

import pytest

from configs import base
from configs import speedrun as tracks
from latemask.config import spec
from latemask.data import prepare as prepare_lib
from latemask import errors
from latemask.report import reading
from latemask.report import speedrun
from latemask.tools import speedrun as tool
from tests import conftest
from tests.report import made


def _entry(folder, target=2.0, rows=None, num_rows=None):
  config = base.get_config("base")
  track = speedrun.Track("a", spec.flatten(config.to_dict()), target, rows,
                         num_rows, "some text")
  return speedrun.entry(reading.read([folder]).runs, track, "2 cores", "abc")


def _run(path, seed, packed="x", **overrides):
  made.run(path, seed=seed, **overrides)
  config = json.loads((path / "config.json").read_text())
  (path / "data").mkdir()
  (path / "data" / "manifest.json").write_text(json.dumps({
      "settings": {"tokenizer": packed} | {
          key: config["data"][key] for key in ("length", "source", "packing")},
      "shards": [{"sha256": "y", "rows": 1}]}))


@pytest.fixture
def runs(tmp_path):
  for seed in (1, 2, 3):
    _run(tmp_path / str(seed), seed)
  return tmp_path


def test_its_line(runs):
  line = _entry(runs)
  assert line["steps"] == "12" and line["commit"] == "abc"
  assert line["TFLOP"] == "84.00"
  assert line["with the optimizer's"] == "105.00"
  mean, deviation = map(float, line["loss at 15 %"].split(" ± "))
  assert 1 < mean < 1.5 and 0 < deviation < 0.5
  rows, said = line["rows"].split(" ", 1)
  assert said == "(the track tells none yet)"
  assert _entry(runs, rows=rows, num_rows=100) == line | {"rows": rows}


@pytest.mark.parametrize("change, message", [
    (lambda runs: _entry(runs / "1"), "an entry is 3 runs or more"),
    (lambda runs: _entry(runs, target=0.5), "mean held-out loss .* is 1"),
    (lambda runs: _entry(runs, rows="zz"), "those of the track a, some text"),
    (lambda runs: _entry(runs, num_rows=7), "with 7$"),
    (lambda runs: (_run(runs / "4", 3), _entry(runs)), "another run has seed"),
    (lambda runs: (_run(runs / "4", 9), _entry(runs)),
     "the seeds are 1, 2, 3, 9; those of an entry are 1, 2, 3"),
    (lambda runs: (_run(runs / "4", 4, layer=6), _entry(runs)),
     "4: model.insertion_layer is 6, and 12"),
    (lambda runs: (_run(runs / "4", 4, packed="z"), _entry(runs)),
     "4: its rows are"),
    (lambda runs: (_run(runs / "4", 4, upto=5), _entry(runs)),
     "has not come to its end"),
    (lambda runs: (_run(runs / "4", 4, **{"data.length": 64}), _entry(runs)),
     "4: data.length is 64; the track a has 128"),
    (lambda runs: (_run(runs / "4", 4, **{"train.init_from": "run"}),
                   _entry(runs)), "4: train.init_from is 'run'"),
    (lambda runs: ((runs / "2/data/manifest.json").unlink(), _entry(runs)),
     "rows do not lie where its config says"),
])
def test_rules(runs, change, message):
  with pytest.raises(errors.InputError, match=message) as refused:
    change(runs)
  assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_the_rows_of_the_mini_track(tmp_path, monkeypatch):
  """Those of one CPython; of another one they are refused."""
  monkeypatch.chdir(conftest.ROOT)
  config = spec.load("configs/speedrun.py:mini")
  prepare_lib.prepare(config, tmp_path / "run" / "data")
  (tmp_path / "run" / "config.json").write_text(
      json.dumps(config.to_dict()))
  (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 1}')
  run, = reading.read([tmp_path]).runs
  is_the_track_s = sys.version.split()[0] == "3.11.7"
  assert (run.config["data.rows"] == tracks.TRACKS["mini"]["rows"]) == (
      is_the_track_s)


@pytest.mark.parametrize("track, message", [
    ("none", "choose one of mini, wikitext"), ("mini", "the track mini has")])
def test_the_command(runs, track, message, monkeypatch, capsys):
  monkeypatch.chdir(conftest.ROOT)
  monkeypatch.setattr("sys.argv", [
      "speedrun", str(runs), "--track", track, "--hardware", "2 cores"])
  with pytest.raises(SystemExit) as ended:
    tool.main()
  assert ended.value.code == 2
  assert message in capsys.readouterr().err
