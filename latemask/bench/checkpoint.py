"""What checkpoints cost: steps beside a save, reading back, going on late.

  python -m latemask.bench.checkpoint
  python -m latemask.bench.checkpoint --config configs/base.py:small

Three JSON lines:
  save     seconds of a step alone and beside an asynchronous save, in turn
           (medians, slowest and fastest), and how long `save` itself holds
           the loop up
  restore  MB/s of reading the newest checkpoint, its digests compared
  resume   seconds from nothing but a workdir to the end of the first step, at
           step 10 and at step 1,000,000 (compiling left out), and their ratio
"""

import itertools
import json
import statistics
import time

import jax
import tqdm

from latemask.checkpoint import checkpoints as checkpoints_lib
from latemask.checkpoint import record as record_lib
from latemask.config import spec
from latemask.data import loader as loader_lib
from latemask.data import prepare as prepare_lib
from latemask import errors
from latemask.runtime import console
from latemask.runtime import files
from latemask.train import step as step_lib

_EARLY, _LATE = 10, 1_000_000


def main():
  """Runs the command."""
  args = _parser().parse_args()
  jax.config.update("jax_cpu_enable_async_dispatch", False)  # As main.py.
  with errors.one_line_exit(), files.temporary_folder() as folder:
    _run(args, folder)


def _parser():
  parser = console.parser("bench.checkpoint", __doc__)
  parser.add_argument(
      "--config", default="configs/base.py:small,data.source=builtin,"
      "data.vocab_size=4096,model.dtype=float32,train.batch_size=8",
      help="FILE[:SIZE][,KEY=VALUE...]; default: %(default)s")
  parser.add_argument("--repeats", type=console.count, default=7,
                      help="times that each is measured (%(default)s)")
  return parser


def _run(args, folder):
  config = spec.load(args.config, is_finetuning=False)
  packed = prepare_lib.prepare(config, f"{folder}/data")
  program = step_lib.build(
      config, packed.tokenizer.vocabulary(config.masking.word_starts))
  loader = loader_lib.Loader(packed, config)
  bench = _Bench(config, folder, packed, program, loader)
  state = bench.step(bench.step(program.init_state(), 0), 1)  # Compiles.
  num_bytes = sum(x.nbytes for x in jax.tree.leaves(state))
  state = bench.save(state, args.repeats, num_bytes)
  bench.restore(state, args.repeats, num_bytes)
  bench.resume(state, args.repeats)


class _Bench:
  """What is measured, over one program and one set of rows."""

  def __init__(self, config, folder, packed, program, loader):
    self._config, self._folder, self._packed = config, folder, packed
    self._program, self._loader = program, loader

  def _checkpoints(self, name):
    return checkpoints_lib.Checkpoints(
        f"{self._folder}/{name}", self._config, self._packed)

  def _batches(self, start):
    return self._loader.train_batches(
        self._program.batch_sharding, self._config.train.batch_size, start,
        start + 100)

  def step(self, state, step):
    """Takes a step on the rows of `step`; waits for its end."""
    state, metrics = self._program.train_step(state, next(self._batches(step)))
    jax.block_until_ready((state, metrics))
    return state

  def save(self, state, repeats, num_bytes):
    """Prints the line `save`; returns the state that it ends with."""
    checkpoints = self._checkpoints("save")
    ids_BxL = next(self._batches(0))
    secs = {"alone": [], "beside": []}
    held_secs, save_secs = [], []
    for repeat in tqdm.trange(repeats, desc="save", disable=None):
      for name, found in secs.items():
        if name == "beside":
          start_secs = time.monotonic()
          checkpoints.save(repeat, checkpoints_lib.Progress(state))
          held_secs.append(time.monotonic() - start_secs)
        for place in itertools.count():
          # Beside: every step from its start to its end.
          if not (checkpoints.is_saving if name == "beside" else place < 5):
            break
          before_secs = time.monotonic()
          state, metrics = self._program.train_step(state, ids_BxL)
          jax.block_until_ready((state, metrics))
          found.append(time.monotonic() - before_secs)
        if name == "beside":
          checkpoints.wait()
          save_secs.append(time.monotonic() - start_secs)
    checkpoints.close()
    medians = {k: statistics.median(v) for k, v in secs.items()}
    _tell("save", {
        "state_mb": num_bytes / 1e6,
        "step_secs": {k: [min(v), medians[k], max(v)]
                      for k, v in secs.items()},
        "slower": medians["beside"] / medians["alone"] - 1,
        "held_secs": statistics.median(held_secs),
        "save_secs": statistics.median(save_secs)})
    return state

  def restore(self, state, repeats, num_bytes):
    """Prints the line `restore`."""
    checkpoints = self._checkpoints("save")
    secs = []
    for _ in tqdm.trange(repeats, desc="restore", disable=None):
      start_secs = time.monotonic()
      jax.block_until_ready(
          checkpoints.restore(self._program.state_shapes).state)
      secs.append(time.monotonic() - start_secs)
    checkpoints.close()
    start_secs = time.monotonic()
    record_lib.digests(state)
    _tell("restore", {
        "mb_per_sec": [num_bytes / 1e6 / s for s in (
            max(secs), statistics.median(secs), min(secs))],
        "digests_mb_per_sec":
            num_bytes / 1e6 / (time.monotonic() - start_secs)})

  def resume(self, state, repeats):
    """Prints the line `resume`."""
    for step in (_EARLY, _LATE):
      checkpoints = self._checkpoints(str(step))
      checkpoints.save(step, checkpoints_lib.Progress(state.replace(
          step=jax.device_put(state.step * 0 + step, state.step.sharding))))
      checkpoints.wait()
      checkpoints.close()
    secs = {_EARLY: [], _LATE: []}
    for _ in tqdm.trange(repeats, desc="resume", disable=None):
      for step, found in secs.items():
        start_secs = time.monotonic()
        checkpoints = self._checkpoints(str(step))
        loader = loader_lib.Loader(self._packed, self._config)
        restored = checkpoints.restore(self._program.state_shapes).state
        self._loader = loader
        self.step(restored, step)
        found.append(time.monotonic() - start_secs)
        checkpoints.close()
    medians = {k: statistics.median(v) for k, v in secs.items()}
    _tell("resume", {
        "secs": {k: [min(v), medians[k], max(v)] for k, v in secs.items()},
        "ratio": medians[_LATE] / medians[_EARLY]})


def _tell(name, found):
  print(json.dumps({"bench": name} | found, default=float), flush=True)


if __name__ == "__main__":
  main()
