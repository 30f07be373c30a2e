"""The kinds of tasks: how each is answered and scored.

A row of `KINDS` each. Letters: W windows (a text is one, or is cut into
several that overlap), R rows, C outputs, S tokens of a window.
"""

import dataclasses
import json
from typing import Callable

import numpy as np

from latemask.finetune.tasks import entities
from latemask.finetune.tasks import metrics as metrics_lib

# Tokens of the longest answer. Source: SQuAD's baselines.
_MOST_SPAN_TOKENS = 30
# Of the spans of a window: pairs of so many best beginnings and ends.
_BEST_SPOTS = 20
# In a table, of a word that no window holds.
_NO_TAG = "_"
# A token that is not asked for: a special one, or not the first of its word.
NO_TARGET = -1


@dataclasses.dataclass(frozen=True)
class Kind:
  """A row of `KINDS`.

  Fields:
    head: a row of `heads.HEADS`.
    num_outputs: labels -> outputs of the head.
    by_row: (task, `windows.Encoded`, logits of all its windows) -> what
      `answers` reads, in the order of the rows.
    answers: (task, that) -> answers, as `task.Rows.labels` are; of spans texts.
    metrics: task -> its metrics.
    plain: (task, an answer) -> a cell of a table.
    in_words: the same, shorter, where many may have one answer.
    about: (task, labels) -> how they are spread, in words.
  """

  head: str
  num_outputs: Callable
  by_row: Callable
  answers: Callable
  metrics: Callable
  plain: Callable
  in_words: Callable
  about: Callable


def _mean_of_windows(task, encoded, logits_WxC):
  """Returns logits, [R, C]: of a row the mean of those of its windows."""
  del task
  sums_RxC = np.zeros(
      (len(encoded.rows), logits_WxC.shape[1]), logits_WxC.dtype)
  np.add.at(sums_RxC, encoded.row_W, logits_WxC)
  return sums_RxC / np.bincount(
      encoded.row_W, minlength=len(sums_RxC)).astype(sums_RxC.dtype)[:, None]


def _mean_of_words(task, encoded, logits):
  """Returns logits, [words, C], of each row; NaN of what was cut off.

  Those of the first token of a word; the mean where windows share the word.
  """
  sums = [np.zeros((len(words), len(task.labels)), np.float32)
          for words in encoded.rows.texts[0]]
  counts = [np.zeros((len(total), 1), np.float32) for total in sums]
  for row, spots, window in zip(encoded.row_W, encoded.spots, logits):
    np.add.at(sums[row], spots[:, 1], window[spots[:, 0]])
    np.add.at(counts[row], spots[:, 1], 1)
  with np.errstate(invalid="ignore"):
    return [total / count for total, count in zip(sums, counts)]


@dataclasses.dataclass(frozen=True)
class Span:
  """The best answer to a question.

  Fields:
    text: "" where there is none.
    start, stop: its first character in the context, the one behind.
    score: sum of the logits of its beginning and end, less that of no answer.
  """

  text: str
  start: int
  stop: int
  score: float


def best_spans(task, encoded, logits):
  """Returns the `Span` of each row, the best of all its windows.

  No answer stands at the first token of a window.
  """
  best = [(-np.inf, 0, 0)] * len(encoded.rows)
  none = [np.inf] * len(encoded.rows)
  for row, spots, window in zip(encoded.row_W, encoded.spots, logits):
    none[row] = min(float(window[0].sum()), none[row])
    best[row] = max([best[row], *_spans(spots, window)],
                    key=lambda span: span[0])
  found = []
  for context, (score, start, stop), lack in zip(
      encoded.rows.texts[1], best, none):
    text = context[start:stop]
    if task.has_no_answers and lack > score:
      text = ""
    start += len(text) - len(text.lstrip())  # A token may begin with a space.
    text = text.strip()
    found.append(Span(text, start, start + len(text), score - lack))
  return found


def _spans(spots, window_Sx2):
  """Yields (score, first character, the one behind) of a window's spans."""
  if not len(spots):
    return
  scores_Nx2 = window_Sx2[spots[:, 0]]
  best = np.argsort(-scores_Nx2, axis=0, kind="stable")[:_BEST_SPOTS]
  for first in best[:, 0]:
    for last in best[:, 1]:
      if first <= last < first + _MOST_SPAN_TOKENS:
        yield (float(scores_Nx2[first, 0] + scores_Nx2[last, 1]),
               int(spots[first, 1]), int(spots[last, 2]))


def _largest(task, logits_RxC):
  del task
  return np.argmax(logits_RxC, axis=-1)


def _above_half(task, logits_RxC):
  del task
  return (logits_RxC > 0).astype(np.float32)


def _number(task, logits_Rx1):
  numbers_R = logits_Rx1[:, 0] * np.float32(task.scale) + np.float32(
      task.shift)
  return np.clip(numbers_R, *task.limits) if task.limits else numbers_R


def _tags(task, logits):
  # What was cut off is O; where there is none, it is wrong.
  missing = (task.labels.index(entities.OUTSIDE)
             if entities.OUTSIDE in task.labels else -1)
  return [np.where(np.isnan(words_NxC).any(axis=-1), missing,
                   np.argmax(words_NxC, axis=-1)) for words_NxC in logits]


def tag_names(task, tags):
  """Returns the names of tags; None of a word that no window holds."""
  return [task.labels[tag] if tag >= 0 else None for tag in tags]


