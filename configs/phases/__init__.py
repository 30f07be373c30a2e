"""Phases of a long encoder: runs that are chained, each with the last's state.

As ModernBERT was trained (Warner et al., arXiv 2412.13663): most of the tokens
in rows of 1,024, an eighth in rows of 8,192 at a lower rate, and a few more
while that falls to 0. A file is a phase; its number is in its name.
"""

from configs import base
from configs import modern

# Shares of the size's steps, of 1.7, 0.25 and 0.05 T tokens.
_SHARES = {1: 0.85, 2: 0.125, 3: 0.025}
# Of the learning rate of rows of 8,192 to the peak: 3e-4 to 8e-4.
LONG_RATE = 3 / 8
LONGEST = 8192


def phase(number, length, size):
  """Returns modern.py as a phase: rows of `length`, as many tokens a step."""
  config, short = modern.get_config(size), base.get_config(size)
  times = length // short.data.length
  config.data.length = length
  config.model.max_length = LONGEST
  config.masking.rate = 0.3
  config.train.phase = number
  config.train.batch_size = max(1, short.train.batch_size // times)
  config.train.num_steps = round(_SHARES[number] * config.train.num_steps)
  config.optimizer.schedule = "constant"
  config.eval.max_rows //= times
  for group in (config.eval, config.checkpoint, config.metrics):
    group.every_steps = min(group.every_steps, config.train.num_steps)
  if number > 1:
    config.train.init_state = "all"
    config.optimizer.warmup_fraction = 0.0
    config.optimizer.learning_rate *= LONG_RATE
  return config
