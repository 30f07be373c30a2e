"""A first encoder of your own text: 1 to 50 MB of it, on a laptop.

  bash launch/local.sh python -m latemask.main --config configs/laptop.py \
      --workdir runs/mine --config.data.source='text:/path/to/*.txt'

The layers of configs/demo.py, half as wide again, rows twice as long, many
times the steps, AdamW. configs/README.md says how many steps suit how much
text, and how many minutes they take.
"""

from configs import demo


def get_config():
  """Returns demo.py at a size that is worth fine-tuning."""
  config = demo.get_config()
  config.data.vocab_size = 4096
  config.data.length = 128
  config.data.eval_fraction = 0.05  # Of 1 MB: some 100 rows.
  config.model.width = 192
  config.model.heads = 3
  config.model.mlp = 768
  config.train.batch_size = 16
  config.train.num_steps = 12_000
  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 1.5e-3
  config.eval.every_steps = 1000
  config.eval.max_rows = 2048
  config.checkpoint.every_steps = 1000
  return config
