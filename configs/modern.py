"""The late-mask recipe on ModernBERT's layers, all of them global: base.py.

  python -m latemask.main --config configs/modern.py --workdir runs/modern

Pre-norm, rotary positions, GeGLU, no biases; until there are longer rows here,
nothing else than base.py, which has taken these layers.
"""

from configs import base


def get_config(size="base"):
  """Returns base.py."""
  return base.get_config(size)
