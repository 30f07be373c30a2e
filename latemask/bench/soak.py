"""Breaks runs at random for as long as one likes, and prints what survived.

  python -m latemask.bench.soak --minutes 30
  python -m latemask.bench.soak --faults 20 --out /tmp/soak --seed 7

A small run is trained once, unbroken. Then the same command is started again
and again in fresh workdirs; each start meets one fault (see faults.py), until
the run is done. A fault has survived if the exit code is one that it may have,
the start after it goes on from the newest whole checkpoint, and, once the run
is done, parameters, optimizer state, metrics and rows of every step are those
of the unbroken run, bit for bit. Exit code 1 if any has not. What failed stays
under --out, with the output of every start.
"""

import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import tqdm

from latemask.bench import faults
from latemask.checkpoint import record as record_lib
from latemask import errors
from latemask.runtime import console
from latemask.runtime import signals
from latemask.train import metrics

_NUM_STEPS, _SAVE_EVERY = 40, 5
# A start that takes longer hangs.
_HANG_SECS = 300
# Of a run; the last three meet no fault.
_MAX_STARTS = 40


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    sys.exit(_soak(args))


def _parser():
  parser = console.parser("bench.soak", __doc__)
  parser.add_argument("--minutes", type=console.positive, default=30,
                      help="no run is begun later (30)")
  parser.add_argument("--faults", type=console.count,
                      help="no run is begun after so many")
  parser.add_argument("--only", action="append", choices=faults.FAULTS,
                      help="these kinds alone; default: all")
  parser.add_argument("--workers", type=console.count, default=2,
                      help="runs at a time (2)")
  parser.add_argument("--seed", type=console.seed, default=0,
                      help="of the faults and their times (%(default)s)")
  parser.add_argument("--out", help="a folder that is not there yet; default: "
                      "a temporary one, removed if all survive")
  return parser


def _soak(args):
  """Breaks runs until time is up; returns the exit code."""
  out = pathlib.Path(args.out or tempfile.mkdtemp(prefix="latemask_soak_"))
  if args.out and out.exists():
    raise errors.InputError(f"--out {out} is there already; choose another")
  out.mkdir(parents=True, exist_ok=True)
  corpus = make_corpus(out)
  print(f"{out}: training unbroken", flush=True)
  reference = Run(out / "unbroken", corpus)
  reference.start(None, random.Random(args.seed))
  if reference.code:
    raise errors.InputError(
        f"the unbroken run ended with {reference.code}; see {reference.log}")
  expected = reference.result()
  deadline = time.monotonic() + 60 * args.minutes
  kinds = args.only or list(faults.FAULTS)
  outcomes, numbers, lock = [], iter(range(10**9)), threading.Lock()
  bar = tqdm.tqdm(total=args.faults, unit=" faults", desc="soak")

  def work():
    while time.monotonic() < deadline and (
        args.faults is None or len(outcomes) < args.faults):
      with lock:
        number = next(numbers)
      found = break_run(out / f"run{number}", corpus, expected, kinds,
                        random.Random(f"{args.seed} {number}"), deadline)
      with lock:
        outcomes.extend(found)
        bar.update(len(found))

  start_secs = time.monotonic()
  with concurrent.futures.ThreadPoolExecutor(args.workers) as pool:
    for future in [pool.submit(work) for _ in range(args.workers)]:
      future.result()
  bar.close()
  table, all_survived = tabulate(
      outcomes, (time.monotonic() - start_secs) / 60)
  print(table, end="")
  if all_survived and not args.out:
    shutil.rmtree(out)
  return int(not all_survived)


