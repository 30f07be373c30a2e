"""Signals: what holds one back, and that several stop at one question."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from latemask.runtime import signals as signals_lib


def test_nothing_is_held_back_before_there_is_something_to_save():
  # What was started in the background of a script ignores SIGINT.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  with signals_lib.heard() as signals:
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(1)
    assert signals.agreed() == 0
  signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("signum", signals_lib.SIGNALS)
def test_first_is_remembered_and_second_is_not_held_back(signum):
  before = signal.getsignal(signum)
  with signals_lib.heard() as signals:
    signals.hold()
    assert signals.agreed() == 0
    os.kill(os.getpid(), signum)
    assert signals.agreed() == signals.agreed() == signum
    assert signal.getsignal(signum) == before
  assert signal.getsignal(signum) == before
  with signals_lib.heard() as signals:
    signals.hold()
    assert signals.agreed() == 0


_PROGRAM = """
import hashlib, sys, time
from latemask.runtime import files
from latemask.runtime import signals
signals.listen()
phase, folder = sys.argv[1:]
with signals.heard() as told, files.writing(folder + "/whole") as part:
  part.write_text("half")
  if phase == "held":
    told.hold()
  print("ready", flush=True)
  if phase == "held":
    while not (number := told.agreed()):
      time.sleep(0.01)
    print("saved", flush=True)
  # As a compiler: minutes in C++, without a look at Python's handlers.
  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize("phase, signum", [
    ("nothing", signal.SIGINT), ("held", signal.SIGTERM)])
def test_program_ends_whatever_its_main_thread_does(tmp_path, phase, signum):
  """With one line and 128 + the signal, and no half of a file."""
  with subprocess.Popen(
      [sys.executable, "-c", _PROGRAM, phase, str(tmp_path)],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signum)
    if phase == "held":
      assert program.stdout.readline() == "saved\n"
      assert program.poll() is None
      program.send_signal(signum)
    _, told = program.communicate(timeout=20)
  assert program.returncode == 128 + signum
  assert told == (f"latemask: stopped by {signum.name}; the same command goes "
                  "on from what is done\n")
  assert not list(tmp_path.iterdir())


class _Store:
  """What distributed.py makes of JAX's service, for threads."""

  def __init__(self, count, rng):
    self._there, self._changed = {}, threading.Condition()
    self._rng = rng
    self._all = threading.Barrier(count)

  def set(self, key, text):
    time.sleep(self._rng.random() / 500)
    with self._changed:
      self._there.setdefault(key, text)
      self._changed.notify_all()

  def get(self, key, secs):
    with self._changed:
      if not self._changed.wait_for(lambda: key in self._there, secs or 5):
        raise RuntimeError(key)
    time.sleep(self._rng.random() / 500)
    return self._there[key]

  def meet(self, key, secs):
    del key
    self._all.wait(secs)


class _Ended(Exception):
  pass


def test_several_stop_at_one_question_or_end_together(monkeypatch):
  """Threads as processes, in lockstep as by the collectives of each step."""
  def end(signum, team=None):
    raise _Ended(signum)
  monkeypatch.setattr(signals_lib, "_end", end)
  outcomes = {_stop_several(random.Random(seed)) for seed in range(60)}
  assert None in outcomes and len(outcomes) > 5


def _stop_several(rng):
  """Returns the step at which all stop; None where all end at once."""
  count = rng.choice((2, 3, 4))
  store = _Store(count, rng)
  signals = [signals_lib.Signals() for _ in range(count)]
  for i, mine in enumerate(signals):
    mine.team = signals_lib.Team(store, i, count)
  step_of_all = threading.Barrier(count)
  ended, stopped = [], []

  def follow(mine):
    try:
      mine.stop(mine.team.told())
    except _Ended:
      ended.append(mine)
      step_of_all.abort()

  def run(mine):
    step = 0
    with contextlib.suppress(threading.BrokenBarrierError):
      while not mine.agreed():
        time.sleep(rng.random() / 500)
        step_of_all.wait(20)
        if step == 4:
          time.sleep(rng.random() / 500)
          mine.hold()
        step += 1
      stopped.append(step)

  threads = [threading.Thread(target=f, args=(mine,), daemon=True)
             for f in (follow, run) for mine in signals]
  for thread in threads:
    thread.start()
  time.sleep(rng.random() / 30)
  for i in rng.sample(range(count), rng.randint(1, count)):
    signals[i].team.tell(signal.SIGTERM)
  for thread in threads[:count]:
    thread.join(20)
  if len(ended) == count:
    return None
  for thread in threads[count:]:
    thread.join(20)
  assert not ended and len(stopped) == count and len(set(stopped)) == 1
  return stopped[0]
