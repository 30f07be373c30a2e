"""S7: what the ends of other stages do with GLUE: MRPC, STS-B, SST-2.

  python -m latemask.tools.sweep --init_from RUN RUN ... --config \\
      configs/sweeps/study/downstream.py,data_dir=/data/glue

MRPC is to choose one of two learning rates for all; STS-B and SST-2 take the
lower, which it chose.
"""

from configs.sweeps import glue


_RATES = (2e-4, 5e-4)


def get_config():
  """Returns the GLUE sweep's config with one rate, and three epochs."""
  config = glue.get_config()
  config.max_length = 128
  config.grid.learning_rates = _RATES[:1]
  config.grid.num_epochs = 3
  return config


def sweep(config):
  """Yields the overrides of each point; SST-2 is large, one epoch does."""
  del config
  yield {"task": "mrpc", "grid.learning_rates": _RATES}
  yield {"task": "stsb"}
  yield {"task": "sst2", "grid.seeds": (0,), "grid.num_epochs": 1}


def columns():
  """Returns the keys worth plotting."""
  return [*glue.columns(), "task"]
