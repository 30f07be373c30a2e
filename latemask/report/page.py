"""The page of a report: its pictures in their order, then its tables."""

import dataclasses
from typing import Callable

from latemask.finetune import grid as grid_lib
from latemask.report import comparison
from latemask.report import tables
from latemask.report.panels import crossing
from latemask.report.panels import curves
from latemask.report.panels import frontier
from latemask.report.panels import glue
from latemask.report.panels import heat_map
from latemask.report.panels import rank

_WIDTH_PIXELS = 400  # Of a picture on the page.


@dataclasses.dataclass(frozen=True)
class Panel:
  """A picture of a page.

  Fields:
    name: of its files.
    needs: fields of `content.Content` that must hold something.
    draw: function of the content: (figure, caption); None where too little is
      known.
  """

  name: str
  needs: tuple
  draw: Callable


# Every picture there may be: what stands side by side, in the page's order.
_ROWS = (
    (Panel("frontier", ("series",), frontier.loss),
     Panel("frontier_glue", ("series", "glue_averages"), frontier.glue)),
    (Panel("heat_map", ("series", "is_one_text"), heat_map.loss),
     Panel("heat_map_glue", ("series", "is_one_text", "glue_averages"),
           heat_map.glue)),
    (Panel("crossing", ("crossing",), crossing.loss),),
    (Panel("glue", ("glue_series",), glue.glue),),
    (Panel("loss_steps", ("series",), curves.loss_over_steps),
     Panel("loss_tokens", ("series",), curves.loss_over_tokens),
     Panel("loss_flops", ("series",), curves.loss_over_flops)),
    (Panel("accuracy", ("series",), curves.accuracy),
     Panel("throughput", ("series",), curves.throughput)),
    (Panel("rank", ("ranks",), rank.rank),),
)
PICTURES = tuple(panel.name for row in _ROWS for panel in row)


def draw(content):
  """Draws what is known; under `look.style()`.

  Returns:
    {name of a picture: (figure, caption)}.
  """
  pictures = {}
  for panel in (panel for row in _ROWS for panel in row):
    if all(getattr(content, need) for need in panel.needs):
      if drawn := panel.draw(content):
        pictures[panel.name] = drawn
  return pictures


def text(content, pictures):
  """Returns the page, in Markdown.

  Args:
    pictures: what `draw` returned.
  """
  parts = ["# Report\n", tables.summary(content)]
  for row in _ROWS:
    names = [panel.name for panel in row if panel.name in pictures]
    if names:
      parts.append("\n".join(
          f'<a href="{name}.svg"><img src="{name}.png" alt="{name}" '
          f'width="{_WIDTH_PIXELS}"></a>' for name in names) + "\n")
    parts += [f"*{name.replace('_', ' ')}*: {pictures[name][1]}\n"
              for name in names]
  if content.series:
    parts += ["## Runs\n", tables.runs(content), _about_runs(content)]
  if content.crossing:
    parts += ["## Compute to the same loss\n", tables.crossing(content),
              _about_crossing(content.crossing)]
  if content.glue_series:
    parts += [f"## {content.fine_tuning}\n", tables.glue(content)]
    for s, results in zip(content.glue_series, content.glue_results):
      paths = "".join(f"- `{run.path}`\n" for run in s.runs)
      parts += [f"### {s.label}\n\n{paths}", grid_lib.tabulate(results)]
  if content.ranks:
    parts += ["## Effective rank\n", tables.ranks(content)]
  if content.problems:
    parts.append("## Damaged or left out\n")
    parts.append("".join(f"- {problem}\n" for problem in content.problems))
  return "\n".join(parts)


def _about_crossing(found):
  return (
      f"What a series has spent when its {comparison.loss_name(found.key)} "
      f"first comes down to {found.loss:.4f}, at which {found.baseline.label} "
      "ends, by that baseline's whole: mean ± sample deviation over those of "
      "its runs that come down to it, by a straight line between evaluations. "
      "The baseline reaches it at its end by definition; how far its own runs "
      "end apart is in no deviation here. Seconds are of training alone, "
      "by the lines' tokens/s, and compare where the machine was the same. "
      "Device-hours are these times the devices; the energy takes each of them "
      "to draw what its data sheet says at most.\n")


def _about_runs(content):
  differing = ", ".join(f"`{k}`" for k in content.differing) or "nothing"
  return (
      "Mean ± sample deviation over the runs of a series. Tokens = steps x "
      "batch size x row length; FLOPs as metrics.jsonl has them; tokens/s are "
      "medians over the lines. A series has the names of its runs' folders "
      "(of a sweep's, which are made of keys, the keys), and the fewest keys "
      f"that tell it from the others; they differ in: {differing}.\n")
