"""Which learning rate? Around that of the size, factors of two.

  python -m latemask.tools.sweep --config configs/sweeps/lr.py \\
      --out runs/lr

All points cost the same, so they have the steps of base.py and no budget.
"""

from configs import base
from configs import sweeps


def get_config(size="small"):
  """Returns base.py of a size."""
  return base.get_config(size)


def sweep(config):
  """Yields the overrides of each point."""
  for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
    yield from sweeps.each_seed({
        "optimizer.learning_rate": factor * config.optimizer.learning_rate})


def columns():
  """Returns the keys worth plotting."""
  return ["optimizer.learning_rate"]
