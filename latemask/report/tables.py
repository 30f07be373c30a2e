"""The tables of a report: runs, GLUE, effective ranks; and its first lines."""

import math

from latemask.report import comparison
from latemask.report import look as look_lib
from latemask.report import series as series_lib
from latemask.runtime import console


def summary(content):
  """Returns how many runs there are and how far, and which is the best."""
  runs = content.runs
  bad = sum(run.nonfinite_step is not None for run in runs)
  finished = sum(run.is_finished and run.nonfinite_step is None
                 for run in runs)
  live = len(runs) - finished - bad
  kinds = [f"{len(runs)} pre-training runs in {len(content.series)} series: "
           f"{finished} finished"] * bool(runs)
  kinds += [f"{live} under way or stopped"] * bool(live)
  kinds += [f"{bad} whose loss is not finite"] * bool(bad)
  kinds += [f"{len(content.glues)} fine-tuning workdirs"] * bool(content.glues)
  kinds += [f"**{len(content.problems)} problems, listed at the end**"] * bool(
      content.problems)
  return ", ".join(kinds) + ".\n" + _best(content)


def _best(content):
  """Returns a sentence on the best series that has ended, or nothing."""
  key = content.quality_key
  known = [(loss, s) for loss, s in (
      (s.scalar(comparison.final(key))[0], s)
      for s in content.series if s.is_finished) if math.isfinite(loss)]
  if len(known) < 2:
    return ""
  if caution := comparison.caution(content.series, key):
    return f"\n{caution.strip()}\n"
  loss, best = min(known, key=lambda pair: pair[0])
  text = (f"\nLowest {comparison.loss_name(key)}: **{loss:.4f}**, that of #"
          f"{best.number}: {best.label}")
  named = content.crossing and content.crossing.baseline
  baselines = [pair for pair in known if (
      pair[1] is named if named else pair[1].is_vanilla)]
  if baselines and best not in [s for _, s in baselines]:
    loss, baseline = min(baselines, key=lambda pair: pair[0])
    share = (best.scalar(comparison.spent_flops)[0]
             / baseline.scalar(comparison.spent_flops)[0])
    text += (f"; with {look_lib.number(share, '.3f')} of the model's FLOPs of "
             f"#{baseline.number}, {'the' if named else 'a vanilla'} baseline, "
             f"which has {loss:.4f}")
  return text + ".\n"


def runs(content):
  """Returns a table of the series of pre-training."""
  rates = comparison.common_rates(content.runs)
  final, number = comparison.final, look_lib.number
  rows = [("#", "folders", *(f"`{k}`" for k in content.naming), "state",
           "tokens", "FLOPs", "with the optimizer's",
           "masks % (of the row, of what can be)",
           "held-out loss",
           *(comparison.loss_name(k).removeprefix("held-out loss ")
             for k in rates),
           "held-out accuracy %", "tokens/s", "MFU %", "data wait %")]
  for s in content.series:
    rows.append((
        str(s.number), s.members,
        *(series_lib.show(v) for v in s.values.values()),
        "; ".join(dict.fromkeys(map(_state, s.runs))),
        number(max(r.last_step * r.step_tokens for r in s.runs), ".3g"),
        number(max((float(r.flops_at(r.last_step)) for r in s.runs)), ".3g"),
        number(max((float(r.all_flops_at(r.last_step)) for r in s.runs)),
               ".3g"),
        " then ".join(f"{100 * rate:g}" for rate in s.rates) + ", " + number(
            100 * s.scalar(final("eval/hidden_fraction"))[0], ".1f"),
        _cell(s, final("eval/loss"), ".4f"),
        *(_cell(s, final(k), ".4f") for k in rates),
        _cell(s, final("eval/accuracy"), ".2f", 100),
        number(s.scalar(lambda r: r.tokens_per_sec)[0], ",.0f"),
        number(100 * s.scalar(lambda r: r.mfu)[0], ".1f"),
        number(100 * s.scalar(lambda r: r.data_wait_fraction)[0], ".2f")))
  return console.table(rows)


def crossing(content):
  """Returns a table of what it takes to reach the end of a baseline."""
  found, number = content.crossing, look_lib.number
  rows = [("#", "series", "runs that reach it", "at step",
           *(f"share of the {what}" for what in found.shares), *found.used)]
  for i, s in enumerate(content.series):
    steps = [step for step in found.steps[i] if math.isfinite(step)]
    is_baseline = s is found.baseline
    rows.append((
        str(s.number), s.label + " (the baseline)" * is_baseline,
        "by definition" if is_baseline else
        f"{len(steps)} of {len(s.runs)}" if found.can_compare[i] else
        "not comparable",
        number(sum(steps) / len(steps) if steps else math.nan, ",.0f"),
        *("1" if is_baseline else _spread(*of_series[i][:2], ".3f")
          for of_series in found.shares.values()),
        *(_spread(*of_series[i][:2], ".3g")
          for of_series in found.used.values())))
  return console.table(rows)


def _cell(series, of_run, form, scale=1.0):
  """Returns mean and deviation over the runs of a series."""
  mean, deviation, _ = series.scalar(of_run)
  return _spread(scale * mean, scale * deviation, form)


def _spread(value, deviation, form):
  """Returns both; of a single run there is no deviation."""
  return look_lib.number(value, form) + (
      f" ± {deviation:{form}}" if math.isfinite(deviation) else "")


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


def glue(content):
  """Returns a table of the series of fine-tuning."""
  rows = [("series", "workdirs", *(name for name, _ in content.glue_rows))]
  for i, s in enumerate(content.glue_series):
    rows.append((s.label, str(len(s.runs)), *(
        _spread(*scores[i], ".2f") if scores[i] else
        "failed" if content.glue_results[i].get(name) else "–"
        for name, scores in content.glue_rows)))
  return console.table(rows)


def ranks(content):
  """Returns a table of the effective ranks."""
  rows = [("#", "before layer", "nothing masked", "half masked", "slots",
           "tokens and slots", "tokens", "width")]
  for s, found in content.ranks:
    for layer, values in enumerate(zip(
        found.unmasked, found.masked, found.slots, found.both)):
      rows.append((str(s.number), str(layer),
                   *(look_lib.number(value, ".1f") for value in values),
                   f"{found.num_tokens:,.0f}", f"{found.width:.0f}"))
  return console.table(rows)
