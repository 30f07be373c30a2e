"""Where files lie: on this machine's disk, or on gs:// and the like.

Files that must be written whole or not at all are written here.
ArrayRecord is written and read on a local disk. Everything else (manifest,
tokenizer, metrics, checkpoints) goes to gs:// itself, through epath and Orbax.
"""

import contextlib
import errno
import functools
import json
import os
import pathlib
import shutil
import tempfile
import uuid

from etils import epath

from latemask import errors
from latemask.runtime import signals


def is_remote(path):
  """Returns whether a path lies on no local disk."""
  return "://" in str(path)


def absolute(path):
  """Returns a path that is the same in any working folder, as Orbax asks for.

  epath's own takes gs:// for the name of a local folder.
  """
  path = epath.Path(path)
  return path if is_remote(path) else path.absolute()


def size(path):
  """Returns the bytes of a file."""
  # epath looks up the name of the owner, who may have none on this machine.
  return (epath.Path(path).stat().length if is_remote(path) else
          os.stat(path).st_size)


def check_writable(folder):
  """Refuses a folder that is read-only or cannot be made; makes nothing.

  Raises:
    InputError: it is so.
    SaveError: the whole disk is read-only.
  """
  if is_remote(folder):
    return  # Only a write would tell.
  folder = pathlib.Path(folder).absolute()
  try:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
  except OSError as error:  # Its name is too long, or a folder above is shut.
    raise errors.InputError(
        f"{folder} cannot be looked at ({error.strerror})") from error
  if not existing.is_dir():
    raise errors.InputError(f"{folder} cannot be made: {existing} is a file")
  if os.statvfs(existing).f_flag & os.ST_RDONLY:
    raise errors.of_disk(OSError(
        errno.EROFS, os.strerror(errno.EROFS), str(folder)))
  if not os.access(existing, os.W_OK | os.X_OK):
    raise errors.InputError(f"{folder} cannot be written: {existing} is "
                            "read-only")


def make(folder):
  """Makes a folder, with those above it, unless it is there.

  Raises:
    InputError: it cannot be made.
    SaveError: the disk is full or read-only.
  """
  try:
    epath.Path(folder).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.of_disk(error) or errors.InputError(
        f"{folder} cannot be made ({error.strerror})") from error


@contextlib.contextmanager
def writing(path, outlives_power=True):
  """Yields a local path; what its body writes there becomes `path`.

  It appears whole or not at all. A local one is written beside its place,
  under a name of this caller's own: an orphan of a killed run, or another
  machine, may still write its own.

  Args:
    outlives_power: whether it is waited for until a loss of power would leave
      the whole.
  """
  path = epath.Path(path)
  part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
  remove = functools.partial(part.unlink, missing_ok=True)
  try:
    if is_remote(path):
      with temporary_folder() as folder:
        here = epath.Path(folder) / path.name
        yield here
        here.copy(part, overwrite=True)
      part.replace(path)
      return
    with signals.undoing(remove):
      yield part
      if outlives_power:
        _to_disk(part)
      part.replace(path)
  except OSError as error:
    raise _named(error, path)
  finally:
    remove()


def _to_disk(path):
  """Returns once a local file is where a loss of power leaves it.

  Else the new name may be kept, and not what it names.
  """
  file = os.open(path, os.O_RDONLY)
  try:
    os.fsync(file)
  finally:
    os.close(file)


@contextlib.contextmanager
def temporary_folder():
  """Yields a local folder; it is deleted afterwards, unless we are killed."""
  with tempfile.TemporaryDirectory(prefix="latemask_") as folder:
    with signals.undoing(functools.partial(
        shutil.rmtree, folder, ignore_errors=True)):
      yield folder


def check_replaceable(folder, mark, names):
  """Refuses a folder that holds anything but what was written into it.

  Args:
    folder: may be there or not.
    mark: the file by which it is known.
    names: of all the files that it may hold.

  Raises:
    InputError: something else is there; names it.
  """
  folder = epath.Path(folder)
  if not os.path.lexists(folder) and not folder.exists():
    return
  if not folder.is_dir():
    raise errors.InputError(f"{folder} is there, and is no folder")
  found = {path.name for path in folder.iterdir()}
  # On gs:// an upload that was cut off has no mark.
  others = sorted(found - set(names)) or [
      f"no {mark}"] * (mark not in found and not is_remote(folder))
  if found and others:
    raise errors.InputError(
        f"{folder} holds something else than what would be replaced there "
        f"({others[0]}); it is left as it is, name another folder")


@contextlib.contextmanager
def replacing(folder, mark):
  """Yields a new local folder; what its body writes there becomes `folder`.

  It is whole under another name before what was there is set aside, and that
  is deleted last. On gs://, where no folder has another name, `mark` goes
  first and comes last. Whoever calls it has looked at what is there: see
  `check_replaceable`.

  Args:
    mark: a file without which what is there is nothing.
  """
  if is_remote(folder):
    with temporary_folder() as here:
      yield pathlib.Path(here)
      _copy_up(pathlib.Path(here), epath.Path(folder), mark)
    return
  folder = pathlib.Path(os.path.realpath(folder))
  name = f"{folder.name}.{uuid.uuid4().hex[:8]}"
  part, before = (folder.with_name(f"{name}.{word}")
                  for word in ("part", "before"))

  def undo():
    if before.exists() and not folder.exists():
      before.rename(folder)
    shutil.rmtree(part, ignore_errors=True)

  try:
    with signals.undoing(undo):
      part.mkdir(parents=True)
      yield part
      if folder.exists():
        folder.rename(before)
      part.rename(folder)
  except OSError as error:
    raise _named(error, folder)
  finally:
    undo()
  shutil.rmtree(before, ignore_errors=True)


def _copy_up(here, folder, mark):
  """Makes a folder on gs:// hold what a local one holds, and nothing else."""
  make(folder)
  (folder / mark).unlink(missing_ok=True)
  for path in folder.iterdir():
    path.rmtree() if path.is_dir() else path.unlink()
  paths = [path for path in here.rglob("*") if path.is_file()]
  for path in sorted(paths, key=lambda path: (path.name == mark, path)):
    target = folder / path.relative_to(here)
    make(target.parent)
    epath.Path(path).copy(target, overwrite=True)


def _named(error, path):
  """Returns an OSError that names a file: that of a write does not."""
  if error.errno and not error.filename:
    error.filename = str(path)
  return error


def write_json(path, value, sort_keys=False):
  """Writes a value as JSON, whole or not at all; makes the folder.

  Raises:
    InputError: the folder cannot be made.
  """
  path = epath.Path(path)
  make(path.parent)
  with writing(path) as part:
    part.write_text(json.dumps(value, indent=1, sort_keys=sort_keys) + "\n")
