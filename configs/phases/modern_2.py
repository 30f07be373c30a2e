"""Phase 2 of 3: rows of 8,192 tokens, 30 % masks, a lower constant rate.

  python -m latemask.main --config configs/phases/modern_2.py \
      --workdir runs/modern_2 --config.train.init_from=runs/modern_1

Goes on with the state of phase 1 (modern_1.py has all commands). Base: 64 rows,
2,875 steps, 1.5 G tokens.
"""

from configs import phases


def get_config(size="base"):
  """Returns modern.py in rows of 8,192, as a second phase."""
  return phases.phase(2, 8192, size)
