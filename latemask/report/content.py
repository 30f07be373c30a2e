"""What a report is about: gathered once, and read by panels and tables."""

import dataclasses
import functools
import os

import tqdm

from latemask import errors
from latemask.report import comparison
from latemask.report import crossing as crossing_lib
from latemask.report import effective_rank
from latemask.report import look as look_lib
from latemask.report import scores
from latemask.report import series as series_lib


@dataclasses.dataclass(frozen=True)
class Content:
  """Series, their look and their numbers.

  Fields:
    runs, glues: as of `runs.Found`.
    series: of the runs.
    naming, differing: keys that name them, and all in which they differ.
    look: theirs; None without any.
    glue_series: of the fine-tuning workdirs.
    ranks: [(series, its mean `effective_rank.Ranks`)] of those measured.
    crossing: the `crossing.Crossing` of a baseline that was named, or None.
    problems: a line for each thing that is left out or skipped.
  """

  runs: list
  glues: list
  series: list
  naming: list
  differing: list
  look: look_lib.Look | None
  glue_series: list
  ranks: list
  crossing: crossing_lib.Crossing | None
  problems: list

  @functools.cached_property
  def settled(self):
    """The series that have ended; all where none has."""
    return series_lib.settled(self.series)

  @functools.cached_property
  def quality_key(self):
    """The held-out loss by which most runs can be compared."""
    return comparison.quality_key(self.runs)

  @functools.cached_property
  def kinds(self):
    """One number a series: those of a number are of one text."""
    return comparison.kinds(self.series)

  @functools.cached_property
  def is_one_text(self):
    """Whether there are runs, and all are of one text and tokenizer."""
    return len(set(self.kinds)) == 1

  @functools.cached_property
  def glue_results(self):
    """{task: results of the cells}, one a series of fine-tuning."""
    return [scores.results(s) for s in self.glue_series]

  @functools.cached_property
  def glue_rows(self):
    """[(task, [(median, deviation) or None, one a series])]."""
    return scores.by_task(self.glue_results)

  @property
  def fine_tuning(self):
    """What the fine-tuning is called: GLUE, unless there are other tasks."""
    is_glue = all(map(scores.are_glue, self.glue_results))
    return "GLUE" if is_glue else "Fine-tuning"

  @functools.cached_property
  def glue_averages(self):
    """{real path of a run: GLUE average of what began from it}."""
    return scores.averages(self.glues)

  @property
  def unfinished(self):
    """A sentence on series that have not ended, or nothing."""
    if not self.settled[0].is_finished:
      return " No run has ended yet: these are the newest evaluations."
    num_left = len(self.series) - len(self.settled)
    return (f" Left out, since they have not ended: {num_left} series."
            if num_left else "")


def gather(found, rank_rows=0, baseline=None):
  """Returns the `Content` of a report.

  Args:
    found: a `runs.Found`.
    rank_rows: held-out rows to measure the effective rank on; 0: not at all.
    baseline: name of the series whose end the others are to reach; or None.

  Raises:
    InputError: there is no such series, or it has not ended.
  """
  problems = found.problems + [
      f"{run.path}/metrics.jsonl: {run.num_damaged} of "
      f"{run.num_damaged + run.num_lines} lines cannot be read, and are "
      "skipped" for run in found.runs if run.num_damaged]
  series, naming, differing = series_lib.group(found.runs, found.columns)
  labels = {os.path.realpath(run.path): s.label
            for s in series for run in s.runs}
  return Content(
      found.runs, found.glues, series, naming, differing,
      look_lib.look(series) if series else None,
      series_lib.group_glue(found.glues, labels),
      _measure(series, rank_rows, problems) if rank_rows else [],
      crossing_lib.find(series, baseline, comparison.quality_key(found.runs))
      if baseline else None, problems)


def _measure(series, num_rows, problems):
  """Returns [(series, mean ranks)]; what cannot be measured is a problem."""
  found = []
  with tqdm.tqdm(total=sum(len(s.runs) for s in series),
                 desc="effective rank") as bar:
    for s in series:
      ranks = []
      for run in s.runs:
        try:
          ranks.append(effective_rank.measure(run.path, num_rows))
        except errors.InputError as error:
          problems.append(f"no effective rank of {run.path}: {error}")
        bar.update()
      if ranks:
        found.append((s, effective_rank.mean(ranks)))
  return found
