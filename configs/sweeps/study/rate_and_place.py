"""S2: how much to mask, and where.

15, 30 and 50 % at the input, 30, 50 and 70 % behind all 12 layers and 50 %
within them, and of three of these other learning rates, so that none is
favoured.
"""

from configs.sweeps import study


get_config = study.get_config


SEEDS = (1, 2, 3)
_LATE_RATES = [study.LATE_50 | {"masking.rate": rate} for rate in (0.3, 0.7)]
_WITHIN = [{"masking.rate": 0.5, "model.layers": study.ENCODER,
            "model.insertion_layer": layer} for layer in (6, 9)]


def sweep(config):
  """Yields the overrides of each point."""
  rate = config.optimizer.learning_rate
  runs = [study.INPUT_15, study.INPUT_30, study.INPUT_50, study.LATE_50]
  yield from study.points(
      [run | {"optimizer.learning_rate": rate} for run in runs], SEEDS)
  yield from study.points(
      [run | {"optimizer.learning_rate": rate * factor}
       for run in (study.INPUT_15, study.INPUT_50, study.LATE_50)
       for factor in (0.5, 1.5)], SEEDS[:2])
  yield from study.points(
      [run | {"optimizer.learning_rate": rate}
       for run in _LATE_RATES + _WITHIN], SEEDS[:2])


def columns():
  """Returns the keys worth plotting."""
  return ["masking.rate", "model.insertion_layer", "model.layers", "optimizer.learning_rate"]
