"""Mask rate x insertion layer, small enough for two CPU cores and an hour.

  python -m latemask.tools.sweep --out runs/two_cores --parallel 2 \\
      --config configs/sweeps/two_cores.py,data.source='text:/data/*.txt'

The points of mask_rate_x_insertion.py (40, with two seeds) with an encoder of
4 layers of width 64. The pictures in configs/README.md are of this one, on 40
MB of books.
"""

from configs.sweeps import demo
from configs.sweeps import mask_rate_x_insertion

sweep = mask_rate_x_insertion.sweep
columns = mask_rate_x_insertion.columns


def get_config():
  """Returns the small sweep's config, 4 + 2 layers and 2.5 times its budget."""
  config = demo.get_config()
  config.data.eval_fraction = 0.01
  config.model.layers = 6
  config.model.insertion_layer = 4
  config.model.unroll = 6
  # Twice the rows, at twice the learning rate, end 0.4 nats higher.
  config.train.batch_size = 16
  config.train.total_flops = 3e12
  config.optimizer.warmup_fraction = 0.05
  config.eval.every_steps = 1000
  config.eval.batch_size = 32
  config.eval.max_rows = 2048
  return config
