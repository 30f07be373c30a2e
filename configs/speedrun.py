"""A race to one held-out loss, that anyone can run: configs/speedrun.py:TRACK.

  bash launch/local.sh python -m latemask.tools.sweep --out runs/mini \\
      --config configs/speedrun.py:mini --grid seed=1,2,3
  bash launch/local.sh python -m latemask.tools.speedrun --track mini \\
      --hardware "2 cores of an AMD EPYC" runs/mini/seed=*/

Tracks: mini (the prose of one CPython, minutes on two cores) and wikitext
(WikiText-103 raw, the default). The rules and the records stand in
configs/README.md. What a track fixes is here; the rest of the config is the
recipe that wins today, and yours to change.
"""

from configs import demo
from configs import fast

# target: held-out loss at 15 % masks, in nats a target. rows: digest of the
# packed rows and their tokenizer, as latemask.tools.speedrun prints it; None
# where nobody has told it yet. num_rows: held-out rows.
TRACKS = {
    "mini": {"target": 4.4, "rows": "25b886bb", "num_rows": 113,
             "text": "builtin of CPython 3.11.7"},
    "wikitext": {"target": 2.8, "rows": None, "num_rows": None, "text": (
        "wikitext-103-raw-v1.zip, SHA-256 91c00ae287f0d699e18605c84afc9e45"
        "c192bc6b7797ff8837e5474655a33794, unpacked where you are")},
}


def get_config(track="wikitext"):
  """Returns the recipe that wins a track today."""
  if track not in TRACKS:
    raise ValueError(
        f"track is {track!r}; choose one of {', '.join(TRACKS)}")
  return {"mini": _mini, "wikitext": _wikitext}[track]()


def _wikitext():
  config = fast.get_config("small")
  config.data.source = "text:wikitext-103-raw/wiki.train.raw"
  config.data.eval_source = "text:wikitext-103-raw/wiki.valid.raw"
  return config


def _mini():
  config = demo.get_config()
  config.data.fit = "next"  # As the rows of the records are.
  config.train.num_steps = 400
  config.optimizer.learning_rate = 1e-2
  config.eval.every_steps = 100
  return config