def _tags_in_a_row(task, tags):
  names = [name or _NO_TAG for name in tag_names(task, tags)]
  if any(len(name.split()) > 1 for name in task.labels):
    return json.dumps(names, ensure_ascii=False)
  return " ".join(names)


def _tags_in_words(task, tags):
  """Returns the tag of all words, or else each."""
  names = set(tag_names(task, tags))
  return (names.pop() or _NO_TAG) if len(names) == 1 else (
      _tags_in_a_row(task, tags))


def _shares(task, shares_C):
  return ", ".join(f"{share:.1%} {label}"
                   for share, label in zip(shares_C, task.labels))


def _about_classes(task, labels_R):
  return _shares(task, np.bincount(
      labels_R, minlength=len(task.labels)) / len(labels_R))


def _about_numbers(task, labels_R):
  low, high = task.limits or (np.min(labels_R), np.max(labels_R))
  return f"scores of {low:g} to {high:g}, {np.mean(labels_R):.2f} on average"


def _label(task, answer):
  return task.labels[answer]


def _joined_labels(task, answer_C):
  """Returns names as a file of rows has them: parted, or as a list."""
  names = [name for name, is_on in zip(task.labels, answer_C > 0) if is_on]
  if any(task.separator in name for name in task.labels):
    return json.dumps(names, ensure_ascii=False)
  return task.separator.join(names)


def _labels_in_words(task, answer_C):
  return ", ".join(np.array(task.labels)[answer_C > 0]) or "no label"


KINDS = {
    "classes": Kind(
        "text", len, _mean_of_windows, _largest,
        lambda task: ("accuracy", "macro_f1") + ("matthews",) * (
            len(task.labels) == 2),
        _label, _label, _about_classes),
    "multilabel": Kind(
        "text", len, _mean_of_windows, _above_half,
        lambda task: ("micro_f1", "macro_f1"),
        _joined_labels,
        _labels_in_words,
        lambda task, labels_RxC: _shares(task, np.mean(labels_RxC, axis=0))),
    "number": Kind(
        "text", lambda labels: 1, _mean_of_windows, _number,
        lambda task: ("pearson", "spearman"),
        lambda task, answer: f"{answer:.6g}",
        lambda task, answer: f"{answer:.6g}", _about_numbers),
    "tokens": Kind(
        "tokens", len, _mean_of_words,
        _tags, lambda task: (
            ("entity_f1",) if entities.are_bio(task.labels)
            else ("word_accuracy", "word_macro_f1")),
        _tags_in_a_row,
        _tags_in_words,
        lambda task, labels: _about_classes(task, np.concatenate(labels))),
    "span": Kind(
        "span", lambda labels: 2, best_spans,
        lambda task, spans: [span.text for span in spans],
        lambda task: ("exact_match", "span_f1"),
        lambda task, answer: " ".join(answer.split()),
        lambda task, answer: answer or "no answer",
        lambda task, labels: f"{np.mean([bool(a) for a in labels]):.1%} have "
                             "an answer"),
}


def num_outputs(task):
  """Returns the outputs of a task's head."""
  return KINDS[task.kind].num_outputs(task.labels)


def unscaled(task, head):
  """Returns a head's parameters whose logits are numbers as they are."""
  return head if task.kind != "number" else head | {
      "out_kernel": head["out_kernel"] * task.scale,
      "out_bias": head["out_bias"] * task.scale + task.shift}


def scaled(units, head):
  """Returns what there is of a head of numbers, in units of a task.

  Args:
    units: (shift, scale) of a `task.Task` of numbers; None of others.
  """
  if units is None or len(head.get("out_bias", ())) != 1:
    return head
  shift, scale = units
  return head | {"out_kernel": head["out_kernel"] / scale,
                 "out_bias": (head["out_bias"] - shift) / scale}


def by_row(task, encoded, logits):
  """Returns what windows say together of each row; see `Kind`."""
  return KINDS[task.kind].by_row(task, encoded, logits)


def answers(task, encoded, logits):
  """Returns what a model says of each row, as `task.Rows.labels` are."""
  return KINDS[task.kind].answers(task, by_row(task, encoded, logits))


def score(task, part, labels, found):
  """Returns the task's metrics of a dev split, {name: 0 to 1}.

  Args:
    found: of `answers`; None where a logit was not finite: that is no answer,
      and all are NaN.
  """
  suffix = part.replace("_", "/")
  if found is None:
    return dict.fromkeys(
        (metric + suffix for metric in task.metrics), np.nan)
  # Answers that are all the same correlate with nothing: NaN, here 0.
  return {metric + suffix: float(np.nan_to_num(
      metrics_lib.METRICS[metric](task, labels, found)))
          for metric in task.metrics}


def one_answer(task, found):
  """Returns the answer that was given to all rows, in words.

  None where there are several, or a single row.
  """
  words = {KINDS[task.kind].in_words(task, answer) for answer in found}
  return words.pop() if len(words) == 1 and len(found) > 1 else None


def plain(task, answer):
  """Returns an answer as a cell of a table."""
  return KINDS[task.kind].plain(task, answer)


def is_finite(logits):
  """Returns whether all logits are: an array, or a list of arrays."""
  return all(np.isfinite(array).all() for array in logits)


def about(task, labels):
  """Returns in words how labels are spread, such as "31.0% negative, ..."."""
  return KINDS[task.kind].about(task, labels)
