"""Runs and fine-tuning workdirs for a report; what is read of it."""

import json
import statistics
import xml.etree.ElementTree

from matplotlib import image
import numpy as np

from configs import base
from configs import glue as glue_config
from latemask.report import content as content_lib
from latemask.report import look as look_lib
from latemask.report import page as page_lib
from latemask.report import reading


STEP_FLOPS = 7e12


def run(path, num_lines=12, upto=None, rate=0.5, layer=12, seed=0,
              **overrides):
  """Writes a run; returns the records of its metrics.jsonl."""
  config = base.get_config("base")
  config.masking.rate, config.model.insertion_layer = rate, layer
  config.seed, config.train.num_steps = seed, num_lines
  config.update_from_flattened_dict(overrides)
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(config.to_dict()))
  rng = np.random.default_rng([seed, layer, round(100 * rate)])
  records = []
  for step in range((upto or num_lines) + 1):
    if step % 4 == 0:
      loss = 2 + rng.random()
      records.append({"step": step, "eval/loss": loss, "eval/accuracy": 0.25,
                      "eval/rate_0.15/loss": loss / 2, "eval/rows": 100})
    if step:
      records.append({
          "step": step, "loss": 2 + rng.random(), "accuracy": rng.random(),
          "data_wait_fraction": rng.random() / 10,
          "flops": step * STEP_FLOPS,
          "all_flops": 1.25 * step * STEP_FLOPS} | (
              {"tokens_per_sec": 100 + rng.random()} if step > 1 else {}))
  (path / "metrics.jsonl").write_text(
      "".join(json.dumps(r) + "\n" for r in records))
  return records


def glue(path, init_from, quality=0.5, tasks=("cola", "mrpc", "mnli"),
               **overrides):
  """Writes a fine-tuning workdir; returns {task: results}."""
  config = glue_config.get_config()
  config.init_from = str(init_from)
  config.update_from_flattened_dict(overrides)
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(config.to_dict()))
  rng = np.random.default_rng(3)
  made = {}
  for task in tasks:
    (path / "cells" / task).mkdir(parents=True)
    for batch_size in (16, 32):
      for seed in range(3):
        metrics = {"a": quality + 0.1 * rng.random(),
                   "b": quality + 0.1 * rng.random()}
        result = {"task": task, "batch_size": batch_size,
                  "learning_rate": 1e-5, "seed": seed, "metrics": metrics,
                  "score": statistics.mean(metrics.values())}
        made.setdefault(task, []).append(result)
        (path / "cells" / task / f"{batch_size}-{seed}.json").write_text(
            json.dumps(result))
  return made


def table(text, heading):
  """Returns the rows of the table after a heading, as dicts."""
  lines = iter(text.split(heading)[1].splitlines())
  rows = []
  for line in lines:
    if line.startswith("|"):
      rows.append([cell.strip() for cell in line.strip("|").split("|")])
    elif rows:
      break
  return [dict(zip(rows[0], row)) for row in rows[2:]]


def check_picture(folder, name):
  """A picture is there, as a PNG and an SVG that are whole."""
  pixels = image.imread(folder / f"{name}.png")
  assert pixels.shape[1] == round(300 * look_lib.WIDTH_INCHES)
  assert np.ptp(pixels[..., :3]) > 0.5  # Not blank.
  root = xml.etree.ElementTree.parse(folder / f"{name}.svg").getroot()
  assert root.tag.endswith("svg")


def drawn(*folders, rank_rows=0):
  """Returns (content, {name: figure}, text) of a report that is not written.
  """
  content = content_lib.gather(reading.read(folders), rank_rows)
  with look_lib.style():
    pictures = page_lib.draw(content)
  figures = {name: fig for name, (fig, _) in pictures.items()}
  return content, figures, page_lib.text(content, pictures)
