"""Sweeps: what each of them asks, as points of one config.

A file has get_config(size), whose deltas all points share; sweep(config),
which yields {dotted key: value} for each point on that config, as locked and
changed on the command line, so that a key that is not there is an error; and
columns(), the keys worth a place in plots. tools/sweep.py runs them.
"""

from configs import base

# What base.py of a size takes for its own steps. A sweep at equal compute gives
# it to each point (train.total_flops): what a step saves buys more steps.
TOTAL_FLOPS = {"tiny": 4.3e11, "small": 4.7e15, "base": 5.4e18,
               "large": 1.43e19}
SEEDS = (1, 2)


def equal_compute(size):
  """Returns base.py of a size with the budget of that size."""
  config = base.get_config(size)
  config.train.total_flops = TOTAL_FLOPS[size]
  return config


def each_seed(overrides):
  """Yields overrides once a seed."""
  for seed in SEEDS:
    yield {"seed": seed} | overrides


def quarters(num_layers):
  """Returns the layers at 0, 1/4, 1/2 and 3/4 of a stack, each once."""
  return list(dict.fromkeys(num_layers * i // 4 for i in range(4)))
