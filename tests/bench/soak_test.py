"""The soak's own judgement: what it must not take for survived."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest

from latemask.bench import faults
from latemask.bench import soak
from latemask import errors


def _judged(tmp_path, name, before, codes, told):
  run = soak.Run(tmp_path / "run", tmp_path / "corpus.txt")
  run.code = next((code for code in codes if code), 0)
  return run._judge(name, faults.FAULTS.get(name, faults.Fault(())), before,
                    codes, told)


def test_what_is_not_survived(tmp_path):
  going = "going on from the checkpoint at step 10\ncompiling: ..."
  assert not _judged(tmp_path, "SIGKILL, step", [10, 5], [-9], going)
  assert "exit code 1" in _judged(
      tmp_path, "SIGKILL, step", [10, 5], [1], going)
  assert "exit code hangs" in _judged(
      tmp_path, "SIGKILL, step", [10, 5], ["hangs"], going)
  assert "began at 5" in _judged(
      tmp_path, "SIGKILL, step", [10, 5], [-9], going.replace("10", "5"))
  assert "began at 0" in _judged(
      tmp_path, "SIGKILL, step", [10, 5], [-9],
      "beginning at step 0\ncompiling: ...")
  damaged = "checkpoint 10 of w is damaged: x\n" + going.replace("10", "5")
  assert not _judged(
      tmp_path, "checkpoint: cut off", [10, 5], [0], damaged)
  assert "taken for damaged" in _judged(
      tmp_path, "SIGKILL, step", [10, 5], [-9], damaged)
  assert "without its line" in _judged(
      tmp_path, "shard: missing", [10, 5], [2], "Traceback ...")
  stopped = "latemask: stopped by SIGINT; the same command goes on"
  assert not _judged(tmp_path, "SIGINT, start", [], [130], stopped)
  for told in ("", "Traceback (most recent call last):\n" + stopped):
    assert "without its line" in _judged(
        tmp_path, "SIGINT, start", [], [130], told)


def test_table():
  table, survived = soak.tabulate(
      [("NaN", 3, "", True, "a"), ("NaN", 0, "", True, "a")], 3)
  cells = " ".join(table.split())
  assert survived and "| NaN | 2 | 2 | 2 | 0, 3 |" in cells
  assert "| all, in 3 min | 2 | 2 | 2 | 0, 3 |" in cells
  table, survived = soak.tabulate(
      [("NaN", 3, "", False, "a/run7"), ("NaN", "hangs", "x", False, "a")], 3)
  assert "| 3, hangs |" in " ".join(table.split())
  assert not survived and "- NaN (a/run7): the result differs" in table


def test_damage_is_done_and_undone(tmp_path):
  """Every kind changes the disk; those that are mended leave it as it was."""
  def files():
    return {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  for path in ("data/rows-0.arrayrecord", "checkpoints/5/state/d/x",
               "checkpoints/5/state/commit_success.txt",
               "checkpoints/5/_CHECKPOINT_METADATA",
               "checkpoints/10/state/d/x", "checkpoints/10/run/metadata",
               "checkpoints/10/state/commit_success.txt",
               "checkpoints/10/_CHECKPOINT_METADATA"):
    (tmp_path / "run" / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / path).write_bytes(path.encode() * 9)
  for name, fault in faults.FAULTS.items():
    if fault.phase:
      continue
    before = files()
    undo = faults.damage(name, tmp_path / "run", random.Random(0))
    after = files()
    assert after != before, name
    assert not {p for p in before if "checkpoints/5" in str(p)
                and before[p] != after.get(p)} or "all" in name
    if undo:
      undo()
      assert files() == before, name
    else:
      for path, data in before.items():
        path.write_bytes(data)


def test_run_that_is_there_is_refused(tmp_path):
  (tmp_path / "run").mkdir()
  with pytest.raises(errors.InputError, match="run is there already"):
    soak.Run(tmp_path / "run", tmp_path / "corpus.txt")


@pytest.mark.long
def test_run_ends_with_what_started_it(tmp_path):
  """Of two that are alike, that whose standard input ends is killed."""
  corpus = soak.make_corpus(tmp_path)
  command = json.dumps({"name": None, "phase": None, "count": 1, "secs": 0,
                        "rows": str(tmp_path / "rows")})
  codes = []
  for name, stdin in (("left", subprocess.DEVNULL), ("kept", subprocess.PIPE)):
    run = soak.Run(tmp_path / name, corpus)
    with subprocess.Popen(
        [sys.executable, "-m", "latemask.bench.faults", command, *run._flags,
         "--config.train.num_steps=3"], stdin=stdin,
        env=os.environ | {"JAX_PLATFORMS": "cpu"}) as process:
      codes.append(process.wait(200))
  assert codes == [-signal.SIGKILL, 0]


def test_out_that_is_there(tmp_path):
  done = subprocess.run(
      [sys.executable, "-m", "latemask.bench.soak", "--out", str(tmp_path)],
      capture_output=True, text=True)
  assert done.returncode == 2
  assert "is there already" in done.stderr.splitlines()[-1]
