"""Runs the points of a sweep: processes, claims, failures."""

import contextlib
import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

from latemask.data import mixture
from latemask.data import prepare as prepare_lib
from latemask.hub import pretrained
from latemask.runtime import claims
from latemask.runtime import console
from latemask.runtime import files
from latemask.runtime import signals as signals_lib
from latemask.sweep import costs
from latemask.sweep import outcome
from latemask.sweep import points as points_lib
from latemask.sweep import shim

_POLL_SECS = 0.2
_LOOK_SECS = 3  # Between looks at what others do.
_MAIN = ("-m", "latemask.main")
_HELD_CODE = 6  # Of a run that another program holds: no failure.


class _Process:
  """A run under way: latemask.main, as a process of its own."""

  def __init__(self, point, claim, args, place):
    self.point, self.claim, self.place = point, claim, place
    self._start_secs = time.monotonic()
    self._begun_steps = costs.last_step(point.path)
    if files.is_remote(point.path):
      self.log = pathlib.Path(tempfile.mkdtemp()) / "log"
    else:
      self.log = pathlib.Path(point.file("log"))
    self.log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if not files.is_remote(args.out):
      environment.setdefault(
          "JAX_COMPILATION_CACHE_DIR",
          str(pathlib.Path(args.out).absolute() / "cache"))
    environment[claims.CODE_VARIABLE] = str(_HELD_CODE)
    with self.log.open("a") as log:
      log.write(f"--- start {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
      log.flush()
      # A session of its own: Ctrl-C goes to the sweep, which tells it once.
      self._shim = subprocess.Popen(
          [sys.executable, "-I", "-S", shim.__file__, str(place),
           str(args.parallel), sys.executable, *_MAIN, *point.flags,
           f"--workdir={point.path}"],
          stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
          env=environment, start_new_session=True, bufsize=0)

  @property
  def code(self):
    """Its exit code; None while it runs."""
    return self._shim.poll()

  @property
  def secs(self):
    """How long it has run."""
    return time.monotonic() - self._start_secs

  @property
  def flops_per_sec(self):
    """Its rate since it was started; None of fine-tuning, or of no step."""
    point = self.point
    if not point.flops:
      return None
    return point.flops * (
        1 - self._begun_steps / point.num_steps) / self.secs or None

  def tell(self, signum):
    """Sends it a signal."""
    with contextlib.suppress(BrokenPipeError):
      self._shim.stdin.write(bytes([signum]))

  def last_line(self):
    """Returns the last line that it printed."""
    lines = self.log.read_text(errors="replace").replace("\r", "\n").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "").strip()


