"""S5: twice the compute. Does the gap stay, shrink or turn?"""

from configs.sweeps import study


get_config = study.get_config


def sweep(config):
  """Yields the overrides of each point."""
  del config
  for point in study.points(
      [study.INPUT_15, study.INPUT_50, study.LATE_50], seeds=(1, 2)):
    yield point | {"train.total_flops": 2 * study.TOTAL_FLOPS}


def columns():
  """Returns the keys worth plotting."""
  return ["masking.rate", "model.insertion_layer"]
