"""The late-mask recipe on ModernBERT's shape: deep, thin, mostly local layers.

  python -m latemask.main --config configs/modern.py --workdir runs/modern
  python -m latemask.main --config configs/modern.py:tiny --workdir runs/tiny

Every third layer sees the whole document, the others 128 tokens of it; rotary
bases 160,000 and 10,000, no dropout, up to 8,192 tokens (Warner et al., arXiv
2412.13663, whose base and large these are; tiny and small are as deep and thin
for their width). Rows of 1,024 tokens, an eighth of base.py's rows a step: as
many tokens. Two late layers follow, both global. Masks that join inside of the
stack (model.layers=22, model.insertion_layer=18) leave late layers that are
local, which need model.insertion=scatter.
"""

from configs import base

# Encoder layers, mlp, rows of a batch. All but the last period of layers is
# whole: it ends with a global layer, as ModernBERT's do. With the late layers
# half of the layers of tiny and small are global.
SIZES = {
    "tiny": (10, 128, 8),
    "small": (10, 384, 8),
    "base": (22, 1152, 512),
    "large": (28, 2624, 512),
}


def get_config(size="base"):
  """Returns base.py with the layers and the rows of ModernBERT."""
  config = base.get_config(size)
  encoder_layers, mlp, batch_size = SIZES[size]
  model = config.model
  model.layers = encoder_layers + base.LATE_LAYERS
  model.insertion_layer = encoder_layers
  model.mlp = mlp
  model.max_length = 8192
  model.global_every = 3
  model.local_window = 128
  model.rotary_theta = 160_000.0
  model.local_rotary_theta = 10_000.0
  model.dropout = model.attention_dropout = 0.0
  config.data.length = 1024
  config.train.batch_size = batch_size
  return config
