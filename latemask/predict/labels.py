"""What a fine-tuned model says of new rows: labels, numbers, tags, answers.

A model is the Hugging Face folder of a fine-tuned encoder, exported here or
published: its class and config.json say what it does.
"""

import dataclasses
import itertools
import math

from etils import epath
import jax
import ml_collections
import numpy as np

from latemask.config import domains
from latemask import errors
from latemask.finetune import batches
from latemask.finetune import step
from latemask.finetune import windows
from latemask.finetune.adapters import folder as adapters
from latemask.finetune.tasks import entities
from latemask.finetune.tasks import kinds
from latemask.finetune.tasks import task as task_lib
from latemask.hub import pretrained
from latemask.hub import stock_config
from latemask.hub import weights as hf_weights
from latemask.model import cut
from latemask.runtime import console

# What config.json may say of a task, if anything.
_STOCK = {
    "architectures": domains.each(domains.TEXT),
    "id2label": domains.Domain(
        "an object of names by whole numbers from 0 on",
        lambda value: isinstance(value, dict) and all(
            isinstance(name, str) and str(i) in value
            for i, name in enumerate(value.values()))),
    "problem_type": domains.choice(
        "regression", "single_label_classification",
        "multi_label_classification")}
_WHOLE = ml_collections.ConfigDict({"name": "none"})
# Rows that are read ahead and sorted by length, so that there is little
# padding.
_ROWS_AHEAD = 4096


def find(path):
  """Returns the folder of a model: `path`, or what it exported.

  Raises:
    InputError: it is an adapter, or a fine-tuning workdir without one exported
      model.
  """
  path = epath.Path(path)
  # With a dot: what was being written when a program was killed.
  found = [path] if not (path / "cells").is_dir() else sorted(
      folder for folder in path.glob("export/*") if "." not in folder.name)
  for folder in filter(adapters.is_folder, found):
    raise errors.InputError(
        f"{folder} is an adapter alone; " + console.command(
            "tools.merge", "--adapter", str(folder), "--out", "DIR")
        + " makes a whole model")
  if len(found) != 1:
    raise errors.InputError(
        f"{path} is a fine-tuning workdir with "
        + (f"the models {', '.join(map(str, found))}; name one" if found else
           "no model; --config.export=true makes one"))
  return found[0]


def task_of(folder):
  """Returns (the `Task` of a folder, tokens of a window of its training).

  What no one knows is () for the columns of its texts, and None for the tokens.

  Raises:
    InputError: its class is that of no task.
  """
  where = folder / "config.json"
  stock = stock_config.read_json(where)
  for field, domain in _STOCK.items():
    domains.check(domains.optional(domain), field, stock.get(field), where)
  name = next(iter(stock.get("architectures") or ()), "")
  head = next((head for head, (ending, _) in hf_weights.HEADS.items()
               if name.endswith(ending)), None)
  if head is None:
    if not name:
      raise errors.InputError(
          f"{folder} is no fine-tuned model: neither a workdir of fine-tuning "
          "nor a folder that was exported from one")
    raise errors.InputError(
        f"{folder} holds {name}, which was fine-tuned for nothing; a class "
        "here ends in "
        + ", ".join(ending for ending, _ in hf_weights.HEADS.values()))
  names = stock.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
  labels = tuple(names[key] for key in sorted(names, key=int))
  path = folder / "latemask.json"
  about = stock_config.read_json(path).get("task") if path.is_file() else None
  task_lib.check_about(about, path)
  about = about or {}
  kind = head
  if head == "text":
    if stock.get("problem_type") == "regression" and len(labels) > 1:
      raise errors.InputError(
          f"{folder} tells {len(labels)} numbers of a text; models that tell "
          "one can be used")
    kind = {"multi_label_classification": "multilabel"}.get(
        stock.get("problem_type"),
        "number" if len(labels) == 1 else "classes")
  return (task_lib.Task(
      kind, kind, () if kind in ("number", "span") else labels, (), 0,
      has_no_answers=about.get("has_no_answers", False),
      text=tuple(about.get("text", ())), stride=about.get("stride")),
          about.get("max_length"))


