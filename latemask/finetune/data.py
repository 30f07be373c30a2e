"""The data of a task, read, encoded and ready to train on."""

import dataclasses
import hashlib
import math

import jax
import numpy as np

from latemask import errors
from latemask.finetune import lengths as lengths_lib
from latemask.finetune import windows as windows_lib
from latemask.finetune.tasks import glue
from latemask.finetune.tasks import kinds
from latemask.finetune.tasks import own
from latemask.finetune.tasks import task as task_lib
from latemask.hub import pretrained
from latemask.runtime import distributed


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
  """A task ready to train on.

  Fields:
    task: the `task.Task`.
    train: `windows.Encoded`.
    dev, test: by the task's part.
    num_epochs: of a cell.
    max_length: tokens of the longest window that may be.
    lengths: what rows are padded to.
    digest: of weights, tokenizer, rows and how kernels begin; a finished cell
      must agree.
    labels_digest: of what labels are called, and of all that dev rows are
      scored by; likewise.
    class_weights: of the loss of each class; None: all alike.
  """

  task: task_lib.Task
  train: windows_lib.Encoded
  dev: dict
  test: dict
  num_epochs: int
  max_length: int
  lengths: list[int]
  digest: str
  labels_digest: str
  class_weights: tuple[float, ...] | None = None

  @property
  def name(self):
    """That of the task."""
    return self.task.name

  @property
  def about(self):
    """Rows and labels, in words."""
    labels = [label for encoded in self.dev.values()
              for label in encoded.rows.labels]
    num_windows = len(self.train) - len(self.train.rows)
    return (f"{self.name}: {len(self.train.rows):,} rows to train on"
            + f" ({len(self.train):,} windows)" * bool(num_windows)
            + f"; {len(labels):,} dev rows: {kinds.about(self.task, labels)}")

  @property
  def eval_lengths(self):
    """Every other of the lengths: a pass is short, and compiling takes long."""
    return self.lengths[::-2][::-1]

  @property
  def program(self):
    """What tasks have in common that one `step.Program` serves."""
    task = self.task
    return (task.kind, kinds.num_outputs(task), self.class_weights,
            (task.shift, task.scale) if task.kind == "number" else None)


def about(data):
  """Returns what `predict` has to know of a task, as JSON."""
  task = data.task
  return {"kind": task.kind, "has_no_answers": task.has_no_answers,
          "max_length": data.max_length, "text": list(task.text),
          "stride": task.stride}


def read(config, params, tokenizer, trained_length):
  """Returns the `Data` of every task asked for.

  Rows are cut to `max_length`, or to `trained_length`. `params` are those of a
  `step.Program`.
  """
  max_length = config.max_length or max(
      trained_length, windows_lib.min_length(tokenizer))
  encoder = params["encoder"]
  if max_length > trained_length:
    distributed.say("warning: max_length asks for " + pretrained.beyond(
        encoder, trained_length, max_length) + ", but for what fine-tuning "
                    "itself teaches")
  weights = hashlib.sha256(tokenizer.digest.encode())
  for leaf in jax.tree.leaves(params):
    weights.update(np.ascontiguousarray(leaf))
  # All kernels began with 0.02 once. Where that is no longer so, a cell from
  # then is another one; a head of BERT's width begins as it did.
  if config.from_scratch or encoder["embedding"].shape[1] != 768:
    weights.update(b"kernels by fan-in")
  # Twice a parameter forwards, twice that backwards; embeddings are looked up.
  flops_per_token = 6 * sum(
      leaf.size for leaf in jax.tree.leaves(encoder.get("late")))
  return [_encode(config, tokenizer, max_length, flops_per_token,
                  weights.copy(), params["head"], *found)
          for found in _SOURCES[own.is_meant(config)](config)]


def _glue(config):
  """Yields (task, {split: rows}) of the tasks of GLUE that are asked for."""
  names = list(glue.TASKS) if config.task == "all" else [config.task]
  missing = []
  for name in names:
    task, rows = glue.task(name), {}
    parts = [*("train",), *(f"dev{part}" for part in task.parts)]
    tests = [f"test{part}" for part in task.parts if config.predict_test]
    try:
      for split in parts + tests:
        rows[split] = glue.read(
            name, split, config.data_dir, config.tfds_dir)
    except glue.NotThere as error:
      if config.task != "all":
        raise
      missing.append(name)
      distributed.say(f"{name} is left out: {error}")
      continue
    for part in glue.TASKS[name].tests if config.predict_test else ():
      try:
        rows[f"test{part}"] = glue.read(
            name, f"test{part}", config.data_dir, config.tfds_dir)
      except glue.NotThere as error:
        distributed.say(f"the diagnostic set is left out: {error}")
    yield task, rows
  if missing == names:
    raise errors.InputError(
        "there is data for none of the tasks; name the folder of the "
        "official TSV files in data_dir, or prepare TFDS glue/*")


