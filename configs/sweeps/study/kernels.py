"""S1: how large kernels begin, before anything else is compared.

BERT's 0.02 whatever their inputs are, and 0.5, 1 and 2 times what this project
takes by fan-in; late masks, and masks at the input.
"""

from configs.sweeps import study


get_config = study.get_config


def sweep(config):
  """Yields the overrides of each point."""
  del config
  for run in (study.LATE_50, study.INPUT_15):
    for kernels in ("fan_in", "fixed"):
      for scale in (0.5, 1.0, 2.0) if kernels == "fan_in" else (1.0,):
        yield {"seed": 1, "train.init_kernels": kernels,
               "train.init_scale": scale} | run


def columns():
  """Returns the keys worth plotting."""
  return ["train.init_kernels", "train.init_scale", "model.insertion_layer"]
