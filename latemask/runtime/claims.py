"""Who owns a folder: a claim, a small file that its holder keeps touching.

A workdir, rows that are being packed, an export and a run of a sweep belong to
one running program at a time. This holds on a disk, on NFS and on gs://: it
needs no locks, and no two clocks are compared.
  1. A claim says who holds the folder: token, host, process, since when. Its
     holder writes it anew every `BEAT_SECS`, with another number of beats.
  2. A program on the same host asks the system whether the holder is alive.
     If it is, the program is refused at once; if not, it takes over at once.
  3. Anywhere else the claim is watched, by the watcher's own clock. If it
     changes, its holder is alive; if it stays the same for `SILENT_SECS`, the
     watcher puts its own claim there. What cannot be read is watched, too.
  4. Before anything is kept, the holder reads the claim (`Claim.check`). If
     it finds another's, or none, it ends and keeps nothing: this machine was
     asleep or cut off, and the folder may have had another holder since.
So to delete a claim by hand ends the program that holds it.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid

from etils import epath

from latemask import errors
from latemask.runtime import files
from latemask.runtime import signals

BEAT_SECS = 10
# A claim that has not changed for so long has no holder any more.
SILENT_SECS = 60
# Between two looks at the claim of another.
LOOK_SECS = 1
# Whoever wrote a claim over another reads it again so much later: of two that
# did so at once, one finds the other's.
SETTLE_SECS = 1
# How often a claim that cannot be read is tried again, and how soon.
_TRIES, _TRY_SECS = 4, 0.25
# How long an end waits for a beat that is under way.
_RELEASE_SECS = 5
# What starts programs by itself sets this variable, so that it can tell
# "try again later" from what no second try can mend.
CODE_VARIABLE = "LATEMASK_HELD_CODE"


class HeldError(errors.Ending):
  """A folder belongs to another program that is running.

  The exit code is that of a wrong input, or what the environment variable
  LATEMASK_HELD_CODE says.
  """

  @property
  def code(self):
    return int(os.environ.get(CODE_VARIABLE) or errors.InputError.code)


def inside(folder, name="claim.json"):
  """Returns where the claim on a folder lies."""
  return epath.Path(folder) / name


def beside(folder):
  """Returns where the claim on a folder lies that is replaced as a whole."""
  name = str(folder).rstrip("/")
  if os.path.basename(name) in ("", ".", ".."):
    name = os.path.realpath(folder)
  return epath.Path(f"{name}.claim")


@contextlib.contextmanager
def held(path, wait=False):
  """Its body runs while this program has a `Claim`, which is yielded.

  Args:
    path, wait: see `take`.
  """
  claim = take(path, wait)
  try:
    with signals.undoing(claim.release):
      yield claim
  finally:
    claim.release()


def take(path, wait=False):
  """Returns a `Claim`, once it is this program's.

  Args:
    path: of the claim; its folder is made.
    wait: wait until the other program has come to its end, and say so.

  Raises:
    HeldError: the other is running, and `wait` is False.
  """
  watch, told = Watch(path), None
  while not (claim := watch.take()):
    if watch.is_held and not wait:
      raise HeldError(
          f"{_folder(path)} belongs to a program that is running: "
          f"{watch.holder}. Wait for its end, or stop it there, or give "
          "another folder")
    said = watch.holder and (
        f"{_folder(path)} belongs to {watch.holder}: "
        + ("waiting for its end" if watch.is_held else
           f"watching for {SILENT_SECS:g} s whether it still runs"))
    if said and said != told:
      print(said, flush=True)
    told = said
    time.sleep(LOOK_SECS)
  return claim


def living(path):
  """Returns the holder in words, if it is alive on this host; else ""."""
  record = _parse(_read(epath.Path(path)))
  return _words(record) if _is_alive(record) else ""


class Watch:
  """Looks at a claim again and again, until it can be taken.

  Fields:
    holder: the other program in words; "" where the last look found none.
    is_held: whether it was alive at the last look.
  """

  def __init__(self, path):
    self._path = epath.Path(path)
    self._forget()

  def take(self):
    """Looks once; returns a `Claim`, or None where it cannot be taken yet."""
    try:
      text = _read(self._path)
    except PermissionError as error:
      raise errors.InputError(
          f"{self._path} cannot be read: whether its holder still runs cannot "
          "be told") from error
    if text is None:
      self._forget()
      return self._put(None)
    record = _parse(text)
    self.holder = _words(record)
    is_alive = _is_alive(record)
    if is_alive is None:
      is_alive = not self._is_silent(text)
    else:
      self.is_held = is_alive
    return None if is_alive else self._put(text)

  def _put(self, seen):
    claim = Claim(self._path)
    return claim if claim.put(seen) else None

  def _forget(self):
    self.holder, self.is_held = "", False
    self._seen, self._looked_secs, self._silent_secs = None, 0, 0

  def _is_silent(self, text):
    """Returns whether a claim has been the same for long enough."""
    now_secs = time.monotonic()
    if text == self._seen:
      # This program may have been stopped between two looks, and the file
      # system with it: a gap counts for as much as a beat.
      self._silent_secs += min(now_secs - self._looked_secs, BEAT_SECS)
    else:
      self.is_held = self._seen is not None
      self._seen, self._silent_secs = text, 0
    self._looked_secs = now_secs
    return self._silent_secs >= SILENT_SECS


class Claim:
  """A claim that this program holds, or may come to hold.

  Fields:
    path: where it lies.
    token: what no other claim has.
    is_lost: whether the claim was found to be another's, or gone.
  """

  def __init__(self, path, token=None):
    """Takes the token of the claim that another process of a run holds."""
    self.path = epath.Path(path)
    self.token = token or uuid.uuid4().hex
    self.is_lost = False
    self._record = _here() | {
        "token": self.token, "process": os.getpid(), "start":
        _start_of(os.getpid()), "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "beats": 0}
    self._made = []  # Folders that this program has made.
    self._end, self._lock = threading.Event(), threading.Lock()

  def put(self, seen):
    """Puts the claim in the place of what was seen there, and keeps it alive.

    Args:
      seen: the text of a claim without a holder; None where there was none.

    Returns:
      Whether it is there now; if not, another was faster.
    """
    folder = self.path.parent
    if not files.is_remote(folder):
      self._made = [p for p in (folder, *folder.parents) if not p.exists()]
    files.make(folder)
    is_there = self._create() if seen is None else None
    if is_there is None:
      if _read(self.path) != seen:
        return False
      self._write()
      time.sleep(SETTLE_SECS)
      is_there = self.is_there()
    if is_there:
      threading.Thread(target=self._live, daemon=True).start()
    return is_there

  def check(self):
    """Reads the claim, before something is kept.

    Raises:
      HeldError: it is not this program's any more.
    """
    if not self.is_lost:
      self._look()
    self.notice()

  def notice(self):
    """Raises a HeldError if a look or a beat has found the claim lost."""
    if self.is_lost:
      raise HeldError(
          f"{_folder(self.path)} is not this program's any more "
          f"({self._found}); nothing more was saved there")

  def release(self):
    """Lets others have the folder; safe to call again."""
    self._end.set()
    # A beat that hangs must not keep the program from its end.
    is_mine = self._lock.acquire(timeout=_RELEASE_SECS)
    # A claim that cannot be deleted falls silent. Libraries for gs:// raise
    # errors of their own.
    with contextlib.suppress(Exception):
      if self.is_there():
        self.path.unlink(missing_ok=True)
        for folder in self._made:  # Only those that are empty go.
          os.rmdir(folder)
    if is_mine:
      self._lock.release()

  def _create(self):
    """Writes the claim where there is none.

    Returns:
      Whether it is there now; None where the file system cannot tell.
    """
    if files.is_remote(self.path):
      return None
    part = self.path.with_name(f"{self.path.name}.{self.token[:8]}.part")
    try:
      part.write_text(self._text)
      os.link(part, self.path)
      return True
    except FileExistsError:  # Which a slow server says of our own, too.
      return self.is_there()
    except OSError:  # Some know no links.
      return None
    finally:
      part.unlink(missing_ok=True)

  def _write(self):
    with files.writing(self.path, outlives_power=False) as part:
      part.write_text(self._text)

  @property
  def _text(self):
    return json.dumps(self._record) + "\n"

  def is_there(self):
    """Returns whether it is to be seen where it lies."""
    return _parse(_read(self.path)).get("token") == self.token

  def _live(self):
    """Beats until the claim is released or lost; in a thread of its own."""
    while not self._end.wait(BEAT_SECS) and not self.is_lost:
      # A full disk, a server that is away, and what libraries for gs:// make
      # of it: the next beat may go.
      with self._lock, contextlib.suppress(Exception):
        if not self._end.is_set():
          self._beat()

  def _beat(self):
    self._look()
    if not self.is_lost:
      self._record["beats"] += 1
      self._write()

  def _look(self):
    """Finds out whether the claim is lost."""
    for tried in range(_TRIES):
      time.sleep(_TRY_SECS * bool(tried))
      try:
        text = _read(self.path)
      except Exception:  # As in `_live`: what cannot be read says nothing.
        return
      record = _parse(text)
      if record:  # Else it may be being written.
        break
    if text is None:
      self._found = "its claim is gone"
    elif record and record["token"] != self.token:
      self._found = f"but of {_words(record)}"
    else:
      return
    self.is_lost = True


def _folder(path):
  """Returns what a claim is on."""
  path = epath.Path(path)
  return path.with_suffix("") if path.suffix == ".claim" else path.parent


def _read(path):
  """Returns the text of a claim; None where there is none."""
  try:
    return path.read_bytes().decode(errors="replace")
  except FileNotFoundError:
    return None
  except OSError as error:
    if error.errno == errno.ESTALE:  # NFS: just then it was replaced.
      return ""
    raise


def _parse(text):
  """Returns what a claim says; nothing where it is no claim."""
  try:
    record = json.loads(text or "")
  except ValueError:
    return {}
  is_claim = isinstance(record, dict) and isinstance(record.get("token"), str)
  return record if is_claim else {}


def _words(record):
  """Returns who holds a claim, in words."""
  if not record:
    return "a program that cannot be told (the file is damaged)"
  return (f"host {record.get('host', '?')}, process "
          f"{record.get('process', '?')}, since {record.get('since', '?')}")


def _is_alive(record):
  """Returns whether a holder is alive; None where this host cannot tell."""
  here = _here()
  if not here["system"] or any(record.get(key) != here[key] for key in here):
    return None
  process = record.get("process")
  if not isinstance(process, int) or process < 1:
    return None
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except (OverflowError, PermissionError):
    pass  # It is another user's.
  # Another process may have got the number since.
  start = _start_of(process)
  return start is None or start == record.get("start")


def _here():
  """Returns the host, and what says that two programs see each other here.

  That is this start of the kernel, and this space of process numbers: two
  containers of one machine do not share it. Two machines may share a name.
  """
  try:
    boot = epath.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    system = f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:
    system = None  # Not Linux: everything is watched.
  return {"host": socket.gethostname(), "system": system}


def _start_of(process):
  """Returns when a process began; 0 of one that ended, None if unknown."""
  try:
    text = epath.Path(f"/proc/{process}/stat").read_text()
  except OSError:
    return None
  # Behind the name, which may hold anything.
  fields = text.rpartition(")")[2].split()
  return 0 if fields[0] in "ZX" else int(fields[19])