def tabulate(outcomes, minutes):
  """Returns (table by kind of fault as Markdown, whether all survived)."""
  rows = [("fault", "injected", "survived", "bit-equal", "exit codes")]
  met = [n for n in faults.FAULTS if any(o[0] == n for o in outcomes)]
  for name in met + [None]:
    found = [o for o in outcomes if name in (None, o[0])]
    rows.append((
        name or f"all, in {minutes:.0f} min", str(len(found)),
        str(sum(not o[2] for o in found)), str(sum(o[3] for o in found)),
        # What hung has no code, but a word.
        ", ".join(map(str, sorted({o[1] for o in found}, key=lambda code: (
            isinstance(code, str), code))))))
  failed = [f"- {o[0]} ({o[4]}): {o[2] or 'the result differs'}\n"
            for o in outcomes if o[2] or not o[3]]
  return console.table(rows) + "".join(failed), not failed


def break_run(workdir, corpus, expected, kinds, rng, deadline):
  """Trains a run to its end under faults, none of them after the deadline.

  Args:
    expected: the result of the unbroken run.

  Returns:
    A list of (fault, exit code, what is wrong or "", whether the end was
    bit-equal, workdir), one for each fault.
  """
  run, met = Run(workdir, corpus), []
  for start in range(_MAX_STARTS):
    possible = [n for n in kinds
                if faults.FAULTS[n].needs <= len(run.checkpoints())
                and not run.has_passed(faults.FAULTS[n].phase)]
    is_over = start >= _MAX_STARTS - 3 or time.monotonic() > deadline
    name = rng.choice(possible) if possible and not is_over else None
    problem = run.start(name, rng)
    if name:
      met.append((name, run.code, problem))
    elif problem:
      met.append(("none", run.code, problem))
    if run.code == 0:
      break
  is_equal = run.code == 0 and run.result() == expected
  if is_equal and not any(problem for *_, problem in met):
    shutil.rmtree(workdir)
  return [(name, code, problem, is_equal, str(workdir))
          for name, code, problem in met]


def make_corpus(folder):
  """Writes a small text of random words; returns its path."""
  rng = np.random.default_rng(0)
  words = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 6)))
           for _ in range(60)]
  path = folder / "corpus.txt"
  path.write_text("".join(
      " ".join(rng.choice(words, rng.integers(10, 60))) + "\n"
      for _ in range(400)))
  return path


