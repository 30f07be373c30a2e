"""Claims: several machines share a folder, and no run is done by two at once.

A start of a run creates RUN.claim.K exclusively (O_EXCL), K one above the
highest that is there; the highest is the claim that counts, and the others
tell who began before. It holds host, boot and process, and is live
  1. on its own machine while a process of it has it locked (flock). The run
     inherits the lock, so a run that outlives a killed sweep still counts;
  2. for other machines while its mtime, touched every `BEAT_SECS`, is younger
     than `stale_secs` by the clock of the file system, not of a machine.
One that was released has its mtime at 0. What is not live is taken over by
creating K + 1, which one alone can do. Nothing is renamed or removed: between
the look at a stale claim and its removal, it could have become another's.
A machine that slept past `stale_secs` finds K + 1 at its next beat, and ends
its own run.
"""

import fcntl
import json
import os
import pathlib
import re
import socket
import tempfile
import time

from latemask.runtime import workers

BEAT_SECS = 15


class Claim:
  """A claim that this process holds; `take` makes one.

  Fields:
    fd: a file descriptor for the run to inherit.
    number: how often the run was begun, this time included.
  """

  def __init__(self, path, fd, number):
    self.path, self.fd, self.number = path, fd, number

  @property
  def is_lost(self):
    """Whether another machine took it over."""
    return os.path.lexists(self.path.with_suffix(f".{self.number + 1}"))

  def beat(self):
    """Tells the others that the run is alive."""
    if not self.is_lost:
      os.utime(self.path)

  def release(self):
    """Lets others begin the run."""
    if not self.is_lost:
      os.utime(self.path, (0, 0))
    os.close(self.fd)


def take(run, stale_secs):
  """Returns a `Claim` on a run; None where another's is live.

  Args:
    run: its path; claims lie beside it.
    stale_secs: silence after which another machine counts as dead.
  """
  run = pathlib.Path(run)
  run.parent.mkdir(parents=True, exist_ok=True)
  last = max(_numbers(run), default=0)
  if last and _is_live(_path(run, last), stale_secs):
    return None
  path = _path(run, last + 1)
  try:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
  except FileExistsError:
    return None  # Another was faster.
  _lock(fd)
  os.write(fd, json.dumps({
      "host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(),
      "time": time.strftime("%Y-%m-%d %H:%M:%S %z")}).encode() + b"\n")
  return Claim(path, fd, last + 1)


def holder(run):
  """Returns what the newest claim on a run says of its holder."""
  run = pathlib.Path(run)
  found = _read(_path(run, max(_numbers(run), default=0)))
  return f"{found.get('host', '?')}, process {found.get('pid', '?')}"


def now(folder):
  """Returns the time by the clock of a folder's file system."""
  with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock") as file:
    return os.stat(file.name).st_mtime


def Heart(held):
  """Returns a context that beats for all claims of a set.

  Args:
    held: the set, which the body may change.
  """
  def beat():
    for claim in tuple(held):
      try:
        claim.beat()
      except OSError as error:  # A server that is away for a while.
        print(f"{claim.path}: no heartbeat: {error}", flush=True)
  return workers.repeating(beat, BEAT_SECS)


def _numbers(run):
  pattern = re.compile(re.escape(run.name) + r"\.claim\.(\d+)")
  found = map(pattern.fullmatch, os.listdir(run.parent))
  return [int(match[1]) for match in found if match]


def _path(run, number):
  return run.with_name(f"{run.name}.claim.{number}")


def _is_live(path, stale_secs):
  if _read(path).get("boot") == _boot():
    locked = _is_locked(path)
    if locked is not None:
      return locked
  beaten_secs = path.stat().st_mtime
  return beaten_secs > 0 and now(path.parent) - beaten_secs < stale_secs


def _read(path):
  """Returns what a claim says; nothing while it is being written."""
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return {}


def _is_locked(path):
  """Returns whether a process has a claim locked; None where none can."""
  fd = os.open(path, os.O_RDWR)
  try:
    return _lock(fd)
  finally:
    os.close(fd)


def _lock(fd):
  """Locks; returns whether another has it, None where there are no locks."""
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return False
  except BlockingIOError:
    return True
  except OSError:
    return None


def _boot():
  """Returns what no other machine, and no other start of this one, has."""
  path = pathlib.Path("/proc/sys/kernel/random/boot_id")
  return path.read_text().strip() if path.exists() else socket.gethostname()
