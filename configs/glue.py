"""Fine-tuning on GLUE: the encoder of a run, a grid, five seeds, best epoch.

  python -m latemask.main --config configs/glue.py --config.task=cola \\
      --config.init_from=runs/base --workdir runs/base-glue

Grid and schedule are RoBERTa's (arXiv 1907.11692, table 10) as widened by 3ML;
keys that are not here are those of configs/finetune.py. Small tries: give
`grid.*` fewer entries, `--config.grid.seeds='(0,)' --config.grid.num_epochs=1`.
"""

from ml_collections import config_dict

from configs import finetune


def get_config():
  """Returns the grid over all tasks; `init_from` is left to give."""
  config = finetune.get_config()
  del config["task"], config["data"]
  # cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli; all: those there is
  # data for.
  config.task = "all"
  # Folder of the official folders (CoLA/train.tsv, ...); None: TFDS glue/*.
  config.data_dir = config_dict.placeholder(str)
  # Where TFDS sets lie; None: TFDS's own default (~/tensorflow_datasets).
  config.tfds_dir = config_dict.placeholder(str)
  config.export = False
  config.grid.learning_rates = (1e-5, 2e-5, 3e-5, 5e-5)
  config.grid.batch_sizes = (16, 32)
  config.grid.seeds = (0, 1, 2, 3, 4)
  return config
