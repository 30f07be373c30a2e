"""Stands between a sweep and a run, so that the run does not outlive a sweep.

  python -I -S latemask/sweep/shim.py PLACE PLACES COMMAND...

The runner starts it by its path, with the standard library alone: it must be
there at once, and a run has enough to import. It starts COMMAND and ends with
its exit code (128 + the signal, where one ended it).

Signals come as bytes through standard input, one byte a signal, and are sent on
to the run. Where the input ends and nothing was sent, the sweep was killed:
the run is told once to save and end (SIGTERM). PR_SET_PDEATHSIG would not do:
it may tell the run twice, a thread of the sweep each time, and a second SIGTERM
ends a run at once.

Runs at a time share the cores out: this one is number PLACE, from 0, of PLACES.
Where all runs use the same cores, they are 13 % slower.
"""

import os
import signal
import subprocess
import sys
import threading


def share(cores, place, places):
  """Returns the cores of one run, of all those in a list; all if too few."""
  first, end = (len(cores) * i // places for i in (place, place + 1))
  return cores[first:end] or cores


def follow(run, commands):
  """Sends on to a process what is read from a file descriptor."""
  was_told = False
  while signum := os.read(commands, 1):
    run.send_signal(signum[0])
    was_told = True
  if not was_told:
    run.terminate()


def main(place, places, command):
  """Runs a command; returns its exit code."""
  if hasattr(os, "sched_setaffinity"):  # Linux alone.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, share(cores, place, places))
  # The run is told through the pipe, and once: this process just waits. A
  # function, since what is ignored would be ignored by the run, too.
  for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, lambda *_: None)
  run = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)
  threading.Thread(target=follow, args=(run, 0), daemon=True).start()
  code = run.wait()
  return code if code >= 0 else 128 - code


if __name__ == "__main__":
  # Not sys.exit: the thread may still wait for standard input.
  os._exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
