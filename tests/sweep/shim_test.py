"""The program between a sweep and a run: exit codes, signals, cores."""

import os
import signal
import subprocess
import sys

import pytest

from latemask.sweep import shim

# Says that it is there, and then each signal that it is sent; ends a moment
# after as many as it is told to wait for. They are held back until it waits: one
# that a handler takes just before signal.pause() is waited for for ever.
RUN = """
import signal, sys, time
both = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, both)
print("there", flush=True)
for _ in range(int(sys.argv[1])):
  print(int(signal.sigwait(both)), flush=True)
time.sleep(0.3)
sys.exit(7)
"""


def _start(code, *arguments, place=0, places=1):
  return subprocess.Popen(
      [sys.executable, "-I", "-S", shim.__file__, str(place), str(places),
       sys.executable, "-c", code, *arguments],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)


@pytest.mark.parametrize("code, expected", [
    ("", 0), ("raise SystemExit(5)", 5),
    ("import os; os.kill(os.getpid(), 9)", 128 + 9)])
def test_ends_with_the_code_of_the_run(code, expected):
  with _start(code) as process:
    assert process.wait(60) == expected


def test_signals_reach_the_run_and_the_shim_waits_for_it():
  with _start(RUN, "2") as process:
    assert process.stdout.readline() == b"there\n"
    # A signal that the shim itself gets is not sent on, and does not end it.
    process.send_signal(signal.SIGTERM)
    for signum in (signal.SIGINT, signal.SIGTERM):
      process.stdin.write(bytes([signum]))
      assert int(process.stdout.readline()) == signum
    assert process.wait(60) == 7


@pytest.mark.parametrize("told", [b"", bytes([signal.SIGINT])])
def test_a_run_without_a_sweep_is_told_once(told):
  """At the end of the input, unless it was told to stop before."""
  with _start(RUN, "1") as process:
    assert process.stdout.readline() == b"there\n"
    process.stdin.write(told)
    process.stdin.close()
    expected = told[0] if told else signal.SIGTERM
    assert [int(line) for line in process.stdout] == [expected]
    assert process.wait(60) == 7


@pytest.mark.parametrize("places", [1, 2, 3, 7])
def test_runs_share_the_cores_out(places):
  cores = [1, 2, 3, 5, 8, 13, 21]
  shares = [shim.share(cores, place, places) for place in range(places)]
  assert sum(shares, []) == cores
  assert {len(share) for share in shares} <= {
      7 // places, -(-7 // places)}
  # More runs than cores: each has some.
  assert all(shim.share(cores[:2], place, places) for place in range(places))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux")
def test_a_run_has_its_share_of_the_cores():
  cores = sorted(os.sched_getaffinity(0))
  places = len(cores)
  with _start("import os; print(*os.sched_getaffinity(0))",
              place=places - 1, places=places) as process:
    assert list(map(int, process.stdout.read().split())) == cores[-1:]
