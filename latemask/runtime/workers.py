"""Worker processes on this machine, and a call repeated while they work.

Packing runs in them, under one progress bar. They end with the process that
started them, even if that is killed.
"""

import concurrent.futures
from concurrent.futures import process
import contextlib
import multiprocessing
import os
import signal
import threading

from latemask import errors
from latemask.runtime import signals


def run(function, items, workers, bar):
  """Calls `function(item, progress)` once an item, in any order.

  Args:
    function: picklable where there are several workers.
    workers: processes; None is one a core. One alone is this process.
    bar: a tqdm bar; it moves by what the calls report to `progress`.

  Raises:
    The first exception of a call; calls that have not begun are dropped.
  """
  workers = min(workers or len(os.sched_getaffinity(0)), len(items))
  with signals.undoing(bar.close):
    if workers > 1:
      _run_apart(function, items, workers, bar)
      return
    for item in items:
      function(item, bar.update)


def _run_apart(function, items, workers, bar):
  # Not fork: the parent may hold threads of JAX, Grain or TensorFlow.
  context = multiprocessing.get_context("spawn")
  done = context.Value("q", 0)
  with concurrent.futures.ProcessPoolExecutor(
      workers, context, _start_worker, (done,)) as pool:
    # Ctrl-C goes to all processes of a terminal. From their first line on
    # these are deaf to it: they end with this one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
      pending = {pool.submit(_call, function, item) for item in items}
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
      while pending:
        finished, pending = concurrent.futures.wait(pending, timeout=0.5)
        for future in finished:
          future.result()
        bar.update(done.value - bar.n)
    except process.BrokenProcessPool as error:
      raise errors.Ending(
          "a worker process was killed, perhaps for want of memory; what is "
          "packed stays, and the same command goes on (with fewer "
          "data.workers)") from error
    finally:
      for future in pending:
        future.cancel()


@contextlib.contextmanager
def repeating(function, secs):
  """Calls a function every so many seconds, in a thread, while its body runs.

  Once the body has ended it is called no more.
  """
  end = threading.Event()
  def repeat():
    while not end.wait(secs):
      function()
  thread = threading.Thread(target=repeat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    end.set()
    thread.join()


def _start_worker(done):
  """Takes the shared counter; ends with the parent, killed or not."""
  global _done
  _done = done
  def follow():
    multiprocessing.parent_process().join()
    signals.undo()
    os._exit(1)
  threading.Thread(target=follow, daemon=True).start()


def _call(function, item):
  def progress(amount):
    with _done.get_lock():
      _done.value += amount
  function(item, progress)
