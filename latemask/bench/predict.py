"""Rows a second of tools.predict and of the stock pipeline, in turn.

  taskset -c 0 python -m latemask.bench.predict --init_from exported/mine \\
      --input new.csv

--init_from is the Hugging Face folder of an encoder that was fine-tuned for
classes, --input a file of tools.predict; of it the first --max_rows are
labelled, --repeats times by each. The pipeline reads batches of --batch_size
in the order of the file, as its manual shows. Both are warm: what JAX compiles
and PyTorch imports is not counted. Checks that both say the same, and prints a
JSON line each with the median.
"""

import itertools
import json
import statistics
import time

import numpy as np
import tqdm

from latemask import errors
from latemask.finetune.tasks import own
from latemask.predict import labels
from latemask.runtime import console

# The largest difference of two probabilities that is one of rounding.
_SAME = 1e-4


def _parser():
  parser = console.parser("bench.predict", __doc__)
  parser.add_argument("--init_from", required=True,
                      help="Hugging Face folder of a fine-tuned encoder")
  parser.add_argument("--input", required=True, help="file of rows")
  parser.add_argument("--text", default="text", help="column of the text")
  parser.add_argument("--max_rows", type=console.count, default=2000,
                      help="the first rows of the file (%(default)s)")
  parser.add_argument("--repeats", type=console.count, default=3,
                      help="times that each labels them (%(default)s)")
  parser.add_argument("--batch_size", type=console.count, default=64,
                      help="rows of a batch of the pipeline (%(default)s)")
  return parser


def _contenders(args, texts):
  """Returns {name: what labels all texts: a list of {label: probability}}."""
  labeller = labels.Labeller(args.init_from)
  if labeller.task.kind != "classes":
    raise errors.InputError(
        f"{args.init_from} was fine-tuned for {labeller.task.kind}; this "
        "compares classes")
  transformers, _ = console.installed(
      "the stock pipeline", "transformers", "torch")
  pipe = transformers.pipeline(
      "text-classification", model=str(labels.find(args.init_from)))
  return {
      "latemask": lambda: [said["probabilities"] for said in labeller.label(
          [text] for text in texts)],
      "pipeline": lambda: [{one["label"]: one["score"] for one in said}
                           for said in pipe(
                               texts, top_k=None, truncation=True,
                               batch_size=args.batch_size)]}


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    rows = own.rows_of(args.input, "classes", (args.text,))
    texts = [texts[0] for _, texts, _ in itertools.islice(rows, args.max_rows)]
    if not texts:
      raise errors.InputError(f"{args.input} has no rows")
    contenders = _contenders(args, texts)
    secs = {name: [] for name in contenders}
    # The first one warms up.
    for repeat in tqdm.trange(args.repeats + 1, desc="labelling"):
      said = {}
      for name, label in contenders.items():
        start_secs = time.monotonic()
        said[name] = label()
        secs[name] += [time.monotonic() - start_secs][:repeat]
    ours, stock = said.values()
    apart = max(np.abs(our[label] - their[label]) for our, their in zip(
        ours, stock) for label in our)
    if apart > _SAME:
      raise errors.InputError(
          f"the probabilities of the two are up to {apart:.3g} apart")
    for name, times in secs.items():
      print(json.dumps({
          "name": name, "rows": len(texts),
          "rows_per_sec": round(len(texts) / statistics.median(times), 1),
          "slowest": round(len(texts) / max(times), 1),
          "fastest": round(len(texts) / min(times), 1)}), flush=True)


if __name__ == "__main__":
  main()
