"""SIGTERM and SIGINT: remembered, and agreed on by all processes.

A preempted host is told by SIGTERM some tens of seconds ahead. The first
signal is remembered until the loop can save; the second ends the process at
once.
"""

import contextlib
import signal

import jax
from jax.experimental import multihost_utils
import numpy as np

_ASK_EVERY_STEPS = 10


class Interrupt(BaseException):
  """A signal arrived."""

  def __init__(self, signum):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


class Stopped(Exception):
  """A signal ended a run that goes on later; `code` is the exit code."""

  def __init__(self, signum):
    super().__init__(f"stopped by {signal.Signals(signum).name}")
    self.code = 128 + signum


@contextlib.contextmanager
def interrupting():
  """Its body is left with `Interrupt` at the first SIGTERM or SIGINT.

  For work that is cheap to lose; `Signals` is for what must be saved first.
  """
  def leave(signum, frame):
    del frame
    for s in before:
      signal.signal(s, signal.SIG_DFL)
    raise Interrupt(signum)

  before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
  for s in before:
    signal.signal(s, leave)
  try:
    yield
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler)


class Signals:
  """Remembers the first SIGTERM or SIGINT; leaves the second its effect."""

  def __enter__(self):
    self._signum = 0
    self._before = {s: signal.signal(s, self._remember)
                    for s in (signal.SIGTERM, signal.SIGINT)}
    return self

  def __exit__(self, *exception):
    for signum, handler in self._before.items():
      signal.signal(signum, handler)

  def _remember(self, signum, frame):
    del frame
    self._signum = signum
    for s in self._before:
      signal.signal(s, signal.SIG_DFL)

  def asked(self):
    """Returns whether this process was told to stop."""
    # One host alone must not leave an evaluation that the others are in.
    return bool(self._signum) and jax.process_count() == 1

  def agreed(self, step):
    """Returns the signal on which all processes stop at this step, or 0.

    Several processes ask each other only now and then: it costs a round trip.
    """
    if jax.process_count() == 1:
      return self._signum
    if step % _ASK_EVERY_STEPS:
      return 0
    return int(np.max(multihost_utils.process_allgather(
        np.int32(self._signum))))
