"""The command runs at tiny size; its numbers are of what it says."""

import json
import subprocess
import sys

import pytest


def _run(*arguments):
  return subprocess.run(
      [sys.executable, "-m", "latemask.bench.checkpoint", *arguments],
      capture_output=True, text=True, timeout=200)


@pytest.mark.long
def test_three_lines(corpus):
  done = _run("--repeats", "1", "--config",
              f"configs/base.py:tiny,data.source='text:{corpus}/*.txt',"
              "data.vocab_size=320,data.length=32,model.width=16,"
              "data.workers=1,train.batch_size=8,model.dtype='float32'")
  assert done.returncode == 0, done.stderr
  save, restore, resume = map(json.loads, done.stdout.splitlines()[-3:])
  assert [line["bench"] for line in (save, restore, resume)] == [
      "save", "restore", "resume"]
  low, median, high = save["step_secs"]["beside"]
  assert 0 < low <= median <= high and save["held_secs"] < save["save_secs"]
  assert restore["mb_per_sec"] == sorted(restore["mb_per_sec"])
  assert resume["secs"].keys() == {"10", "1000000"}


def test_bad_command():
  done = _run("--config", "configs/none.py")
  assert done.returncode == 2
  assert "there is no config file configs/none.py" in done.stderr
