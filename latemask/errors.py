"""What ends a program with one line and an exit code of its own.

It stands before every other module. `main` and the tools print the message of
an `Ending` as a single line; anything else that is raised is a bug of ours and
keeps its traceback.
"""

import contextlib
import errno
import os
import select
import signal
import sys
import threading
import time

# How long an end waits for threads that others have left.
_THREAD_SECS = 20


class Ending(Exception):
  """Ends a program; the message is one line, `code` the exit code."""

  code = 1


class InputError(Ending):
  """A config, file or command line that cannot be used.

  The message is one line: what is wrong, where, and what would be right.
  """

  code = 2


class MissingError(Ending):
  """Not all processes of a run are there."""

  code = 4


class SaveError(Ending):
  """A run cannot be kept on disk."""

  code = 5


# What a disk says that takes nothing more: no fault of the program, nor of what
# it was given.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG,
                errno.EIO)


def of_disk(error):
  """Returns the SaveError of a disk that takes nothing more; None of others.

  Libraries that are not written in Python raise what they like; the words of
  the system stand in their message.
  """
  code = getattr(error, "errno", None) or next(
      (c for c in _DISK_ERRORS if os.strerror(c) in str(error)), None)
  if code not in _DISK_ERRORS:
    return None
  where = next((place for place in (
      getattr(error, name, None) for name in ("filename2", "filename"))
                if place), None)
  where = where or str(error).strip().splitlines()[0][:200]
  return SaveError(
      f"a file cannot be written ({os.strerror(code)}): {where}; what is whole "
      "stays. Make room, and the same command goes on")


@contextlib.contextmanager
def one_line_exit():
  """Ends the program with the message and the exit code of an `Ending`.

  A disk that is full or read-only is one, too, wherever it was met. Threads
  that hang (those of a save that failed, say) do not keep the program.
  """
  try:
    try:
      yield
    except SystemExit:
      _flush()
      raise
    _flush()
  except BrokenPipeError:  # `| head` has what it wanted.
    if not _is_unread(sys.stdout):
      raise  # It was another one.
    _let_go()
    sys.exit(128 + signal.SIGPIPE)
  except Exception as error:
    ending = error if isinstance(error, Ending) else of_disk(error)
    if ending is None:
      raise
    print(f"latemask: {ending}", file=sys.stderr, flush=True)
    try:
      _flush()
    except OSError:  # Nobody reads it, or it is what is full.
      _let_go()
    threading.Thread(target=_end, args=(ending.code,), daemon=True).start()
    sys.exit(ending.code)


def _flush():
  if sys.stdout:  # None where it was closed (>&-).
    sys.stdout.flush()


def _let_go():
  """Lets standard output lead nowhere: what it still holds has no place."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_unread(file):
  """Whether a file is a pipe that nobody reads any more."""
  poll = select.poll()
  try:
    poll.register(file.fileno(), 0)
  except (AttributeError, OSError, ValueError):  # None, or a notebook's.
    return False
  return any(event & (select.POLLERR | select.POLLHUP)
             for _, event in poll.poll(0))


def _end(code):
  """Ends the program if it has not ended soon after its main thread."""
  threading.main_thread().join()
  time.sleep(_THREAD_SECS)
  os._exit(code)


def choose(table, name, key):
  """Returns `table[name]`, the row that config key `key` asks for.

  Raises:
    InputError: `name` is no row of the table; the message lists the rows.
  """
  if name not in table:
    raise InputError(
        f"{key} is {name!r}; choose one of {', '.join(map(str, table))}")
  return table[name]
