"""How do the runs of a sweep fine-tune? GLUE, for each that is finished.

  python -m latemask.tools.sweep --out runs/rate_x_insertion \\
      --config configs/sweeps/glue.py,data_dir=/data/glue
  python -m latemask.tools.sweep --init_from runs/base runs/vanilla \\
      --config configs/sweeps/glue.py,data_dir=/data/glue,task=cola

What is swept is the run: all finished ones of --out, or those that are named.
sweep() yields settings that each of them is fine-tuned with; there is one, of
configs/glue.py, whose own grid is learning rates x batch sizes x seeds (here
a smaller one: 2 x 1 x 3). The result lies in RUN/glue, that of further settings
in RUN/glue_SETTINGS.
"""

from configs import glue


def get_config():
  """Returns configs/glue.py with a grid of 6 cells a task."""
  config = glue.get_config()
  config.grid.learning_rates = (2e-5, 5e-5)
  config.grid.batch_sizes = (32,)
  config.grid.seeds = (0, 1, 2)
  return config


def sweep(config):
  """Yields the overrides of each point: nothing but the run differs."""
  del config
  yield {}


def columns():
  """Returns the keys worth plotting."""
  return ["init_from"]