class Run:
  """A run in a workdir of its own, with packed rows of its own."""

  def __init__(self, workdir, corpus):
    """Refuses a workdir that is there: another run may write in it."""
    self.workdir = pathlib.Path(workdir)
    if self.workdir.exists():
      raise errors.InputError(
          f"{workdir} is there already; another soak may be writing in it")
    self.workdir.parent.mkdir(parents=True, exist_ok=True)
    self.log = self.workdir.with_suffix(".log")
    self.rows = self.workdir.with_suffix(".rows")
    self.code = None
    self._flags = [
        "--config=configs/base.py:tiny", f"--workdir={workdir}",
        f"--config.data.source=text:{corpus}", "--config.data.vocab_size=300",
        "--config.data.length=32", "--config.data.workers=1",
        "--config.data.eval_fraction=0.1", "--config.model.width=16",
        "--config.model.dtype=float32", "--config.train.batch_size=16",
        f"--config.train.num_steps={_NUM_STEPS}",
        "--config.optimizer.warmup_fraction=0.05", "--config.eval.rates=()",
        "--config.eval.every_steps=10", "--config.metrics.every_steps=1",
        f"--config.checkpoint.every_steps={_SAVE_EVERY}",
        "--config.checkpoint.max_failed_saves=1"]

  def has_passed(self, phase):
    """Returns whether a phase of `faults.ONCE` lies behind it."""
    return phase in faults.ONCE and any(
        self.workdir.glob(faults.ONCE[phase]))

  def checkpoints(self):
    """Returns the steps of the checkpoints, the newest first."""
    return sorted(record_lib.steps(self.workdir), reverse=True)

  def start(self, name, rng):
    """Runs the command under a fault, or None; returns what went wrong."""
    fault = faults.FAULTS[name] if name else faults.Fault(())
    before = self.checkpoints()
    undo = faults.damage(name, self.workdir, rng) if name and not (
        fault.phase) else None
    command = {"name": name, "phase": fault.phase,
               "rows": str(self.rows),
               "count": rng.randrange(1, 2 * _SAVE_EVERY),
               "secs": rng.uniform(0, faults.PHASE_SECS.get(fault.phase, 0))}
    # Three starts of four find what others have compiled; a fault may meet the
    # writing of that, too.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(self.workdir.parent / "xla"),
             "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
             "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none"} if (
                 rng.random() < 0.75) else {}
    port = str(20000 + int.from_bytes(os.urandom(2)) // 2)
    started = []
    with self.log.open("a") as log:
      place = log.tell()
      # Through a pipe: files of the child may be forbidden to grow.
      pipe = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
      for process in range(fault.processes):
        mine = command | ({"phase": None} if process else {})
        several = [f"--distributed=127.0.0.1:{port}",
                   f"--num_processes={fault.processes}",
                   f"--process_id={process}"] if fault.processes > 1 else []
        devices = 2 // fault.processes
        environment = os.environ | cache | {
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS":
            f"--xla_force_host_platform_device_count={devices} "
            "--xla_backend_optimization_level=0"}
        started.append(subprocess.Popen(
            [sys.executable, "-m", "latemask.bench.faults",
             json.dumps(mine), *self._flags, *several],
            # It ends when its standard input does: with this process.
            stdin=subprocess.PIPE, stdout=pipe.stdin, stderr=subprocess.STDOUT,
            env=environment))
      ended = []
      for process in started:
        try:
          ended.append(process.wait(_HANG_SECS))
        except subprocess.TimeoutExpired:
          process.kill()
          ended.append("hangs")
        process.stdin.close()
      pipe.stdin.close()
      pipe.wait()
    self.code = next((code for code in ended if code), 0)
    told = self.log.read_bytes()[place:].decode(errors="replace")
    if undo:
      undo()
    problem = self._judge(name, fault, before, ended, told)
    with self.log.open("a") as log:
      log.write(f"soak: {name or 'no fault'}: exit codes {ended}: "
                f"{problem or 'as it should be'}\n")
    return problem

  def _judge(self, name, fault, before, ended, told):
    """Returns what is wrong with a start, or ""."""
    wrong = [c for c in ended if c and c not in fault.codes]
    if wrong:
      return f"exit code {wrong[0]}"
    found = re.search(r"from the checkpoint at step ([\d,]+)", told)
    begun = int(found[1].replace(",", "")) if found else 0
    has_begun = "compiling:" in told
    damaged = told.count("is damaged:")
    if has_begun and before and begun != before[damaged]:
      return f"began at {begun}; there were checkpoints {before}"
    if damaged and not (name or "").startswith("checkpoint"):
      return "a checkpoint was taken for damaged"
    lines = len(re.findall("^latemask: ", told, re.M))
    if self.code == 2 and lines != 1:
      return "bad input without its line"
    if self.code in (128 + s for s in signals.SIGNALS) and (
        "Traceback" in told or not (lines or "saved on SIG" in told)):
      return "a signal without its line"
    return ""

  def result(self):
    """Returns what two runs must agree in, once they are done."""
    path = self.workdir / "checkpoints" / str(_NUM_STEPS)
    record_lib.read(path)  # Verified: the digests are those of the arrays.
    run = json.loads((path / "run" / "metadata").read_text())
    lines = [json.loads(line) for line in
             (self.workdir / "metrics.jsonl").read_text().splitlines()]
    rows = {}
    for line in self.rows.read_text().splitlines():
      place, digest = line.split()
      rows[place] = rows.get(place, set()) | {digest}
    same = [{k: v for k, v in line.items() if k not in metrics.TIMES}
            for line in lines]
    return run["digests"], same, rows


if __name__ == "__main__":
  main()
