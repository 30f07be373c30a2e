"""The late-mask recipe on ModernBERT's layers, all of them global.

  python -m latemask.main --config configs/modern.py --workdir runs/modern

Pre-norm, rotary positions, GeGLU, no biases. The MLP is two thirds as wide,
so that its three matrices have the parameters of the two of base.py. At small
size rotary positions left the unigram plateau within some hundred steps where
learned ones stayed on it for thousands.
"""

from configs import base


def get_config(size="base"):
  """Returns base.py with the `modern` architecture."""
  config = base.get_config(size)
  config.model.architecture = "modern"
  # A multiple of 64, the nearest below two thirds.
  config.model.mlp = config.model.mlp * 2 // 3 // 64 * 64
  return config
