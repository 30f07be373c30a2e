"""S8: 50 times the compute, on one GPU: 12 layers of width 512, bfloat16.

The runs that matter most: 15 and 50 % at the input, 50 % behind all layers and
before layer 9.
"""

from configs.sweeps import study


def get_config():
  """Returns the study's config, four times as wide."""
  config = study.get_config()
  config.model.width, config.model.heads, config.model.mlp = 512, 8, 1408
  config.model.dtype = "bfloat16"
  config.train.batch_size = 64
  config.train.total_flops = 50 * study.TOTAL_FLOPS
  config.optimizer.learning_rate = 1e-3
  config.eval.every_steps = 100
  return config


def sweep(config):
  """Yields the overrides of each point."""
  rate = config.optimizer.learning_rate
  runs = (study.INPUT_15, study.INPUT_50, study.LATE_50,
          study.place(0.5, study.ENCODER, 9))
  for factor in (1, 2):
    yield from study.points(
        [run | {"optimizer.learning_rate": factor * rate} for run in runs],
        seeds=(1,))


def columns():
  """Returns the keys worth plotting."""
  return ["masking.rate", "model.insertion_layer", "optimizer.learning_rate"]
