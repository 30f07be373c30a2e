"""Fine-tuning on GLUE: the encoder of a run, a grid, five seeds, best epoch.

  python -m latemask.main --config configs/glue.py --config.task=cola \\
      --config.init_from=runs/base --workdir runs/base-glue

Every key of fine-tuning stands here, once, with its comment; sizes and
tokenizer are those of the run. Grid and schedule are RoBERTa's (arXiv
1907.11692, table 10) as widened by 3ML. Small tries: give `grid.*` fewer
entries, `--config.grid.seeds=(0,) --config.grid.num_epochs=1`.
"""

import ml_collections
from ml_collections import config_dict


def get_config():
  """Returns the grid over all tasks; `init_from` is left to give."""
  config = ml_collections.ConfigDict()
  integer, text = (
      lambda kind=kind: config_dict.placeholder(kind) for kind in (int, str))

  # cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte; all: those there is data for.
  config.task = "all"
  # What is fine-tuned: a run, a checkpoint of it or a Hugging Face folder.
  config.init_from = text()
  # Take only sizes and tokenizer from there, and fresh weights: a baseline.
  config.from_scratch = False
  # Folder of the official folders (CoLA/train.tsv, ...); None: TFDS glue/*.
  config.data_dir = text()
  # Where TFDS sets lie; None: TFDS's own default (~/tensorflow_datasets).
  config.tfds_dir = text()
  # Layers of the encoder that stay; None: those that never met a mask.
  config.keep_layers = integer()
  # Longest row in tokens, the longer text is cut; None: that of the rows that
  # init_from was trained on. Positions beyond are as they were initialised.
  config.max_length = integer()
  # Dropout of states, attention weights and the head.
  config.dropout = 0.1
  # Dtype of the computation: float32 or bfloat16.
  config.dtype = "float32"
  # Write the best cell's predictions on the test sets, for gluebenchmark.com.
  config.predict_test = False
  # Write the best cell's model for stock transformers, WORKDIR/export/TASK.
  config.export = False

  config.grid = grid = ml_collections.ConfigDict()
  # Peak learning rates.
  grid.learning_rates = (1e-5, 2e-5, 3e-5, 5e-5)
  # Rows a batch.
  grid.batch_sizes = (16, 32)
  # Seeds of the head's weights, the order of rows and dropout.
  grid.seeds = (0, 1, 2, 3, 4)
  # Epochs; None: 10 for cola, mrpc, stsb and rte, 3 for the others.
  grid.num_epochs = integer()

  config.optimizer = optimizer = ml_collections.ConfigDict()
  # After warm-up, down to 0 at the end: linear or cosine.
  optimizer.schedule = "linear"
  # Share of the steps that warms up.
  optimizer.warmup_fraction = 0.06
  # AdamW; biases and norms do not decay.
  optimizer.weight_decay = 0.1
  optimizer.b1 = 0.9
  optimizer.b2 = 0.98
  optimizer.eps = 1e-6
  # Largest norm of the gradient; None: no clipping.
  optimizer.clip_norm = config_dict.placeholder(float)
  return config
