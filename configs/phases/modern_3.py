"""Phase 3 of 3: rows of 8,192 tokens, 15 % masks, while the rate falls to 0.

  python -m latemask.main --config configs/phases/modern_3.py \
      --workdir runs/modern_3 --config.train.init_from=runs/modern_2 \
      --config.data.dir=runs/modern_2/data

Goes on with the state of phase 2, on its rows (modern_1.py has all commands).
Base: 64 rows, 575 steps, 0.3 G tokens.
"""

from configs import phases


def get_config(size="base"):
  """Returns modern.py in rows of 8,192, as a third phase that decays."""
  config = phases.phase(3, 8192, size)
  config.masking.rate = 0.15
  config.optimizer.schedule = "linear"
  return config
