"""3ML-cross: late layers whose queries read the encoder by cross-attention.

  python -m latemask.main --config configs/cross.py --workdir runs/cross

Queries are the targets alone, so the cost of the late layers falls with the
rate of prediction; --config.model.decoder_queries=all is the paper's figure,
queries over the whole length.
"""

from configs import base


def get_config(size="base"):
  """Returns base.py with the cross decoder."""
  config = base.get_config(size)
  config.model.decoder = "cross"
  return config
