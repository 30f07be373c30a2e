"""Phase 1 of 3: rows of 1,024 tokens, 30 % masks, a constant rate.

  python -m latemask.main --config configs/phases/modern_1.py \
      --workdir runs/modern_1
  python -m latemask.main --config configs/phases/modern_2.py \
      --workdir runs/modern_2 --config.train.init_from=runs/modern_1
  python -m latemask.main --config configs/phases/modern_3.py \
      --workdir runs/modern_3 --config.train.init_from=runs/modern_2 \
      --config.data.dir=runs/modern_2/data

Sizes as in base.py: modern_1.py:small, and so on, the same for all three. Base:
512 rows, 19,550 steps, 10 G tokens. Not yet trained to the end by this project,
so no result is quoted.
"""

from configs import phases


def get_config(size="base"):
  """Returns modern.py in rows of 1,024, without a decay."""
  return phases.phase(1, 1024, size)
