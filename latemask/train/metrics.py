"""metrics.jsonl, TensorBoard and the console: what a run says of itself.

metrics.jsonl is the record: one object a line, appended, and cut to the
restored step on resume, so that no step stands twice; that there was a
rollback stays on record. TensorBoard events are a copy to look at. Each start
of a run begins a session of its own there, and the curves of what was cut end
at its beginning. They need tensorflow, and are skipped without it.
"""

import contextlib
import json
import math
import os
import time

from absl import logging
from etils import epath
import jax

from latemask import errors
from latemask.runtime import distributed
from latemask.runtime import files

# Keys of a line that tell how fast and on what; a run that was broken off and
# gone on with, or is trained once more, has others.
TIMES = ("tokens_per_sec", "step_ms", "data_wait_fraction", "mfu", "devices",
         "watts")


class Profiler:
  """Traces the window of `metrics.profile_step`; closes it in any case."""

  def __init__(self, config, workdir):
    self._first = config.metrics.profile_step
    self._steps = config.metrics.profile_steps
    self._workdir = str(workdir)
    self._is_open = False

  def at(self, step):
    """Opens or closes the window before a step."""
    if self._first is not None and step == self._first:
      jax.profiler.start_trace(self._workdir)
      self._is_open = True
    elif self._is_open and step >= self._first + self._steps:
      self.close()

  def close(self):
    """Writes the trace, if one is open."""
    if self._is_open:
      jax.profiler.stop_trace()
      self._is_open = False

# Seconds until the first line on the console, even where no step is due: it
# says how long the run will take.
_FIRST_LINE_SECS = 10


class Writer:
  """Writes metrics on process 0; the others only know what is on record."""

  def __init__(self, workdir, start_step, num_rollbacks=math.inf):
    """Opens the files, cutting them to where a run goes on; see `cut`."""
    self._workdir = workdir
    self._path = epath.Path(workdir) / "metrics.jsonl"
    self._is_active = jax.process_index() == 0
    self._file = self._summary = None
    self._opened = contextlib.ExitStack()
    self.cut(start_step, num_rollbacks)

  def cut(self, step, num_rollbacks=math.inf):
    """Takes all that stands after `step` off the record, but rollbacks.

    Args:
      step: -1 leaves nothing, for a run that begins anew.
      num_rollbacks: those that have been; a later one is to come once more.
    """
    self._evaluated = set()
    kept = []
    if self._path.exists():
      for line in self._path.read_bytes().split(b"\n"):
        record = _parse(line)
        if record and (record["rollback"] <= num_rollbacks
                       if "rollback" in record else record["step"] <= step):
          kept.append(line + b"\n")
          if "eval/loss" in record:
            self._evaluated.add(record["step"])
    # All processes must come to the same `has_eval`: an evaluation is theirs
    # together. What the first one has just written others may not see so far;
    # and it may not cut the file before all have read it.
    if distributed.from_first("evaluated" * (step in self._evaluated)):
      self._evaluated.add(step)
    else:
      self._evaluated.discard(step)
    if not self._is_active:
      return
    with _full_disk(self._path):
      self._opened.close()
      if self._path.exists():
        with files.writing(self._path) as part:
          part.write_bytes(b"".join(kept))
      # On gs:// what opens gives a file only as a context.
      self._file = self._opened.enter_context(self._path.open("a"))
    self._copy(lambda summary: summary.close())
    self._summary = _summary_writer(self._workdir, step + 1)

  def has_eval(self, step):
    """Returns whether the step's evaluation is already on record."""
    return step in self._evaluated

  def write(self, step, scalars):
    """Appends one line; non-finite numbers become strings, as JSON wants.

    Raises:
      SaveError: it cannot be written.
    """
    if not self._is_active:
      return
    with _full_disk(self._path):
      self._file.write(json.dumps({"step": step} | {
          k: v if abs(v) < float("inf") else str(v)
          for k, v in scalars.items()}) + "\n")
      self._file.flush()
    self._copy(lambda summary: (
        summary.write_scalars(step, scalars), summary.flush()))

  def close(self):
    """Closes the files."""
    if self._is_active:
      # A line that would not go to a full disk would not go now either.
      with contextlib.suppress(OSError):
        self._opened.close()
      self._copy(lambda summary: summary.close())

  def _copy(self, write):
    """Writes TensorBoard events as long as that works; nobody needs them."""
    if not self._summary:
      return
    from tensorflow import errors as tf_errors  # It is there, then.
    try:
      write(self._summary)
    except tf_errors.OpError as error:
      logging.warning("no more TensorBoard events: %s", error.message)
      self._summary = None


