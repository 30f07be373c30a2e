"""The folder of a report, whole or not at all; the command."""

import sys

import pytest

from latemask import errors
from latemask.report import folder as report_folder
from latemask.report import look as look_lib
from latemask.tools import report
from tests.report import made


def test_pictures_of_a_sweep(page, tmp_path):
  _, figures, text = page
  assert set(figures) == {
      "frontier", "heat_map", "loss_steps", "loss_tokens", "loss_flops",
      "accuracy", "throughput"}
  # Two are saved, which is what takes long: one of points, one of curves.
  for name in ("frontier", "loss_steps"):
    with look_lib.style():
      look_lib.save(figures[name], tmp_path, name)
    made.check_picture(tmp_path, name)
    assert f'src="{name}.png"' in text


def test_damage_is_told_and_left_out(tmp_path, monkeypatch, capsys):
  runs = tmp_path / "runs"
  made.run(runs / "good")
  made.run(runs / "gone", rate=0.4)
  (runs / "gone/metrics.jsonl").write_bytes(b"\0\xff" * 99 + b"\nrubbish\n")
  made.run(runs / "config", rate=0.3)
  (runs / "config/config.json").write_text("{")
  made.run(runs / "old", rate=0.2)
  (runs / "old/config.json").write_text('{"seed": 0}')
  made.run(runs / "empty", rate=0.1)
  (runs / "empty/metrics.jsonl").write_text("")
  made.run(runs / "hurt", rate=0.45)
  path = runs / "hurt/metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  lines[5:7] = ['{"step": 1, "lo\n', "[1]\n", '{"step": 2, "loss": []}\n']
  path.write_text("".join(lines))
  # Pictures take long, and others of these tests look at them.
  monkeypatch.setattr(look_lib, "save", lambda fig, folder, name: None)
  monkeypatch.setattr(
      sys, "argv", ["report", str(runs), "--out", str(tmp_path / "out")])
  report.main()
  text = (tmp_path / "out/report.md").read_text()
  out, err = capsys.readouterr()
  assert f"lies in {tmp_path}/out/report.md" in out
  for told in (text, err):
    for name, why in (("gone/metrics.jsonl", "none of its 2 lines"),
                      ("config/config.json", "cannot be read"),
                      ("old/config.json", "has no masking.rate"),
                      ("empty/metrics.jsonl", "no line so far"),
                      ("hurt/metrics.jsonl",
                       f"3 of {len(lines)} lines cannot be read")):
      assert any(name in line and why in line for line in told.splitlines()), (
          name, told)
  assert [row["folders"] for row in made.table(text, "## Runs")] == [
      "hurt", "good"]


def test_refusals(tmp_path, monkeypatch, capsys):
  runs, out = tmp_path / "runs", tmp_path / "out"
  made.run(runs / "run")
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
  assert ("argument --rank_rows: '0' is no whole number of at least 1"
          in refused(runs, "--out", out, "--rank_rows", 0))
  (tmp_path / "hurt").mkdir()
  (tmp_path / "hurt/config.json").write_text("{")
  (tmp_path / "hurt/metrics.jsonl").write_text("")
  assert "no run can be used" in refused(tmp_path / "hurt", "--out", out)
  assert before == {p: p.read_bytes() for p in runs.rglob("*")
                    if p.is_file()}
  # An earlier report is written anew, and no stale picture stays.
  runs = tmp_path / "fine"
  made.glue(runs, "nowhere", tasks=("rte",))
  assert report_folder.write([runs], out) == (["glue"], [])
  made.check_picture(out, "glue")
  first = {p.name: p.read_bytes() for p in out.iterdir()}
  (out / "rank.png").write_text("of an earlier report")
  report_folder.write([runs], out)
  assert first == {p.name: p.read_bytes() for p in out.iterdir()}
  (out / "notes.txt").write_text("mine")
  with pytest.raises(errors.InputError, match="notes.txt"):
    report_folder.write([runs], out)
