"""A cell of fine-tuning: a task, a learning rate, a batch size and a seed.

run.py deals cells out to the processes, grid.py keeps their results, and
step.py is the step that a cell is trained with.
"""

import dataclasses
import hashlib
import statistics
import time

import jax
import numpy as np
import tqdm

from latemask import errors
from latemask.finetune import batches as batches_lib
from latemask.finetune import step as finetune_step
from latemask.finetune.tasks import glue
from latemask.hub import pretrained
from latemask.runtime import console
from latemask.runtime import distributed


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
  """A task ready to train on.

  Fields:
    name: a key of `glue.TASKS`.
    train: `batches.Encoded`.
    dev, test: by the task's part.
    num_epochs: of a cell.
    lengths: what rows are padded to.
    digest: of weights, tokenizer, rows and how kernels begin; a finished cell
      must agree.
  """

  name: str
  train: batches_lib.Encoded
  dev: dict
  test: dict
  num_epochs: int
  lengths: list[int]
  digest: str

  @property
  def task(self):
    """The row of `glue.TASKS`."""
    return glue.TASKS[self.name]

  @property
  def about(self):
    """Rows and labels, in words."""
    labels_R = np.concatenate([rows.labels_R for rows in self.dev.values()])
    return (f"{self.name}: {len(self.train):,} rows to train on; "
            f"{len(labels_R):,} dev rows: {glue.about(self.name, labels_R)}")


