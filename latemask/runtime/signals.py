"""SIGTERM and SIGINT: what they do to a program, or to several together.

Beside the flow. A preempted host is told by SIGTERM some tens of seconds
ahead. While there is nothing to save, the first signal ends the program at
once, with one line and exit code 128 + the signal; from `Signals.hold` on it
is remembered until the loop can save. The second always ends it at once.

A thread hears them. Python's own handlers wait for the main thread to come
back to Python, which a compiler may keep for minutes, and what they raise is
swallowed by callbacks. Such an end runs no clean-up: what is on disk is there
whole or not at all; see `undoing`.

Of several processes, the one that got the signal tells all others, through a
store of keys. Each process counts how often it has asked "stop?", and answers
with its count. None asks again before all have answered. All then stop at the
question that follows the highest count. Threads give the answers, so that a
process that waits in a collective answers, too.
"""

import contextlib
import os
import signal
import threading
import time

# In the order in which they are listened to: where SIGTERM, which Python leaves
# alone, is caught, so is the other.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTHING = -1  # The answer of a process that has nothing to save.
_ANSWER_SECS = 10

_program = None  # The `Signals` of a program that listens.
_undo = []
_is_ending = False


class Stopped(Exception):
  """A signal ended a run that goes on later; `code` is the exit code."""

  def __init__(self, signum):
    super().__init__(f"stopped by {signal.Signals(signum).name}")
    self.code = 128 + signum


def listen():
  """Lets signals end this program, from now on; see the module."""
  global _program
  _program = Signals()
  ear, mouth = os.pipe()
  os.set_blocking(mouth, False)
  signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
  _attend()
  threading.Thread(target=_hear, args=(ear,), daemon=True).start()


@contextlib.contextmanager
def heard():
  """Yields the `Signals` of the program, or, in a notebook, new ones.

  In a notebook signals keep their effect until `hold`.
  """
  if _program:
    _attend()  # Again: the library of TPUs has handlers of its own.
  signals = _program or Signals(handles=True)
  try:
    yield signals
  finally:
    signals.let_go()


@contextlib.contextmanager
def undoing(function):
  """Should a signal end the program within its body, calls a function first.

  A body that ends otherwise undoes things itself.
  """
  _undo.append(function)
  try:
    yield
  finally:
    _undo.remove(function)


def undo():
  """Calls what `undoing` asks for, before an end that unwinds nothing."""
  for function in _undo[::-1]:
    # Nothing may stand in the way of the end.
    with contextlib.suppress(Exception):
      function()


def join(team):
  """Takes part in a team, which is told of signals, and stops, as one."""
  if _program:
    _program.team = team
    threading.Thread(target=_follow, args=(team,), daemon=True).start()


def wait_for_end():
  """Does not return where a signal is about to end this process."""
  while _is_ending:
    time.sleep(1)


class Team:
  """Several processes, which a store of keys connects."""

  def __init__(self, store, index, count):
    """Takes the store, the number of this process, and how many there are.

    Args:
      store: has `set(key, text)`, which leaves a key that is there;
        `get(key, secs)`, which waits for one; `meet(key, secs)`, which waits
        for all. Secs of None are for ever; what fails is a RuntimeError.
    """
    self._store, self._index, self._count = store, index, count

  def tell(self, signum):
    """Tells all, this one included, of a signal."""
    self._store.set("stop", str(int(signum)))

  def told(self):
    """Returns the signal that one of them was told of, once it is."""
    return int(self._store.get("stop", None))

  def furthest(self, answer):
    """Returns the largest of the answers of all."""
    self._store.set(f"asked/{self._index}", str(answer))
    return max(int(self._store.get(f"asked/{i}", _ANSWER_SECS))
               for i in range(self._count))

  def leave(self):
    """Returns once all are about to end."""
    with contextlib.suppress(RuntimeError):
      self._store.meet("end", _ANSWER_SECS)
      if self._index == 0:  # The store is here, and the others read it.
        time.sleep(0.3)


class Signals:
  """Remembers the first signal; the second keeps its effect.

  Fields:
    team: the `Team` that this process is in, or None.
  """

  def __init__(self, handles=False):
    """Takes whether it handles signals itself, since no thread hears them."""
    self.team = None
    self._handles = handles
    self._changed = threading.Condition()
    self._num_asked = _NOTHING
    self._signum = 0
    self._stop_at = None  # The question that is answered with the signal.
    self._before = {}  # Handlers.

  def hold(self):
    """Remembers the first signal from now on: there is something to save.

    Several processes call this, and `agreed`, in the same order.
    """
    with self._changed:
      self._changed.wait_for(self._is_settled)
      if self._num_asked > _NOTHING:
        return
      self._num_asked = 0
    if self._handles:
      self._before = {s: signal.signal(s, self._remember) for s in SIGNALS}

  def let_go(self):
    """Gives signals their effect again."""
    with self._changed:
      self._changed.wait_for(self._is_settled)
      self._num_asked = _NOTHING
    self._give_back()

  def agreed(self):
    """Returns the signal on which all processes stop here, or 0."""
    with self._changed:
      self._changed.wait_for(self._is_settled)
      if self._num_asked == _NOTHING:
        return 0
      self._num_asked += 1
      is_here = self._stop_at is not None and self._num_asked >= self._stop_at
      return self._signum if is_here else 0

  def stop(self, signum):
    """Takes the first signal: ends the process, or sets where to stop."""
    with self._changed:
      self._signum = signum
      furthest = self._num_asked
    if self.team:
      try:
        furthest = self.team.furthest(furthest)
      except RuntimeError:  # One is dead, and no step can be finished.
        _end(signum)
    if furthest == _NOTHING:
      _end(signum, self.team)
    with self._changed:
      self._stop_at = furthest + 1
      self._changed.notify_all()

  def _is_settled(self):
    return not self._signum or self._stop_at is not None

  def _remember(self, signum, frame):
    """Handles the first signal."""
    del frame
    self._give_back()
    # Not `stop`: the main thread, which this is, may hold the lock.
    self._signum, self._stop_at = signum, 0

  def _give_back(self):
    for signum, handler in self._before.items():
      signal.signal(signum, handler)


def _attend():
  """Lets Python see the signals, which it then writes to the thread."""
  for signum in SIGNALS:
    signal.signal(signum, lambda *_: None)


def _hear(ear):
  """Waits for signals, in a thread of its own."""
  is_first = True
  while True:
    signum, = os.read(ear, 1)
    if signum not in SIGNALS:
      continue
    if not is_first:
      _end(signum)
    is_first = False
    if not _program.team:
      _program.stop(signum)
      continue
    try:
      _program.team.tell(signum)
    except RuntimeError:  # Process 0 is gone, and the store with it.
      _end(signum)


def _follow(team):
  """Waits for what the team is told, in a thread of its own."""
  with contextlib.suppress(RuntimeError):  # The run came to its end.
    _program.stop(team.told())


def _end(signum, team=None):
  """Ends the process, whatever its main thread does."""
  global _is_ending
  _is_ending = True
  undo()
  line = (f"latemask: stopped by {signal.Signals(signum).name}; the same "
          "command goes on from what is done\n")
  with contextlib.suppress(OSError):
    # On a terminal, ^C or a progress bar stands before it.
    os.write(2, ("\n" * os.isatty(2) + line).encode())
  if team:
    team.leave()
  os._exit(128 + signum)
