"""The faults that soak.py injects: their table, damage on disk, the child.

  python -m latemask.bench.faults JSON FLAG...

is latemask.main with a fault in it, which JSON names; soak.py and the tests
start it. It is killed when its standard input ends, so that it never outlives
what started it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import threading
import time

import numpy as np

from latemask.checkpoint import checkpoints
from latemask.checkpoint import record as record_lib
from latemask.data import loader
from latemask.data.tokenizers import kinds as tokenizers_lib
from latemask import main as main_lib
from latemask.runtime import workers
from latemask.train import evaluate
from latemask.train import run

# The exit code by signal.
_CODES = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 128 + signal.SIGTERM,
          "SIGINT": 128 + signal.SIGINT}
# What may follow the beginning of a phase until a signal strikes.
PHASE_SECS = {"start": 8.0, "tokenizer": 0.5, "packing": 0.2, "compile": 4.0,
              "step": 0.3, "save": 0.2, "eval": 0.2}
# Phases that come once in a run, and the file that stands behind each.
ONCE = {"tokenizer": "data/tokenizer.model", "packing": "data/rows-*.json"}


@dataclasses.dataclass(frozen=True)
class Fault:
  """A row of `FAULTS`.

  Fields:
    codes: exit codes that a start with it may end with; 0, that the run was
      over before, is always allowed.
    phase: where this process is told to act; None acts on the disk before.
    needs: whole checkpoints that there must be.
    processes: of the run; the first one has the fault.
  """

  codes: tuple[int, ...]
  phase: str | None = None
  needs: int = 0
  processes: int = 1


FAULTS = {
    **{f"{name}, {phase}": Fault((code,), phase)
       for name, code in _CODES.items() for phase in PHASE_SECS},
    **{f"{name} twice": Fault((_CODES[name],), "step")
       for name in ("SIGTERM", "SIGINT")},
    "disk full": Fault((5,), "save"),
    "NaN": Fault((3,), "step"),
    "checkpoint: byte flipped": Fault((), needs=2),
    "checkpoint: cut off": Fault((), needs=2),
    "checkpoint: file removed": Fault((), needs=2),
    "checkpoint: marker removed": Fault((), needs=2),
    "checkpoints: all bad": Fault((2,), needs=1),
    "shard: byte flipped": Fault((2,)),
    "shard: missing": Fault((2,)),
    "one process of two killed": Fault(
        (1, _CODES["SIGKILL"], -signal.SIGABRT), "step", processes=2),
    "SIGTERM, one process of two": Fault(
        (_CODES["SIGTERM"],), "step", processes=2),
}


def damage(name, workdir, rng):
  """Damages what lies on disk; returns what repairs it, or None."""
  if name.startswith("shard"):
    shards = sorted(workdir.glob("data/*.arrayrecord"))
    if not shards:
      return None
    path = rng.choice(shards)
    whole = path.read_bytes()
    if name == "shard: missing":
      path.unlink()
    else:
      path.write_bytes(_flipped(whole, rng))
    return lambda: path.write_bytes(whole)
  steps = [workdir / "checkpoints" / str(step)
           for step in sorted(record_lib.steps(workdir))]
  if name == "checkpoints: all bad":
    kept = workdir.with_suffix(".kept")
    shutil.copytree(workdir / "checkpoints", kept)
    for step in steps:
      _damage_checkpoint("checkpoint: cut off", step, rng)
    def undo():
      shutil.rmtree(workdir / "checkpoints")
      kept.rename(workdir / "checkpoints")
    return undo
  _damage_checkpoint(name, steps[-1], rng)
  return None


def _damage_checkpoint(name, step, rng):
  if name == "checkpoint: marker removed":
    for marker in step.rglob("commit_success.txt"):
      marker.unlink()
    (step / "_CHECKPOINT_METADATA").unlink()
    return
  files = [p for p in sorted(step.rglob("*")) if p.is_file()
           and p.stat().st_size]
  if name == "checkpoint: cut off":
    # All of them: Orbax keeps some things twice, and one alone is mended.
    for path in files:
      path.write_bytes(path.read_bytes()[:rng.randrange(path.stat().st_size)])
    return
  path = rng.choice(files)
  if name == "checkpoint: file removed":
    path.unlink()
  else:
    path.write_bytes(_flipped(path.read_bytes(), rng))


def _flipped(data, rng):
  data = bytearray(data)
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  return bytes(data)


def main():
  """Runs latemask.main with a fault in it."""
  command, flags = json.loads(sys.argv[1]), sys.argv[2:]
  sys.argv = ["latemask.main", *flags]
  name, phase, count = command["name"], command["phase"], command["count"]

  def follow():
    while os.read(0, 1):
      pass
    os.kill(os.getpid(), signal.SIGKILL)

  def strike():
    number = signal.Signals[re.match(r"\w+", name)[0]]
    for _ in range(1 + ("twice" in name)):
      os.kill(os.getpid(), number)
      time.sleep(0.02)

  def begins(where, calls=1):
    """Called as a phase begins; strikes some time after its n-th time."""
    if where == phase and calls == count and "SIG" in name:
      threading.Timer(command["secs"], strike).start()

  def counted(where, function):
    calls = iter(range(1, 10**9))
    def wrapped(*args, **options):
      begins(where, next(calls))
      return function(*args, **options)
    return wrapped

  threading.Thread(target=follow, daemon=True).start()
  rows = []

  def train_batches(self, sharding, batch_size, start, stop):
    for step, ids_BxL in enumerate(
        real_batches(self, sharding, batch_size, start, stop), start):
      begins("step", step - start + 1)
      if name and "killed" in name and phase and step - start + 1 == count:
        os.kill(os.getpid(), signal.SIGKILL)
      if name == "NaN" and step - start + 1 == count:
        ids_BxL = ids_BxL * 0 + 10**6  # Looked up outside the table: NaN.
      else:
        rows.extend(
            f"{step}:{shard.index[0].start or 0} "
            + hashlib.sha256(np.asarray(shard.data)).hexdigest()[:16] + "\n"
            for shard in ids_BxL.addressable_shards)
        with contextlib.suppress(OSError):  # The disk may be full: later.
          with open(command["rows"], "a") as file:
            file.writelines(rows)
          rows.clear()
      yield ids_BxL

  saves = iter(range(10))

  def save(self, *args):
    # No file may grow beyond this: it meets the same errors.
    if name == "disk full" and next(saves) == count % 4:
      resource.setrlimit(resource.RLIMIT_FSIZE, (
          4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return real_save(self, *args)

  real_batches = loader.Loader.train_batches
  loader.Loader.train_batches = train_batches
  real_save = checkpoints.Checkpoints.save
  checkpoints.Checkpoints.save = counted("save", save)
  evaluate.Evaluator.run = counted("eval", evaluate.Evaluator.run)
  run.introduce = counted("compile", run.introduce)
  tokenizers_lib.train = counted("tokenizer", tokenizers_lib.train)
  workers.run = counted("packing", workers.run)
  if phase in ("compile", "eval", *ONCE):
    count = 1
  elif phase == "save":
    count = 1 + count % 3
  begins("start", count)
  main_lib.app.run(main_lib.main, flags_parser=main_lib.parse)


if __name__ == "__main__":
  main()
