"""S6: encoders of 4, 8 and 16 layers. When are two late layers cheap enough?"""

from configs.sweeps import study


get_config = study.get_config


def sweep(config):
  """Yields the overrides of each point."""
  del config
  for n in (4, 16, 8):
    yield from study.points([
        study.place(0.15, n, 0), study.place(0.5, n, 0),
        study.place(0.5, n + 2, n)], seeds=(1,))


def columns():
  """Returns the keys worth plotting."""
  return ["model.layers", "masking.rate", "model.insertion_layer"]
