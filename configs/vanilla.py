"""The baseline: ordinary masked language modelling, RoBERTa's 15 %.

  python -m latemask.main --config configs/vanilla.py --workdir runs/vanilla

The encoder of base.py without late layers; every layer sees the [MASK]s.
80 / 10 / 10 noise as in BERT and RoBERTa.
"""

from configs import base


def get_config(size="base"):
  """Returns base.py with masks at the input and a rate of 15 %."""
  config = base.get_config(size)
  config.masking.rate = 0.15
  config.masking.random_rate = 0.1
  config.masking.same_rate = 0.1
  config.model.layers -= base.LATE_LAYERS
  config.model.insertion_layer = 0
  config.model.insertion = "scatter"
  return config