def _own(config):
  """Yields (task, {split: rows}) of people's own files."""
  yield own.read(config)


# Whether own files are meant -> what reads the rows.
_SOURCES = {True: _own, False: _glue}


def _encode(config, tokenizer, max_length, flops_per_token, digest, head,
            task, rows):
  """Returns `Data` of (task, {split: rows})."""
  is_own = own.is_meant(config)
  encoded = {}
  for split, there in rows.items():
    found = encoded[split] = windows_lib.encode(
        tokenizer, task, there, max_length)
    if there.num_dropped:
      distributed.say(f"{task.name}, {split}: warning: {there.num_dropped:,} "
                      "broken lines are left out")
    if found.num_cut:
      distributed.say(f"{task.name}, {split}: warning: {found.num_cut:,} of "
                      f"{len(there):,} rows are cut to {max_length} tokens "
                      "(max_length)" + "; data.stride makes windows of them"
                      * (is_own and task.stride is None))
    if not split.startswith("test"):
      for array in (*found.ids, *(
          found.targets if isinstance(found.targets, list)
          else [found.targets])):
        digest.update(array)
  weights = _class_weights(
      config.task.class_weights, task, rows["train"].labels) if is_own else None
  if weights:
    digest.update(repr(weights).encode())
  # Its F1 was its accuracy once: scores from then are others.
  if task.kind == "multilabel" and len(task.labels) == 1:
    digest.update(b"f1 of the label")
  # It began in units of its own once, far from those of the task.
  if task.kind == "number" and (task.shift, task.scale) != (0, 1) and (
      len(head.get("out_bias", ())) == 1):
    digest.update(b"a head in the units of the task")
  lengths_W = np.concatenate([e.lengths_W for e in encoded.values()])
  num_epochs = config.grid.num_epochs or task.num_epochs
  num_cells = math.prod(map(len, (
      config.grid.learning_rates, config.grid.batch_sizes, config.grid.seeds)))
  return Data(
      task, encoded["train"],
      *({split.removeprefix(kind): found for split, found in encoded.items()
         if split.startswith(kind)} for kind in ("dev", "test")),
      num_epochs, max_length, lengths_lib.choose(
          max_length, lengths_W, flops_per_token, num_cells * num_epochs,
          jax.default_backend()), digest.hexdigest(),
      _labels_digest(task, rows), weights)


def _labels_digest(task, rows):
  """Returns a digest of what the other one does not see.

  Ids of labels may be those of other names, and dev rows are scored by more
  than their targets.
  """
  found = hashlib.sha256(repr((
      list(task.labels), float(task.shift), float(task.scale),
      task.separator)).encode())
  for split, there in rows.items():
    if split.startswith("dev"):
      for label in there.labels:
        found.update(repr(np.asarray(label).tolist() if isinstance(
            label, (np.ndarray, np.generic)) else label).encode())
  return found.hexdigest()


def _class_weights(how, task, labels):
  """Returns the weight of each class in the loss; None: all alike.

  Raises:
    InputError: labels of this kind have no classes, or a class has no row.
  """
  if how == "none":
    return None
  if not task.labels:
    raise errors.InputError(
        f"task.class_weights is {how}; a task of kind {task.kind} has no "
        "classes")
  if task.kind == "multilabel":
    counts = np.sum(labels, axis=0)
    # Of a label that all rows have, none must be forgotten either.
    weights = np.maximum(len(labels) - counts, 1) / np.maximum(counts, 1)
  else:
    labels = np.concatenate(labels) if task.kind == "tokens" else labels
    counts = np.bincount(labels, minlength=len(task.labels))
    weights = len(labels) / (len(counts) * np.maximum(counts, 1))
  if not counts.all():
    raise errors.InputError(
        f"task.class_weights is {how}, and no row to train on has the label "
        + task.labels[int(np.argmin(counts))])
  return tuple(float(weight) for weight in weights)
