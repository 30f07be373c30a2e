"""launch/sweep.sh: the same sweep on several VMs, by way of tpu_vm.sh."""

import os
import shutil
import subprocess

import pytest

from tests import conftest
from tests import launch_tpu_vm_test

ROOT = conftest.ROOT
WHERE = ["--project", "p", "--zone", "z", "--names", "a,b"]

cloud = launch_tpu_vm_test.cloud
untouched = launch_tpu_vm_test.untouched


def _sweep(cloud, *arguments):
  """Runs launch/sweep.sh of the cloud's repository."""
  shutil.copy(ROOT / "launch" / "sweep.sh", cloud.repository / "launch")
  return subprocess.run(
      ["bash", str(cloud.repository / "launch" / "sweep.sh"), *arguments],
      capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
      env=os.environ | {
          "PATH": f"{cloud.fake / 'bin'}:{os.environ['PATH']}",
          "FAKE": str(cloud.fake), "STOP_SECS": "20"})


def test_all_vms_run_the_same_words(cloud):
  cloud.set_up()
  words = ["--config", "configs/sweeps/lr.py,data.source=text:/a b/*.txt",
           "--out", "gs://it's \"shared\""]
  done = _sweep(cloud, "start", *WHERE, "--", *words)
  assert done.returncode == 0, done.stderr
  asked = [argv for argv in cloud.log() if argv[3] == "ssh"]
  assert [argv[4] for argv in asked] == ["a", "b"]
  for argv in asked:
    command = argv[-1].removeprefix("--command=")
    heard = subprocess.run(
        ["bash", "-c", "bash() { printf '%s\\0' \"$@\"; }\n" + command],
        capture_output=True, text=True, check=True).stdout.split("\0")
    assert heard[:-1] == [
        "latemask/launch/tpu_worker.sh", "start", "python", "-m",
        "latemask.tools.sweep", *words]


def test_dry_run_and_the_other_commands(cloud):
  cloud.set_up()
  for action in ("start", "setup", "status", "logs", "stop"):
    what = ["--", "--config", "c", "--out", "o"] if action == "start" else []
    done = _sweep(cloud, action, "--dry_run", *WHERE, *what)
    assert done.returncode == 0, done.stderr
    assert " a " in done.stdout and " b " in done.stdout
  assert not cloud.log()
  # A VM that is not there stops no other.
  cloud.set(queued="MISSING", node="MISSING")
  done = _sweep(cloud, "status", *WHERE)
  assert done.returncode == 1
  assert done.stdout.count("MISSING") == 2
  assert "sweep.sh: a: exit code 1" in done.stderr


@pytest.mark.parametrize("line, message", [
    ("", ""),
    ("fly --names a", "no such command: fly"),
    ("start --project p --zone z", "--names A,B,C is missing"),
    ("start --project p --zone z --names", "--names A,B,C is missing"),
    ("start --project p --zone z --names a,,b -- x", "--names A,B,C"),
    ("start --project p --zone z --name a -- x", "no --name"),
    ("start --keep --project p --zone z --names a -- x", "no --keep"),
    ("start --project p --zone z --names a,b", "which sweep?"),
    ("start --zone z --names a,b -- x", "--project is missing"),
    ("stop --project p --zone z --names a -- x", "takes nothing behind"),
    ("stop --project p --zone z --names a --what", "takes no --what"),
])
def test_refusals(untouched, line, message):
  done = _sweep(untouched, *line.split())
  assert done.returncode == 2
  if line:
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
  assert not untouched.log()


def test_nothing_is_done_where_one_name_cannot_be(cloud):
  where = [*WHERE[:-1], "a,Bad_name"]
  done = _sweep(cloud, "start", *where, "--", "--config", "c", "--out", "gs://o")
  assert done.returncode == 2 and "--name Bad_name" in done.stderr
  assert not cloud.log()


def test_help(untouched):
  done = _sweep(untouched, "--help")
  assert done.returncode == 0 and "--dry_run" in done.stdout
  assert "set -euo" not in done.stdout
