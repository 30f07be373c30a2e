"""A sweep of some minutes on two CPU cores, to see how one works.

  python -m latemask.tools.sweep --out runs/demo_sweep --parallel 2 \\
      --config configs/sweeps/demo.py

15, 30 and 50 % masks, at the input or before the last of four layers, each for
the same FLOPs (290 to 460 steps). One seed, half the width of configs/demo.py:
nothing to choose a recipe by.
"""

from configs import demo


def get_config():
  """Returns demo.py at half its width, with one layer less."""
  config = demo.get_config()
  config.model.width = 64
  config.model.heads = 2
  config.model.mlp = 256
  config.model.layers = 4
  config.model.unroll = 4
  config.model.insertion_layer = 3
  config.train.total_flops = 1.2e12
  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 2e-3
  config.eval.every_steps = 100
  config.checkpoint.every_steps = 10_000
  return config


def sweep(config):
  """Yields the overrides of each point."""
  for rate in (0.15, 0.3, 0.5):
    for layer in (0, config.model.insertion_layer):
      yield {"masking.rate": rate, "model.insertion_layer": layer}


def columns():
  """Returns the keys worth plotting."""
  return ["masking.rate", "model.insertion_layer"]