class Clock:
  """Times the steps between two metric lines.

  A pause (evaluation, saving) is taken out of the account.
  """

  def __init__(self, step_tokens, peak_flops, machine=None):
    """Starts the clock.

    Args:
      step_tokens: tokens of a step, masked or not.
      peak_flops: FLOP/s that all devices could do; None where unknown.
      machine: {name: number}, what each lap tells of it.
    """
    self._step_tokens = step_tokens
    self._peak_flops = peak_flops
    self._machine = machine or {}
    self._is_first = True
    self.restart()

  def restart(self):
    """Forgets what was counted: what follows is the start."""
    self._start_secs = time.monotonic()
    self._wait_secs = self._pause_secs = 0.0
    self._steps = self._flops = 0

  @contextlib.contextmanager
  def wait(self):
    """Its body waits for data."""
    start_secs = time.monotonic()
    yield
    self._wait_secs += time.monotonic() - start_secs

  @contextlib.contextmanager
  def pause(self):
    """Its body is no training. No lap may end within."""
    start_secs = time.monotonic()
    yield
    self._pause_secs += time.monotonic() - start_secs

  def stepped(self, flops):
    """Counts a step of so many FLOPs."""
    self._steps += 1
    self._flops += flops

  def is_due(self):
    """Returns, once, whether a first line is due that no step count asks."""
    if not (self._is_first and self._steps) or (
        time.monotonic() - self._start_secs < _FIRST_LINE_SECS):
      return False
    self._is_first = False
    return True

  def lap(self):
    """Returns the rates since the last lap, and starts another."""
    rates = self.rates()
    self._is_first = False
    self.restart()
    return rates

  def rates(self):
    """Returns the rates since the last lap.

    Without a step in between (after the one that compiles) there are none.
    """
    if not self._steps:
      return {}
    secs = max(time.monotonic() - self._start_secs - self._pause_secs, 1e-9)
    steps = self._steps
    rates = {"tokens_per_sec": steps * self._step_tokens / secs,
             "step_ms": 1000 * secs / steps,
             "data_wait_fraction": self._wait_secs / secs} | self._machine
    if self._peak_flops:
      rates["mfu"] = self._flops / secs / self._peak_flops
    return rates


def _parse(line):
  """Returns the record of a line; None where a stop cut it off, or damaged."""
  try:
    record = json.loads(line)
  except (ValueError, RecursionError):
    return None
  is_whole = isinstance(record, dict) and all(
      isinstance(record.get(key, 0), int) for key in ("step", "rollback"))
  return record if is_whole and "step" in record else None


@contextlib.contextmanager
def _full_disk(path):
  """Its body writes; half a line that it leaves is dropped on resume."""
  try:
    yield
  except OSError as error:
    raise errors.SaveError(
        f"{path} cannot be written ({error.strerror}); make room, and the "
        "same command goes on from the newest checkpoint") from error


def _summary_writer(workdir, first_step):
  """Returns a writer of TensorBoard events from a step on; None without."""
  # TensorFlow, which does nothing here but write events, greets on stderr.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  try:
    from clu.metric_writers import summary_writer
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer import event_file_writer
    # A file of its own, before the writer's by its name: from here on
    # TensorBoard forgets what earlier files have of these steps.
    session = event_file_writer.EventFileWriter(str(workdir))
    session.add_event(event_pb2.Event(
        wall_time=time.time(), step=first_step, session_log=
        event_pb2.SessionLog(status=event_pb2.SessionLog.START)))
    session.close()
    return summary_writer.SummaryWriter(str(workdir))
  except (ImportError, OSError) as error:
    logging.warning("no TensorBoard events (%s); metrics.jsonl is written "
                    "all the same", error)
    return None
