"""Fine-tuning on your own labelled files: the encoder of a run or a folder.

  python -m latemask.main --config configs/finetune.py --workdir runs/mine \\
      --config.init_from=runs/base --config.data.train=train.csv \\
      --config.data.dev=dev.csv

Every key of fine-tuning stands here, once, with its comment; sizes and
tokenizer are those of the run. configs/glue.py is the same for GLUE.
"""

import ml_collections
from ml_collections import config_dict


def get_config():
  """Returns two cells of three epochs; `init_from` and files are to be given.
  """
  config = ml_collections.ConfigDict()
  integer, text = (
      lambda kind=kind: config_dict.placeholder(kind) for kind in (int, str))

  config.task = task = ml_collections.ConfigDict()
  # What a label is: classes (one a row), multilabel (any number), number,
  # tokens (a tag a word), span (an answer within a context).
  task.kind = "classes"
  # Weights of the classes in the loss: none, or balanced (rare ones count
  # more, so that classes weigh alike in a batch that holds all of them).
  task.class_weights = "none"

  config.data = data = ml_collections.ConfigDict()
  # Labelled rows: .csv, .tsv, .jsonl, .parquet; .conll for tokens, the .json
  # of SQuAD for spans. The best epoch and cell are chosen on dev.
  data.train = text()
  data.dev = text()
  # Rows that predict_test answers; no label is read.
  data.test = text()
  # Columns of the text, or of the two texts of a pair; for tokens a list of
  # words, for span the question and the context.
  data.text = ("text",)
  # Column of the label; for tokens a list of tags, for span the answers.
  data.label = "label"
  # Names of the classes in the order of the outputs; (): those that the
  # training file has, sorted.
  data.labels = ()
  # What parts the labels of a cell of a multilabel .csv.
  data.label_separator = ","
  # Long texts become windows that share so many tokens, and what the model
  # says of them is averaged (of spans the best counts); None: they are cut.
  data.stride = integer()

  # What is fine-tuned: a run, a checkpoint of it or a Hugging Face folder.
  config.init_from = text()
  # Take only sizes and tokenizer from there, and fresh weights: a baseline.
  config.from_scratch = False
  # Layers of the encoder that stay; None: those that never met a mask.
  config.keep_layers = integer()
  # Longest row in tokens, the longer text is cut; None: that of the rows that
  # init_from was trained on. Positions beyond are as they were initialised.
  config.max_length = integer()
  # Dropout of states, attention weights and the head.
  config.dropout = 0.1
  # Dtype of the computation: float32 or bfloat16.
  config.dtype = "float32"
  # Write the best cell's answers to the test rows, WORKDIR/test.
  config.predict_test = False
  # Write the best cell's model for stock transformers, WORKDIR/export/TASK,
  # where TASK is a task of GLUE, or the kind.
  config.export = True

  config.adapter = adapter = ml_collections.ConfigDict()
  # What is trained besides the head, and stored: none (the whole encoder), head
  # (nothing), bitfit (the biases), lora (a thin product added to matrices).
  adapter.name = "none"
  # LoRA: rank of the products.
  adapter.rank = 8
  # LoRA: the products are multiplied by alpha / rank.
  adapter.alpha = 16.0
  # LoRA: dropout of what the products read.
  adapter.dropout = 0.0
  # LoRA: the matrices, of qkv, out, mlp_in, mlp_out.
  adapter.matrices = ("qkv", "out", "mlp_in", "mlp_out")

  config.grid = grid = ml_collections.ConfigDict()
  # Peak learning rates.
  grid.learning_rates = (2e-5, 5e-5)
  # Rows a batch.
  grid.batch_sizes = (32,)
  # Seeds of the head's weights, the order of rows and dropout.
  grid.seeds = (0,)
  # Epochs; None: 3, and 10 for the small tasks of GLUE.
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
