"""How much should be masked where masks come late? Equal compute.

  python -m latemask.tools.sweep --config configs/sweeps/mask_rate.py \\
      --out runs/mask_rate

15 to 80 % on base.py. A higher rate leaves the encoder fewer tokens (cheaper)
and the head more targets (dearer); the budget is the same.
"""

from configs import sweeps


def get_config(size="small"):
  """Returns base.py with the budget of its size."""
  return sweeps.equal_compute(size)


def sweep(config):
  """Yields the overrides of each point."""
  del config  # The same at every size.
  for rate in (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
    yield from sweeps.each_seed({"masking.rate": rate})


def columns():
  """Returns the keys worth plotting."""
  return ["masking.rate"]
