"""Where should the masks come in? One stack, all depths, equal compute.

  python -m latemask.tools.sweep --config configs/sweeps/insertion_layer.py \\
      --out runs/insertion_layer

The stack of base.py, late layers included, with masks at its input, at each
quarter of the encoder, behind the encoder (the recipe) and before the last
layer. The later they come, the cheaper is a step, and the more steps the
budget buys.
"""

from configs import sweeps


def get_config(size="small"):
  """Returns base.py with the budget of its size."""
  return sweeps.equal_compute(size)


def sweep(config):
  """Yields the overrides of each point."""
  encoder = config.model.insertion_layer
  for layer in dict.fromkeys(sweeps.quarters(encoder) + [
      encoder, config.model.layers - 1]):
    yield from sweeps.each_seed({"model.insertion_layer": layer})


def columns():
  """Returns the keys worth plotting."""
  return ["model.insertion_layer"]
