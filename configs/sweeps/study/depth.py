"""S6: encoders of 4, 8 and 16 layers. When are two late layers cheap enough?
"""

from configs.sweeps import study


get_config = study.get_config


def sweep(config):
  """Yields the overrides of each point."""
  del config
  runs = []
  for layers in (4, 16, 8):
    at_input = {"model.layers": layers, "model.insertion_layer": 0}
    runs += [at_input | {"masking.rate": 0.15}, at_input | {"masking.rate": 0.5},
             {"masking.rate": 0.5, "model.layers": layers + 2,
              "model.insertion_layer": layers}]
  yield from study.points(runs, seeds=(1,))


def columns():
  """Returns the keys worth plotting."""
  return ["model.layers", "masking.rate", "model.insertion_layer"]
