"""A linear probe of a frozen encoder: what can be read from each layer.

  python -m latemask.bench.probe --init_from runs/demo --data_dir glue \\
      --task sst2
  python -m latemask.bench.probe --init_from late --init_from vanilla \\
      --data_dir glue --task sst2 --max_rows 20000

A text is the mean of its tokens' states behind a layer (0: the embeddings), as
the encoder hands them on, before any final norm. A logistic regression by
scikit-learn is fitted to the standardised means of the training rows, and
scored on the dev rows. Prints a JSON line a model: the task's first metric by
layer, and that of the most frequent answer.
"""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import linear_model
from sklearn import pipeline
from sklearn import preprocessing
import tqdm

from latemask.config import spec
from latemask import errors
from latemask.finetune import batches
from latemask.finetune import data as data_lib
from latemask.finetune import run as finetune_run
from latemask.finetune.tasks import glue
from latemask.finetune.tasks import kinds
from latemask.model import cut
from latemask.model import products
from latemask.report import effective_rank
from latemask.runtime import console

_BATCH_SIZE = 64


def means(config, encoder, specials, encoded, lengths):
  """Returns the mean state of each row's tokens behind each layer.

  Args:
    config, encoder: of `cut.cut`.
    encoded: a `batches.Encoded`.
    lengths: what rows are padded to.

  Returns:
    float32 [rows, layers + 1, D].
  """
  @jax.jit
  def of_batch(encoder, ids_BxS, second_BxS):
    embedded, handed_on = effective_rank.layer_outputs(
        config, lambda flat: cut.encode(
            flat, encoder, ids_BxS, specials, second_BxS=second_BxS))
    is_text_BxS = (ids_BxS != specials.pad).astype(jnp.float32)
    states_NxBxSxD = jnp.stack([embedded[0], *handed_on])
    return products.einsum("nbsd,bs->bnd", states_NxBxSxD, is_text_BxS) / (
        is_text_BxS.sum(1)[:, None, None])

  found = np.zeros((len(encoded), config.layers + 1, config.width), np.float32)
  order = batches.in_order(
      np.arange(len(encoded)), encoded.lengths_W, _BATCH_SIZE)
  for rows in tqdm.tqdm(order, "encoding", leave=False, file=sys.stderr):
    padded = batches.pad(encoded, rows, _BATCH_SIZE, lengths)
    found[rows] = of_batch(encoder, *padded)[:len(rows)]
  return found


def probe(train_RxD, labels_R, dev_RxD):
  """Returns logits of the dev rows, [rows, classes]."""
  model = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      linear_model.LogisticRegression(max_iter=1000))
  model.fit(train_RxD, labels_R)
  return model.predict_log_proba(dev_RxD)


def _scores(init_from, args):
  """Returns {layer: score} and what the most frequent answer scores."""
  config = spec.load("configs/glue.py")
  config.unlock()
  config.init_from, config.data_dir = init_from, args.data_dir
  config.max_length, config.task = args.max_length, args.task
  finetune_run.check(config)
  model, params, tokenizer, trained_length = finetune_run.load(config)
  data, = data_lib.read(config, params, tokenizer, trained_length)
  if data.task.kind != "classes":
    raise errors.InputError(
        f"--task {args.task} asks for a number; a probe reads classes")
  train = _first(data.train, args.max_rows)
  part, dev = next(iter(data.dev.items()))
  of_train, of_dev = (
      means(model, params["encoder"], tokenizer.specials, encoded,
            data.lengths) for encoded in (train, dev))

  def score(logits_RxC):
    found_R = kinds.answers(data.task, dev, logits_RxC)
    return next(iter(kinds.score(
        data.task, part, dev.rows.labels, found_R).values()))

  counts = np.bincount(train.targets, minlength=len(data.task.labels))
  if not counts.all():
    raise errors.InputError(
        f"the first {len(train):,} rows of {data.name} hold no "
        f"{data.task.labels[int(np.argmin(counts))]}; --max_rows must be more")
  layers = tqdm.trange(of_train.shape[1], desc="layers", leave=False,
                       file=sys.stderr)
  return [score(probe(of_train[:, layer], train.targets, of_dev[:, layer]))
          for layer in layers], score(np.tile(counts, (len(dev), 1)))


def _first(encoded, most):
  """Returns the first rows of a split."""
  return dataclasses.replace(
      encoded, ids=encoded.ids[:most], types=encoded.types[:most],
      lengths_W=encoded.lengths_W[:most], targets=encoded.targets[:most])


def _parser():
  parser = console.parser("bench.probe", __doc__)
  parser.add_argument("--init_from", required=True, action="append",
                      help="run, checkpoint or Hugging Face folder; may be "
                      "given several times")
  parser.add_argument("--data_dir", help="official TSV files; default: TFDS")
  parser.add_argument("--task", default="sst2", choices=tuple(glue.TASKS))
  parser.add_argument("--max_rows", type=console.count,
                      help="training rows that are read at most; default: all")
  parser.add_argument("--max_length", type=int, help="longest row in tokens")
  return parser


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    for init_from in args.init_from:
      layers, guess = _scores(init_from, args)
      print(json.dumps({
          "init_from": init_from, "task": args.task,
          "by_layer": [round(float(x), 4) for x in layers],
          "most_frequent": round(float(guess), 4)}), flush=True)


if __name__ == "__main__":
  main()
