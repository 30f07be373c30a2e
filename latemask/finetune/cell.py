"""A cell of fine-tuning: a task, a learning rate, a batch size and a seed.

run.py deals cells out to the processes, grid.py keeps their results, and
step.py is the step that a cell is trained with.
"""

import dataclasses
import statistics
import time

import jax
import numpy as np
import tqdm

from latemask.finetune import batches as batches_lib
from latemask.finetune import step as finetune_step
from latemask.finetune.tasks import kinds
from latemask.runtime import console
from latemask.runtime import distributed


def learning_rates(config, data, cell):
  """Returns the learning rate of each step of a cell."""
  num_steps = -(-len(data.train) // cell.batch_size) * data.num_epochs
  return cell.learning_rate * finetune_step.schedule(config, num_steps)


def train(config, program, data, cell, clock=None, stop_after=None):
  """Trains a cell; one that fails ends there.

  Args:
    program: a `step.Program`, for the task's outputs.
    data: the `data.Data`.
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
          "digest": data.digest, "labels_digest": data.labels_digest
          }, state.params


def _train_epoch(program, state, data, cell, epoch, rates):
  """Returns (state, mean loss) after all rows once."""
  batches = batches_lib.shuffled(
      data.train.lengths_W, cell.batch_size, cell.seed, epoch)
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
  scores, everything = {}, []
  for part, encoded in data.dev.items():
    logits = program.predict(params, encoded, data.eval_lengths)
    found = (kinds.answers(data.task, encoded, logits)
             if kinds.is_finite(logits) else None)
    scores |= kinds.score(data.task, part, encoded.rows.labels, found)
    everything = (None if found is None or everything is None
                  else [*everything, *found])
  return scores, everything and kinds.one_answer(data.task, everything)


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
