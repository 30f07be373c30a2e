"""Goes on training an encoder that is there, at late masks, on your text.

  python -m latemask.main --config configs/continue.py:FOLDER \
      --workdir runs/further --config.data.source='text:/path/to/*.txt'

FOLDER is a Hugging Face folder (latemask/hub/README.md says which can be
read). Its sizes, its dropout, its weights and its tokenizer are taken. All its
layers stay before the insertion, and two late ones come behind them, which
begin as copies of its last two; model.layers and model.insertion_layer are
yours to change (where late layers become local, model.insertion, too). An
export of ours with late layers keeps both as they were.
Rate and clipping are those that others go on with: a twentieth of base.py's
rate (Gururangan et al., arXiv 2004.10964, took 1e-4 in batches of 256 rows for
task-adaptive pre-training). 10,000 steps of 256 rows of 128 tokens are 330 M
tokens; less text deserves fewer steps. Not yet tuned by this project.
"""

import dataclasses

from configs import base
from latemask import errors
from latemask.hub import stock_config
from latemask.model import architecture


def get_config(folder=None):
  """Returns the recipe for the encoder in a folder."""
  if not folder:
    raise errors.InputError(
        "name the folder of an encoder: configs/continue.py:FOLDER")
  sizes = dataclasses.asdict(stock_config.config_of_folder(folder))
  config = base.get_config()
  for name, value in sizes.items():
    if name not in architecture.COMPUTING:
      config.model[name] = value
  if not sizes["insertion_layer"]:
    config.model.insertion_layer = sizes["layers"]
    config.model.layers = sizes["layers"] + base.LATE_LAYERS
    late = architecture.local_layers(config.model)[sizes["layers"]:]
    config.model.insertion = "scatter" if any(late) else "append"
  config.data.length = min(config.data.length, config.model.max_length)
  config.train.init_from = folder
  config.train.init_late = "copy"
  config.train.batch_size = 256
  config.train.num_steps = 10_000
  config.optimizer.learning_rate = 1e-4
  config.optimizer.clip_norm = 1.0
  return config
