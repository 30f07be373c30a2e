"""S2: how much to mask, and where.

15, 30 and 50 % at the input, 30, 50 and 70 % behind all 12 layers and 50 %
within them; and of three of these other learning rates, so that none is
favoured. What matters most comes first.
"""

from configs.sweeps import study


get_config = study.get_config
_LATE_RATES = [study.LATE_50 | {"masking.rate": rate} for rate in (0.3, 0.7)]
_WITHIN = [study.place(0.5, study.ENCODER, layer) for layer in (6, 9)]


def sweep(config):
  """Yields the overrides of each point."""
  usual = {"optimizer.learning_rate": config.optimizer.learning_rate}
  runs = [usual | run for run in (
      study.INPUT_15, study.INPUT_30, study.INPUT_50, study.LATE_50)]
  rates = [run | {"optimizer.learning_rate": rate} for rate in (3e-3, 1e-3)
           for run in (study.INPUT_15, study.INPUT_50, study.LATE_50)]
  others = [usual | run for run in _WITHIN + _LATE_RATES]
  yield from study.points(runs, seeds=(1, 2))
  yield from study.points(rates, seeds=(1,))
  yield from study.points(others, seeds=(1,))
  yield from study.points(runs, seeds=(3,))
  yield from study.points(rates + others, seeds=(2,))


def columns():
  """Returns the keys worth plotting."""
  return ["masking.rate", "model.insertion_layer", "model.layers",
          "optimizer.learning_rate"]
