"""The study: how much to mask, where, with what, at a depth that can tell.

Seven sweeps (S1 to S6 and S8 of README.md) are changes of this config: an
encoder of 12 layers of width 128, 4,096 pieces, rows of 128, batches of 32, no
dropout, and 80 TFLOP for each run unless the file says otherwise. What comes
out of them is fine-tuned by downstream.py (S7).
"""

from configs import base

ENCODER = 12
TOTAL_FLOPS = 8e13


def place(rate, layers, insertion_layer):
  """Returns what runs differ in most: how much is masked, and where."""
  return {"masking.rate": rate, "model.layers": layers,
          "model.insertion_layer": insertion_layer}


INPUT_15, INPUT_30, INPUT_50 = (
    place(rate, ENCODER, 0) for rate in (0.15, 0.3, 0.5))
LATE_50 = place(0.5, ENCODER + 2, ENCODER)


def get_config():
  """Returns what all runs of the study share; 50 % masks behind 12 layers."""
  config = base.get_config("small")
  config.data.vocab_size = 4096
  config.data.fit = "next"  # As all of it was packed.
  config.model.width, config.model.heads, config.model.mlp = 128, 4, 384
  config.model.layers, config.model.insertion_layer = ENCODER + 2, ENCODER
  config.model.dropout = config.model.attention_dropout = 0.0
  config.model.dtype = "float32"
  config.model.remat = None
  config.train.batch_size = 32
  config.train.total_flops = TOTAL_FLOPS
  config.optimizer.learning_rate = 2e-3
  config.eval.every_steps = 50
  config.eval.batch_size = 256
  config.checkpoint.every_steps = 1_000_000  # At the end.
  config.checkpoint.keep = 1
  config.metrics.every_steps = 50
  return config


def points(runs, seeds):
  """Yields overrides: all runs with the first seed, then with the next."""
  for seed in seeds:
    for run in runs:
      yield {"seed": seed} | run