def learning_rates(config, data, cell):
  """Returns the learning rate of each step of a cell."""
  num_steps = -(-len(data.train) // cell.batch_size) * data.num_epochs
  return cell.learning_rate * finetune_step.schedule(config, num_steps)


def train(config, program, data, cell, clock=None, stop_after=None):
  """Trains a cell; one that fails ends there.

  Args:
    program: a `step.Program`, for the task's outputs.
    clock: a `Clock`; None says nothing.
    stop_after: epochs after which to end; None for all of them.

  Returns:
    (result, see grid.py, final parameters). A cell that has failed has
    None for its score, metrics and best epoch.
  """
  rates = iter(learning_rates(config, data, cell))
  state = program.init_state(np.uint32(cell.seed))
  epochs = []
  num_epochs = stop_after or data.num_epochs
  for epoch in range(num_epochs):
    start_secs = time.monotonic()
    state, loss = _train_epoch(program, state, data, cell, epoch, rates)
    train_secs = time.monotonic() - start_secs
    found, one_answer = _on_dev(program, state.params, data)
    has_failed = not np.isfinite([loss, *found.values()]).all()
    epochs.append({"loss": loss if np.isfinite(loss) else None,
                   "score": (None if has_failed
                             else statistics.mean(found.values())),
                   "metrics": None if has_failed else found,
                   "one_answer": None if has_failed else one_answer,
                   "train_secs": round(train_secs, 2),
                   "secs": round(time.monotonic() - start_secs, 2)})
    if clock:
      distributed.say(
          f"{data.name} {cell}: epoch {epoch + 1}/{data.num_epochs}  loss "
          f"{loss:.4f}  {_in_words(epochs[-1])}  {epochs[-1]['secs']:.1f} s  "
          f"{clock.done(len(data.train))}")
      if has_failed:
        clock.skip((num_epochs - 1 - epoch) * len(data.train))
    if has_failed:
      break
  best = None if has_failed else max(
      range(len(epochs)), key=lambda e: epochs[e]["score"])
  chosen = {"score": None, "metrics": None} if has_failed else epochs[best]
  return {"task": data.name, **dataclasses.asdict(cell),
          "score": chosen["score"], "metrics": chosen["metrics"],
          "best_epoch": None if has_failed else best + 1, "epochs": epochs,
          "digest": data.digest}, state.params


def _train_epoch(program, state, data, cell, epoch, rates):
  """Returns (state, mean loss) after all rows once."""
  batches = batches_lib.shuffled(
      data.train.lengths_R, cell.batch_size, cell.seed, epoch)
  losses = []  # Read at the end: no step waits for the host.
  for rows in tqdm.tqdm(batches, f"{data.name} {cell}, epoch {epoch + 1}",
                        leave=False, disable=None):
    state, loss = program.train_step(
        state, batches_lib.collate(data.train, rows, cell.batch_size,
                                   data.lengths), next(rates),
        np.uint32(cell.seed))
    losses.append(loss)
  return state, float(np.mean(jax.device_get(losses)))


def _on_dev(program, params, data):
  """Returns ({metric: value}, the answer that all rows got or None)."""
  logits = {part: program.predict(params, encoded, data.lengths)
            for part, encoded in data.dev.items()}
  found = {}
  for part, encoded in data.dev.items():
    found |= glue.score(data.name, part, encoded.labels_R, logits[part])
  return found, glue.one_answer(
      data.name, np.concatenate(list(logits.values())))


def _in_words(epoch):
  """Returns in words what came out of the dev set."""
  if epoch["metrics"] is None:
    return "loss or logits are not finite: the cell has failed"
  found = "  ".join(f"{k} {100 * v:.2f}" for k, v in epoch["metrics"].items())
  answer = epoch["one_answer"]
  return found + (f" (all dev rows got one answer: {answer})" if answer else "")


class Clock:
  """Tells the time left from the rows trained on so far.

  Between enter and exit. What was spent on compiling says nothing of what is
  to come, and is left out.
  """

  def __init__(self, num_rows):
    """Takes the number of rows to train on."""
    self._num_rows, self._done = num_rows, 0
    self._compile_secs = self._told_secs = 0.0
    self._first = None  # Seconds and rows at the end of the first epoch.

  def __enter__(self):
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    self._start_secs = time.monotonic()
    return self

  def __exit__(self, *_):
    jax.monitoring.unregister_event_duration_listener(self._listen)

  def _listen(self, event, secs, **_):
    if event.startswith("/jax/core/compile/"):
      self._compile_secs += secs

  def done(self, num_rows):
    """Counts rows as done; returns in words what the others will take."""
    self._done += num_rows
    secs = time.monotonic() - self._start_secs - self._compile_secs
    # Much is done once, and in the first epoch: those after it are alike.
    first_secs, first_rows = self._first or (0.0, 0)
    left = (secs - first_secs) / (self._done - first_rows) * (
        self._num_rows - self._done)
    self._first = self._first or (secs, self._done)
    compiled = self._compile_secs - self._told_secs
    self._told_secs = self._compile_secs
    return (f"({compiled:.1f} s compiling)  " * (compiled >= 0.1)
            + f"{console.duration(max(left, 0))} left")

  def skip(self, num_rows):
    """Takes rows that will not be trained on out of the account."""
    self._num_rows -= num_rows


def read(config, params, tokenizer, trained_length):
  """Returns the `cell.Data` of every task asked for.

  Rows are cut to `max_length`, or to `trained_length`. `params` are those of a
  `step.Program`.
  """
  max_length = config.max_length or max(
      trained_length, batches_lib.min_length(tokenizer))
  encoder = params["encoder"]
  if max_length > trained_length:
    distributed.say("warning: max_length asks for " + pretrained.beyond(
        encoder, trained_length, max_length) + ", but for what fine-tuning "
                    "itself teaches")
  names = list(glue.TASKS) if config.task == "all" else [config.task]
  weights = hashlib.sha256(tokenizer.digest.encode())
  for leaf in jax.tree.leaves(params):
    weights.update(np.ascontiguousarray(leaf))
  # All kernels began with 0.02 once. Where that is no longer so, a cell from
  # then is another one; a head of BERT's width begins as it did.
  if config.from_scratch or encoder["embedding"].shape[1] != 768:
    weights.update(b"kernels by fan-in")
  datas = []
  for name in names:
    try:
      datas.append(_read_task(config, name, tokenizer, max_length,
                              weights.copy()))
    except glue.NotThere as error:
      if config.task != "all":
        raise
      distributed.say(f"{name} is left out: {error}")
  if not datas:
    raise errors.InputError(
        "there is data for none of the tasks; name the folder of the "
        "official TSV files in data_dir, or prepare TFDS glue/*")
  return datas


def _read_task(config, name, tokenizer, max_length, digest):
  task = glue.TASKS[name]
  splits = ["train"] + [f"dev{part}" for part in task.parts]
  if config.predict_test:
    splits += [f"test{part}" for part in task.parts]
  encoded = {}
  for split in splits:
    rows = glue.read(name, split, config.data_dir, config.tfds_dir)
    encoded[split] = batches_lib.encode(tokenizer, rows, max_length)
    if rows.num_dropped:
      distributed.say(f"{name}, {split}: warning: {rows.num_dropped:,} broken "
                      "lines are left out")
    if encoded[split].num_cut:
      distributed.say(f"{name}, {split}: warning: {encoded[split].num_cut:,} "
                      f"of {len(rows):,} rows are cut to {max_length} tokens "
                      "(max_length)")
    if not split.startswith("test"):
      for array in (*encoded[split].ids, rows.labels_R):
        digest.update(array)
  longest = max(e.lengths_R.max() for e in encoded.values())
  return Data(
      name, encoded["train"],
      *({part: encoded[kind + part] for part in task.parts
         if kind + part in encoded} for kind in ("dev", "test")),
      config.grid.num_epochs or task.num_epochs,
      batches_lib.buckets(max_length, longest), digest.hexdigest())


def make_program(config, model, params, specials, num_outputs):
  """Returns what trains all tasks of so many outputs."""
  return finetune_step.Program(
      model, params, specials, config.from_scratch, num_outputs,
      finetune_step.make_optimizer(config))
