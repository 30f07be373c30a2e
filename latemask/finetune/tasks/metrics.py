"""Metrics of fine-tuned models: (task, labels, answers) -> 0 to 1.

Labels and answers are those of `task.Rows.labels` and of `kinds.answers`.
Sources: scikit-learn and SciPy, whose imports take seconds; entities as
conlleval counts them; spans as SQuAD's evaluation does (arXiv 1606.05250,
1806.03822).
"""

import collections
import re
import statistics
import string
import warnings

import numpy as np

from latemask.finetune.tasks import entities


def _sklearn(name, **options):
  def metric(task, labels, found):
    del task
    from sklearn import metrics
    return getattr(metrics, name)(labels, found, **options)
  return metric


def _by_label(average):
  """Returns the F1 of classes, or of columns of labels, and its average."""
  several = _sklearn("f1_score", average=average, zero_division=0)
  one = _sklearn("f1_score", zero_division=0)

  def metric(task, labels, found):
    # A column by itself would be taken for a class and its opposite.
    if np.shape(labels)[1:] == (1,):
      return one(task, labels[:, 0], found[:, 0])
    return several(task, labels, found)
  return metric


def _scipy(name):
  def metric(task, labels, found):
    del task
    if len(labels) < 2:
      return np.nan  # Of one row nothing is known.
    from scipy import stats
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", stats.ConstantInputWarning)
      return getattr(stats, name)(labels, found).statistic
  return metric


def _by_word(metric):
  """Returns a metric of classes as one of tags, each word a row."""
  return lambda task, labels, found: metric(
      task, *map(np.concatenate, (labels, found)))


def _macro_f1_of_tags(task, labels_W, found_W):
  # What was cut off has no tag: that is wrong, and no tag of its own.
  tags = np.union1d(labels_W, found_W[found_W >= 0])
  return _sklearn("f1_score", average="macro", zero_division=0, labels=tags)(
      task, labels_W, found_W)


def _entity_f1(task, labels, found):
  """F1 of whole entities, of all types together."""
  # What was cut off has no tag.
  names = [*task.labels, entities.OUTSIDE]
  right = num_labels = num_found = 0
  for label, answer in zip(labels, found):
    wanted, given = (set(entities.spans([names[tag] for tag in tags]))
                     for tags in (label, answer))
    right += len(wanted & given)
    num_labels, num_found = num_labels + len(wanted), num_found + len(given)
  return 2 * right / max(num_labels + num_found, 1)


def _words(text):
  """Returns the words that SQuAD compares."""
  text = "".join(c for c in text.lower() if c not in string.punctuation)
  return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _overlap(wanted, given):
  """Returns the F1 of the words of two texts."""
  wanted, given = _words(wanted), _words(given)
  if not wanted or not given:
    return float(wanted == given)
  common = sum((collections.Counter(wanted)
                & collections.Counter(given)).values())
  return 2 * common / (len(wanted) + len(given))


def _of_best_answer(same):
  """Returns a metric of spans: the best of a question's answers counts.

  No answer is an empty one, and so is one without words ("the").
  """
  def metric(task, labels, found):
    del task
    return statistics.fmean(
        max(same(wanted, text) for wanted in [
            a.text for a in answers if _words(a.text)] or [""])
        for answers, text in zip(labels, found))
  return metric


METRICS = {
    "matthews": _sklearn("matthews_corrcoef"),
    "accuracy": _sklearn("accuracy_score"),
    "f1": _sklearn("f1_score", zero_division=0),  # That of class 1.
    "macro_f1": _by_label("macro"),
    "micro_f1": _by_label("micro"),
    "pearson": _scipy("pearsonr"), "spearman": _scipy("spearmanr"),
    "entity_f1": _entity_f1,
    "word_accuracy": _by_word(_sklearn("accuracy_score")),
    "word_macro_f1": _by_word(_macro_f1_of_tags),
    "exact_match": _of_best_answer(
        lambda wanted, given: float(_words(wanted) == _words(given))),
    "span_f1": _of_best_answer(_overlap),
}
