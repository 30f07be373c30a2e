"""Mask more and mask later: both at once, equal compute.

  python -m latemask.tools.sweep --out runs/rate_x_insertion \\
      --config configs/sweeps/mask_rate_x_insertion.py

15, 30, 50 and 70 % x masks at 0, 1/4, 1/2, 3/4 of the encoder, and behind it
with 2 late layers added, which is what 3ML does. The first four have the
encoder's own depth, the last two layers more: a step costs what it costs, and
the budget (train.total_flops) makes them comparable. 15 % at layer 0 is the
ordinary baseline, but for BERT's noise.
"""

from configs import base
from configs import sweeps


def get_config(size="small"):
  """Returns base.py with the budget of its size."""
  return sweeps.equal_compute(size)


def sweep(config):
  """Yields the overrides of each point."""
  encoder = config.model.insertion_layer
  places = [(encoder, layer) for layer in sweeps.quarters(encoder)]
  places.append((encoder + base.LATE_LAYERS, encoder))
  for rate in (0.15, 0.3, 0.5, 0.7):
    for layers, insertion_layer in places:
      yield from sweeps.each_seed({
          "masking.rate": rate, "model.layers": layers,
          "model.insertion_layer": insertion_layer})


def columns():
  """Returns the keys worth plotting."""
  return ["masking.rate", "model.insertion_layer"]
