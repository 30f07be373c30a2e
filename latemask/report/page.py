"""The page of a report: what is drawn, in which order, and its tables."""

import functools
import math
import os
import statistics

import tqdm

from latemask import errors
from latemask.finetune import grid as grid_lib
from latemask.finetune.tasks import glue
from latemask.report import comparison
from latemask.report import effective_rank
from latemask.report import look as look_lib
from latemask.report.panels import curves as curves_panel
from latemask.report.panels import frontier as frontier_panel
from latemask.report.panels import glue as glue_panel
from latemask.report.panels import heat_map as heat_map_panel
from latemask.report.panels import rank as rank_panel
from latemask.report import series as series_lib
from latemask.runtime import console

# Every picture there may be: what stands side by side, in the page's order.
_ROWS = (("frontier", "frontier_glue"), ("heat_map", "heat_map_glue"),
         ("glue",),
         ("loss_steps", "loss_tokens", "loss_flops"),
         ("accuracy", "throughput"), ("rank",))
PICTURES = tuple(name for row in _ROWS for name in row)
_WIDTH_PIXELS = 400  # Of a picture on the page.


class Page:
  """Series, figures and text of a report.

  Fields:
    figures: {name of `PICTURES`: figure}.
    problems: a line for each thing that is left out or skipped.
  """

  def __init__(self, found):
    """Takes a `report_runs.Found`."""
    self.figures, self._captions, self._rank_table = {}, {}, ""
    self._runs, self._glues = found.runs, found.glues
    self._series, self._naming, self._differing = (
        series_lib.group(found.runs, found.columns) if found.runs
        else ([], [], []))
    self._look = look_lib.look(self._series) if self._series else None
    self._series_of_path = {os.path.realpath(run.path): s
                            for s in self._series for run in s.runs}
    self._glue_series = series_lib.group_glue(
        found.glues, {path: s.label
                      for path, s in self._series_of_path.items()})
    self._glue_results = [series_lib.glue_results(s)
                          for s in self._glue_series]
    self.problems = found.problems + [
        f"{run.path}/metrics.jsonl: {run.num_damaged} of "
        f"{run.num_damaged + run.num_lines} lines cannot be read, and are "
        "skipped" for run in found.runs if run.num_damaged]

  def _add(self, name, fig, caption):
    if fig is not None:
      self.figures[name], self._captions[name] = fig, caption

  def draw(self):
    """Draws everything but the analyses; under `report_look.style()`."""
    if self._series:
      self._draw_frontiers()
      self._draw_curves()
    if self._glue_series:
      self._add("glue", self._draw_glue(), (
          "GLUE dev scores by task: of the best learning rate and batch size "
          "the median over seeds, those of pre-training included, with a "
          "sample deviation to each side; of tasks with two metrics their "
          "mean."))

  def _draw_frontiers(self):
    settled = series_lib.settled(self._series)
    num_left = len(self._series) - len(settled)
    is_live = not settled[0].is_finished
    note = (" No run has ended yet: these are the newest evaluations."
            if is_live else " Left out, since they have not ended: "
            f"{num_left} series." if num_left else "")
    key = comparison.quality_key(self._runs)
    name = comparison.loss_name(key)
    caution = comparison.caution(self._series, key)
    kinds = comparison.kinds(self._series, key)
    texts = comparison.kinds(self._series)
    averages = self._glue_averages()

    def average(run):
      return averages.get(os.path.realpath(run.path), math.nan)

    self._draw_frontier("frontier", settled, comparison.final(key), name,
                        "nats a target", True, note + caution, kinds)
    self._draw_frontier("frontier_glue", settled, average, "GLUE average",
                        "%", False, note, texts)
    if len(set(texts)) > 1:
      return
    depths = comparison.depths(settled)
    keys = list(dict.fromkeys(["eval/loss", key]))
    self._add("heat_map", heat_map_panel.heat_map([
        (comparison.loss_name(k) + (
            " (trained rate)" if k == "eval/loss" else ""), "nats a target",
         comparison.grid(self._series, comparison.final(k), kinds=
                         comparison.kinds(self._series, k)), True)
        for k in keys], depths), (
        "Final held-out loss by mask rate and insertion layer" + (
            ": above at the rate that each was trained at (an easier task "
            "where fewer tokens are hidden), below at one rate for all"
            if len(keys) > 1 else "")
        + ". Mean over seeds; where other keys differ, the best." + note))
    self._add("heat_map_glue", heat_map_panel.heat_map([
        ("GLUE average", "%", comparison.grid(self._series, average, False),
         False)], depths), (
             "GLUE average by mask rate and insertion layer of pre-training, "
             "mean over its seeds." + note))

  def _draw_frontier(self, figure, settled, quality, name, unit,
                     lower_is_better, note, kinds):
    """Draws what compute buys; where all spent the same, what for."""
    points = [(s.scalar(comparison.spent_flops)[0], *s.scalar(quality)[:2],
               s.is_vanilla, s.masks_at_input) for s in settled]
    numbers = [s.number - 1 for s in settled]
    looks = look_lib.pick(self._look, numbers)
    kinds = [kinds[number] for number in numbers]
    y_name = f"{name}\n({unit})"
    same = comparison.equal_compute(settled)
    if same:
      key, values, groups = same
      fig = frontier_panel.equal_compute(
          points, looks, y_name, series_lib.short(key), values, groups,
          kinds)
      caption = (f"What the same compute buys ({points[0][0]:.3g} FLOPs a "
                 f"run): {name} against {series_lib.short(key)}, mean and "
                 "sample deviation over seeds; lines join series that are "
                 "alike otherwise")
    else:
      fig = frontier_panel.frontier(
          points, looks, y_name, lower_is_better, kinds,
          not lower_is_better or not comparison.is_few(self._runs))
      caption = (f"What compute buys: {name} against the FLOPs spent on it; "
                 "a grey line joins those that no cheaper one betters")
    if any(s.is_vanilla for s in settled):
      caption += ("; the star and the dotted line: the vanilla baseline (15 % "
                  "masks, at the input)")
    self._add(figure, fig, f"{caption}.{note}")

  def _draw_curves(self):
    looks = self._look
    count = curves_panel.points_a_curve(len(self._series))
    notes = (f"Points are means over stretches of lines, at most {count} a "
             "curve; the start of training may lie above the picture")
    if len(self._series) <= look_lib.MAX_NAMED:
      notes += ("; of several seeds the mean of those that came so far, with "
                "a band from the lowest to the highest")
    else:
      notes += ("; of several seeds the mean. Keys that neither colour nor "
                "dashes show are in the table")
    losses = (("train", "loss", 1, "training loss\n(nats a target)", True),
              ("evals", "eval/loss", 1, "held-out loss\n(nats a target)",
               True))
    for name, what, x_of_step, caption in (
        ("steps", "steps", lambda run: 1.0,
         f"Loss against steps, each run at its own mask rate. {notes}."),
        ("tokens", "tokens", lambda run: run.step_tokens,
         "The same against tokens."),
        ("flops", "training FLOPs", lambda run: run.step_flops,
         "The same against FLOPs.")):
      self._add(f"loss_{name}", curves_panel.curves(
          self._series, looks, x_of_step, what, losses), caption)
    self._add("accuracy", curves_panel.curves(
        self._series, looks, lambda run: 1.0, "steps",
        (("train", "accuracy", 100, "training\naccuracy (%)", False),
         ("evals", "eval/accuracy", 100, "held-out\naccuracy (%)", False))),
              "Share of the hidden tokens that are predicted.")
    fastest = max((run.tokens_per_sec for run in self._runs
                   if math.isfinite(run.tokens_per_sec)), default=math.nan)
    factor, name = look_lib.unit(fastest, "tokens/s")
    self._add("throughput", curves_panel.curves(
        self._series, looks, lambda run: 1.0, "steps",
        (("train", "tokens_per_sec", factor, name.replace(" (", "\n("),
          False),
         ("train", "data_wait_fraction", 100, "waiting for\ndata (%)",
          False))), "Throughput (tokens of rows, masked or not), and the share "
              "of the time that steps wait for data.")

  def _glue_averages(self):
    """Returns {real path of a run: GLUE average of what began from it}."""
    tasks = max((set(g.results) for g in self._glues), key=len,
                default=set())
    averages = {}
    for glue_run in self._glues:
      scores = [series_lib.percent(cells)
                for cells in glue_run.results.values()]
      if set(glue_run.results) == tasks and all(scores):
        averages[glue_run.begun_from] = max(
            averages.get(glue_run.begun_from, -math.inf),
            statistics.fmean(median for median, _ in scores))
    return averages

  def _draw_glue(self):
    looks = look_lib.look(self._glue_series)
    # What began from a run looks like it, where that is one each.
    numbers = {s.label: s.number for s in self._series}
    begun = [numbers.get(s.label) for s in self._glue_series]
    if None not in begun and len(set(begun)) == len(begun):
      looks = look_lib.pick(self._look, [n - 1 for n in begun])
    return glue_panel.glue(self._glue_rows, len(self._glue_series), looks)

  @functools.cached_property
  def _glue_rows(self):
    """[(task, [(median, deviation) or None, one a series])], of all tasks."""
    found = self._glue_results
    tasks = [task for task in glue.TASKS if any(task in f for f in found)]
    rows = [(task, [series_lib.percent(f.get(task)) for f in found])
            for task in tasks]
    if len(tasks) > 1:
      rows.append(("average", [
          tuple(statistics.fmean(row[i][n] for _, row in rows)
                for n in range(2))
          if all(row[i] for _, row in rows) else None
          for i in range(len(found))]))
    return rows

  def _glue_table(self):
    rows = [("series", "workdirs", *(name for name, _ in self._glue_rows))]
    for i, s in enumerate(self._glue_series):
      rows.append((s.label, str(len(s.runs)), *(
          "{:.2f} ± {:.2f}".format(*scores[i]) if scores[i] else
          "failed" if self._glue_results[i].get(name) else "–"
          for name, scores in self._glue_rows)))
    return console.table(rows)

  def draw_rank(self, num_rows):
    """Measures and draws the effective ranks."""
    found = {}
    for run in tqdm.tqdm(self._runs, "effective rank"):
      try:
        found[run.path] = effective_rank.measure(run.path, num_rows)
      except errors.InputError as error:
        self.problems.append(f"no effective rank of {run.path}: {error}")
    measured = [s for s in self._series if any(
        run.path in found for run in s.runs)]
    if not measured:
      return
    ranks = [_mean_ranks([found[run.path] for run in s.runs
                          if run.path in found]) for s in measured]
    self._add("rank", rank_panel.ranks(
        measured, look_lib.pick(
            self._look, [s.number - 1 for s in measured]), ranks,
        [s.runs[0].config["model.insertion_layer"] for s in measured]), (
            "Effective rank, exp of the entropy of the normalised singular "
            "values (Roy and Vetterli, 2007; not centred), of the hidden "
            "states of the same real tokens: with nothing hidden, and with "
            "the other half of the tokens hidden, whose slots come in at the "
            "insertion layer. Ordinary tokens of held-out rows, newest "
            "checkpoint, states as layers hand them on, mean over seeds."))
    rows = [("#", "layer", "nothing masked", "half masked", "slots",
             "tokens and slots", "tokens", "width")]
    for s, r in zip(measured, ranks):
      for layer in range(len(r["unmasked"])):
        rows.append((str(s.number), str(layer), *(
            look_lib.number(r[name][layer], ".1f") for name in (
                "unmasked", "masked", "slots", "both")),
                     f"{r['num_tokens']:,.0f}", f"{r['width']:.0f}"))
    self._rank_table = console.table(rows)

  def text(self):
    """Returns the page, in Markdown."""
    parts = ["# Report\n", self._summary()]
    for row in _ROWS:
      names = [name for name in row if name in self.figures]
      if names:
        parts.append("\n".join(
            f'<a href="{name}.svg"><img src="{name}.png" alt="{name}" '
            f'width="{_WIDTH_PIXELS}"></a>' for name in names) + "\n")
      parts += [f"*{name.replace('_', ' ')}*: {self._captions[name]}\n"
                for name in names]
    if self._series:
      parts.append("## Runs\n")
      parts.append(self._runs_table())
      parts.append(
          "Mean ± sample deviation over the runs of a series. Tokens = steps "
          "x batch size x row length; FLOPs as metrics.jsonl has them; "
          "tokens/s are medians over the lines. Names take the fewest keys "
          f"that tell the series apart; they differ in: "
          f"{', '.join(f'`{k}`' for k in self._differing) or 'nothing'}.\n")
    if self._glue_series:
      parts += ["## GLUE\n", self._glue_table()]
      for s, results in zip(self._glue_series, self._glue_results):
        paths = "".join(f"- `{run.path}`\n" for run in s.runs)
        parts.append(f"### {s.label}\n\n{paths}")
        parts.append(grid_lib.tabulate(results))
    if self._rank_table:
      parts += ["## Effective rank\n", self._rank_table]
    if self.problems:
      parts.append("## Damaged or left out\n")
      parts.append("".join(f"- {problem}\n" for problem in self.problems))
    return "\n".join(parts)

  def _summary(self):
    bad = sum(run.nonfinite_step is not None for run in self._runs)
    finished = sum(run.is_finished and run.nonfinite_step is None
                   for run in self._runs)
    live = len(self._runs) - finished - bad
    kinds = [f"{len(self._runs)} pre-training runs in {len(self._series)} "
             f"series: {finished} finished"] * bool(self._runs)
    kinds += [f"{live} under way or stopped"] * bool(live)
    kinds += [f"{bad} whose loss is not finite"] * bool(bad)
    kinds += [f"{len(self._glues)} fine-tuning workdirs"] * bool(self._glues)
    kinds += [f"**{len(self.problems)} problems, listed at the end**"] * bool(
        self.problems)
    return ", ".join(kinds) + ".\n" + self._best()

  def _best(self):
    """Returns a sentence on the best series that has ended, or nothing."""
    key = comparison.quality_key(self._runs)
    known = [(loss, s) for loss, s in (
        (s.scalar(comparison.final(key))[0], s)
        for s in self._series if s.is_finished) if math.isfinite(loss)]
    if len(known) < 2:
      return ""
    if caution := comparison.caution(self._series, key):
      return f"\n{caution.strip()}\n"
    loss, best = min(known, key=lambda pair: pair[0])
    text = (f"\nLowest {comparison.loss_name(key)}: **{loss:.4f}** (#"
            f"{best.number}: {best.label})")
    vanillas = [pair for pair in known if pair[1].is_vanilla]
    if vanillas and not best.is_vanilla:
      loss, vanilla = min(vanillas, key=lambda pair: pair[0])
      share = (best.scalar(comparison.spent_flops)[0]
               / vanilla.scalar(comparison.spent_flops)[0])
      text += (f", with {look_lib.number(share, '.3f')} of the FLOPs of the "
               f"vanilla baseline, which has {loss:.4f}")
    return text + ".\n"

  def _runs_table(self):
    key_names = comparison.common_rates(self._runs)
    final, number = comparison.final, look_lib.number
    rows = [("#", *(f"`{k}`" for k in self._naming), "runs", "state",
             "tokens", "FLOPs", "masks % (of the row, of what can be)",
             "held-out loss",
             *(comparison.loss_name(k).removeprefix("held-out loss ")
               for k in key_names),
             "held-out accuracy %", "tokens/s", "MFU %", "data wait %")]
    for s in self._series:
      def cell(of_run, form, scale=1.0):
        mean, deviation, count = s.scalar(of_run)
        return number(scale * mean, form) + (
            f" ± {scale * deviation:{form}}" if count > 1 else "")

      rows.append((
          str(s.number),
          *(series_lib.show(v) for v in s.values.values()),
          _members(s), "; ".join(dict.fromkeys(map(_state, s.runs))),
          number(max(r.last_step * r.step_tokens for r in s.runs), ".3g"),
          number(max((r.last_step * r.step_flops for r in s.runs)), ".3g"),
          f"{100 * s.runs[0].config['masking.rate']:g}, " + number(
              100 * s.scalar(final("eval/hidden_fraction"))[0], ".1f"),
          cell(final("eval/loss"), ".4f"),
          *(cell(final(k), ".4f") for k in key_names),
          cell(final("eval/accuracy"), ".2f", 100),
          number(s.scalar(lambda r: r.tokens_per_sec)[0], ",.0f"),
          number(100 * s.scalar(lambda r: r.mfu)[0], ".1f"),
          number(100 * s.scalar(lambda r: r.data_wait_fraction)[0], ".2f")))
    return console.table(rows)


def _members(s):
  names = [os.path.basename(os.path.abspath(run.path)) for run in s.runs]
  shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
  return f"{len(names)}: {shown}"


def _state(run):
  """Returns how far a run has come."""
  rollbacks = (f", {run.num_rollbacks} rollbacks" if run.num_rollbacks
               else "")
  if run.nonfinite_step is not None:
    return f"not finite at step {run.nonfinite_step:,}{rollbacks}"
  if run.is_finished:
    return f"finished{rollbacks}"
  num_steps = run.num_steps
  return (f"step {run.last_step:,} of "
          + ("?" if num_steps is None else f"{num_steps:,}") + rollbacks)


def _mean_ranks(found):
  """Returns the fields of several `rank.Ranks`, each the mean."""
  return {name: sum(getattr(r, name) for r in found) / len(found)
          for name in ("unmasked", "masked", "slots", "both", "num_tokens",
                       "width")}