class Sweep:
  """Runs points; see the module."""

  def __init__(self, points, args, rate):
    """Takes the points, the flags and the FLOP/s of a run, None if unknown."""
    self._points, self._args, self._rate = points, args, rate
    self._rates = []  # Of those that ended here: others are faster, or not.
    self._running, self._failed, self._watches = {}, {}, {}
    self._looked_secs = -math.inf
    self._left = list(points)
    self._told_of = set()
    # What others find to fail from now on is not tried again here.
    self._failed_before = {p.name: _text(p.file("failed")) for p in points}

  def run(self):
    """Runs what is not done; returns the exit code."""
    with signals_lib.heard() as signals:
      signals.hold()
      try:
        while True:
          for process in list(self._running.values()):
            self._look_after(process)
          if stop := signals.agreed():
            return self._stop(stop)
          if time.monotonic() > self._looked_secs + _LOOK_SECS:
            self._look()
            if not self._left:
              break
            self._start()
          time.sleep(_POLL_SECS)
      finally:
        # Only where this program fails: the runs have not, and save.
        for process in self._running.values():
          process.tell(signal.SIGTERM)
    for name, reason in self._failed.items():
      print(f"latemask: {name}: {reason}", file=sys.stderr)
    if self._failed:
      print(f"latemask: {len(self._failed)} of {len(self._points)} runs "
            "failed; what each printed is in RUN.log beside its folder, and "
            "the same command tries them again", file=sys.stderr)
    return int(bool(self._failed))

  def _look(self):
    """Looks which runs have not come to their end, here or elsewhere."""
    self._looked_secs = time.monotonic()
    # A server that is away may be there at the next look.
    with contextlib.suppress(OSError):
      self._left = [p for p in self._left
                    if p.name not in self._failed and not p.done]

  def _start(self):
    """Starts runs in free places."""
    for point in self._left:
      if len(self._running) >= self._args.parallel:
        return
      if point.name in self._running or self._failed_elsewhere(point):
        continue
      claim = self._claim(point)
      if not claim:
        continue
      # It may have ended between the look and the claim.
      if point.done or self._failed_elsewhere(point):
        claim.release()
        continue
      taken = {process.place for process in self._running.values()}
      place = min(set(range(self._args.parallel)) - taken)
      process = _Process(point, claim, self._args, place)
      self._running[point.name] = process
      print(f"{point.name}: begins; what it prints is in {process.log}",
            flush=True)

  def _claim(self, point):
    """Returns a claim on a run; None, and says so once, where others hold it.
    """
    watch = self._watches.setdefault(
        point.name, claims.Watch(claims.beside(point.path)))
    # A run whose sweep was killed may still save; another may be no sweep's.
    holder = claims.living(claims.inside(point.path))
    claim = None if holder else watch.take()
    holder = holder or watch.holder
    if not claim and holder and point.name not in self._told_of:
      print(f"{point.name}: held by {holder}; waiting", flush=True)
      self._told_of.add(point.name)
    return claim

  def _failed_elsewhere(self, point):
    path = point.file("failed")
    if _text(path) in (None, self._failed_before[point.name]):
      return False
    self._failed[point.name] = points_lib.read_json(path).get("reason", "?")
    return True

  def _look_after(self, process):
    """Takes down how a run ended, if it did."""
    point, claim = process.point, process.claim
    if claim.is_lost:
      process.tell(signal.SIGKILL)
      while process.code is None:
        time.sleep(_POLL_SECS)
      self._drop(process)
      print(f"{point.name}: another machine took it over", flush=True)
      return
    code = process.code
    if code is None:
      return
    if code == 0:
      files.write_json(point.file("done"), {
          "config": point.wanted, "secs": round(process.secs, 1),
          "flops_per_sec": process.flops_per_sec})
      point.file("failed").unlink(missing_ok=True)
      self._rates += [process.flops_per_sec] * bool(process.flops_per_sec)
      self._rate = statistics.median(self._rates or [self._rate])
      found = outcome.text(point)
      said = f"done in {console.duration(process.secs)}" + (
          f", {found}" if found else "")
    elif code == _HELD_CODE:
      said = f"another program holds it; waiting: {process.last_line()}"
    else:
      reason = f"exit code {code}: {process.last_line()}"
      files.write_json(point.file("failed"),
                       {"code": code, "reason": reason,
                        "id": uuid.uuid4().hex})
      self._failed[point.name] = reason
      said = f"FAILED, {reason}"
    self._drop(process)
    self._look()
    self._looked_secs = -math.inf  # There is a free place.
    secs = costs.left_secs(
        self._left, self._points, self._rate, self._args.parallel)
    total = len(self._points)
    print(f"[{total - len(self._left)}/{total}] {point.name}: {said}; "
          f"{'unknown' if secs is None else console.duration(secs)} left",
          flush=True)

  def _drop(self, process):
    del self._running[process.point.name]
    process.claim.release()

  def _stop(self, signum):
    """Lets the runs save; returns the exit code."""
    print(f"{signal.Signals(signum).name}: {len(self._running)} run(s) save; "
          "the same command goes on", flush=True)
    for process in self._running.values():
      process.tell(signal.SIGTERM)
    for process in list(self._running.values()):
      while process.code is None:
        time.sleep(_POLL_SECS)
      if process.code == 0:
        self._look_after(process)
      else:
        self._drop(process)
    return 128 + signum


def pack(points):
  """Packs the rows that runs share, each set once."""
  todo = [point for point in points if not point.done]
  for directory, config in costs.rows(todo).items():
    if not mixture.load(config, directory):
      prepare_lib.prepare(config, directory, tokenizer=
                          pretrained.tokenizer_of_rows(config))


def _text(path):
  """Returns the text of a file; None where there is none."""
  try:
    return path.read_text() if path.exists() else None
  except FileNotFoundError:  # Another machine has deleted it since.
    return None
