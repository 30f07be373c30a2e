"""Must all that is masked be predicted? Equal compute.

  python -m latemask.tools.sweep --config configs/sweeps/predict_rate.py \\
      --out runs/predict_rate

50 % are masked, and 50 (None: all), 37.5, 25 or 15 % predicted; what is masked
and not predicted does not exist, and the head costs less.
"""

from configs import sweeps


def get_config(size="small"):
  """Returns base.py with the budget of its size."""
  return sweeps.equal_compute(size)


def sweep(config):
  """Yields the overrides of each point."""
  del config  # The same at every size.
  for rate in (None, 0.375, 0.25, 0.15):
    yield from sweeps.each_seed({"masking.predict_rate": rate})


def columns():
  """Returns the keys worth plotting."""
  return ["masking.predict_rate"]
