"""A task, and the rows of a split of it, wherever they come from.

glue.py and own.py make both; kinds.py says how tasks of a kind are trained,
answered and scored.
"""

import dataclasses

import numpy as np

from latemask.config import domains
from latemask.config import keys
from latemask import errors

# What a model says of its task in a file, see `finetune.data.about`. Those of
# before lack some.
_ABOUT = {"kind": domains.TEXT, "has_no_answers": domains.YES_NO,
          "max_length": domains.whole(3, keys.MOST_TOKENS),
          "text": domains.each(domains.TEXT),
          "stride": domains.optional(domains.whole(0, keys.MOST_TOKENS))}


@dataclasses.dataclass(frozen=True)
class Task:
  """What is to be learned.

  Fields:
    name: of folders and files.
    kind: a row of `kinds.KINDS`.
    labels: what the classes or tags are called; () where there are none.
    metrics: keys of `metrics.METRICS`; their mean chooses.
    num_epochs: of a cell, unless the grid says.
    parts: suffixes of dev and test splits, by what they add to a name.
    limits: least and largest number that can be; None: any.
    shift, scale: of a number: what is learned is (number - shift) / scale.
    has_no_answers: spans: there are questions without an answer.
    text: columns of its texts.
    stride: of its windows, see `windows.encode`.
    separator: between several labels in a cell of a table.
  """

  name: str
  kind: str
  labels: tuple[str, ...]
  metrics: tuple[str, ...]
  num_epochs: int
  parts: tuple[str, ...] = ("",)
  limits: tuple[float, float] | None = None
  shift: float = 0.0
  scale: float = 1.0
  has_no_answers: bool = False
  text: tuple[str, ...] = ()
  stride: int | None = None
  separator: str = ","


@dataclasses.dataclass(frozen=True)
class Rows:
  """A split.

  Fields:
    texts: a list for each text of a row: of strings; of tagged rows, of lists
      of words; of spans, the questions and the contexts.
    labels: None where they are secret. By kind: classes, int32 [R]; numbers,
      float32 [R]; several labels, float32 [R, C] of 0 and 1; tags, an int32
      array a row; spans, a tuple of `Answer` a row, () for none.
    num_dropped: broken lines of a training file.
  """

  texts: tuple[list, ...]
  labels: np.ndarray | list | None
  num_dropped: int = 0

  def __len__(self):
    return len(self.texts[0])


@dataclasses.dataclass(frozen=True)
class Answer:
  """Some characters of a context.

  Fields:
    start: the first of them.
    text: all of them.
  """

  start: int
  text: str


def check_about(about, where):
  """Checks what a file says of a task; of None there is nothing to say.

  Raises:
    InputError: a field that cannot be.
  """
  if about is None:
    return
  if not isinstance(about, dict):
    raise errors.InputError(
        f"{where}: task is {about!r:.60}; it must be an object")
  for field, value in about.items():
    if field in _ABOUT:
      domains.check(_ABOUT[field], f"task.{field}", value, where)