class Labeller:
  """A fine-tuned model ready to label rows.

  Fields:
    task: its `Task`; what it learned a number in is folded into the head.
  """

  def __init__(self, path, max_length=None, stride=None):
    """Loads a model.

    Args:
      path: see `find`.
      max_length: tokens of a window; None for those of its training.
      stride: see `windows.encode`; None for that of its training.

    Raises:
      InputError: see `find`, `task_of` and `pretrained.load`; or it has not
        so many positions, or no whole head.
    """
    folder = find(path)
    self.task, trained_tokens = task_of(folder)
    if stride is not None:
      self.task = dataclasses.replace(self.task, stride=stride)
    loaded = pretrained.load(folder)
    config, encoder = cut.cut(loaded.config, loaded.params)
    if max_length and max_length > config.max_length:
      raise errors.InputError(
          f"--max_length is {max_length}; the model has {config.max_length} "
          "positions")
    if max_length:  # Published models do not say of how many texts.
      windows.check_length(loaded.tokenizer, max(1, len(self.task.text)),
                           max_length, "--max_length")
    self._tokenizer = loaded.tokenizer
    self._max_length = max_length or trained_tokens or loaded.trained_length
    head = pretrained.class_head(folder, kinds.KINDS[self.task.kind].head)
    if "out_kernel" not in head:
      raise errors.InputError(f"{folder} has no weights of a head")
    outputs, named = len(head["out_bias"]), kinds.num_outputs(self.task)
    if outputs != named:
      raise errors.InputError(
          f"{folder}/config.json has id2label for {named} outputs, and the "
          f"head has {outputs}")
    self._params = jax.device_put({"encoder": encoder, "head": head})
    self._program = step.Program(
        dataclasses.replace(config, dropout=0.0, attention_dropout=0.0,
                            dtype="float32", remat=None),
        self._params, loaded.tokenizer.specials, False, self.task.kind,
        kinds.num_outputs(self.task), None, None, None, _WHOLE)

  def label(self, rows):
    """Yields what the model says of each row, as JSON, in order.

    Args:
      rows: yields lists of texts, a text or two each; of tagged rows lists of
        words; of spans question and context.
    """
    rows = iter(rows)
    while ahead := list(itertools.islice(rows, _ROWS_AHEAD)):
      yield from self._label(ahead)

  def _label(self, rows):
    encoded = windows.encode(
        self._tokenizer, self.task, task_lib.Rows(
            tuple(list(column) for column in zip(*rows)), None),
        self._max_length)
    lengths = batches.buckets(self._max_length, encoded.lengths_W.max())
    logits = self._program.predict(self._params, encoded, lengths)
    return _SAYS[self.task.kind](self.task, encoded, logits)


def _probabilities(task, shares_C):
  return {label: round(float(share), 6)
          for label, share in zip(task.labels, shares_C)}


def _say_classes(task, encoded, logits_WxC):
  logits_RxC = kinds.by_row(task, encoded, logits_WxC)
  shares_RxC = np.exp(logits_RxC - logits_RxC.max(axis=1, keepdims=True))
  shares_RxC /= shares_RxC.sum(axis=1, keepdims=True)
  for shares_C in shares_RxC:
    yield {"label": task.labels[int(np.argmax(shares_C))],
           "probabilities": _probabilities(task, shares_C)}


def _say_labels(task, encoded, logits_WxC):
  logits_RxC = kinds.by_row(task, encoded, logits_WxC)
  for logits_C in logits_RxC:
    yield {"labels": [label for label, logit in zip(task.labels, logits_C)
                      if logit > 0],
           "probabilities": _probabilities(
               task, 1 / (1 + np.exp(-logits_C.astype(np.float64))))}


def _say_number(task, encoded, logits_Wx1):
  for number in kinds.answers(task, encoded, logits_Wx1):
    yield {"number": float(number)}


def _say_tags(task, encoded, logits):
  bio = entities.are_bio(task.labels)
  for words, answer in zip(encoded.rows.texts[0],
                           kinds.answers(task, encoded, logits)):
    tags = kinds.tag_names(task, answer)
    said = {"words": words, "tags": tags}
    if bio:
      said["entities"] = [
          {"type": kind, "text": " ".join(words[first:stop]),
           "first_word": first, "stop_word": stop}
          for kind, first, stop in entities.spans(
              [tag or entities.OUTSIDE for tag in tags])]
    yield said


def _say_span(task, encoded, logits):
  for answer in kinds.best_spans(task, encoded, logits):
    yield {"answer": answer.text, "start": answer.start, "stop": answer.stop,
           # None where no window has a word that may be an answer.
           "score": (round(answer.score, 6) if math.isfinite(answer.score)
                     else None)}


# Kind -> (task, `windows.Encoded`, logits of its windows) -> yields JSON.
_SAYS = {"classes": _say_classes, "multilabel": _say_labels,
         "number": _say_number, "tokens": _say_tags, "span": _say_span}
