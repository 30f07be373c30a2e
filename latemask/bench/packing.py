"""How fast rows are packed, against the tokenizer's own library.

  python -m latemask.bench.packing --text '/data/*.txt' \\
      --tokenizer FOLDER --tokenizer unigram --tokenizer bpe

Packs documents into rows and, by turns, only encodes them in batches with the
library that is behind the tokenizer; one thread both times. Both are done once
in this process and once in a worker as packing has them. A tokenizer is
`data.tokenizer`, or a `data.tokenizer_kind` to train on the text. Prints
tokens per second (median of the repeats) and the ratio.
"""

import multiprocessing
import statistics
import time

import ml_collections
import tqdm

from latemask.config import spec
from latemask.data import packing
from latemask.data.sources import table as sources_lib
from latemask.data.tokenizers import huggingface
from latemask.data.tokenizers import kinds
from latemask import errors
from latemask.runtime import console

_VOCAB_SIZE = 4096
# Rows as configs/base.py has them.
_DATA = ml_collections.ConfigDict(
    {"packing": "documents", "fit": "best", "length": 128})
# Texts that the library is given at once.
_BATCH = 256


def _rows(tokenizer, texts):
  """Packs texts; returns the seconds it took and the tokens."""
  counts = dict.fromkeys(packing.COUNTS, 0)
  start_secs = time.perf_counter()
  for _ in packing.pack(texts, tokenizer, _DATA, counts,
                        progress=lambda num_chars: None):
    pass
  return time.perf_counter() - start_secs, counts["tokens"]


def _library(tokenizer, texts):
  """Encodes texts as the library does; as `_rows`."""
  encode = _encoder(tokenizer)
  start_secs = time.perf_counter()
  num_tokens = sum(
      sum(map(len, encode(texts[start:start + _BATCH])))
      for start in range(0, len(texts), _BATCH))
  return time.perf_counter() - start_secs, num_tokens


def _encoder(tokenizer):
  """Returns the batch encoding of the library: texts -> lists of ids."""
  if not isinstance(tokenizer, huggingface.Tokenizer):
    # It takes all cores by itself.
    return lambda texts: tokenizer.processor.encode(texts, num_threads=1)
  found = huggingface.built(tokenizer.described)
  return lambda texts: [row.ids for row in found.encode_batch(
      texts, add_special_tokens=False)]


def compare(tokenizer, texts, repeats):
  """Returns tokens per second, (rows, library): the medians."""
  rates = ([], [])
  for _ in range(repeats):
    for measure, found in zip((_rows, _library), rates):
      secs, num_tokens = measure(tokenizer, texts)
      found.append(num_tokens / secs)
  return tuple(map(statistics.median, rates))


def _parser():
  parser = console.parser("bench.packing", __doc__)
  parser.add_argument("--text", required=True, help="files: a GLOB of text:")
  parser.add_argument("--tokenizer", action="append", required=True,
                      help="data.tokenizer, or unigram or bpe; several times")
  parser.add_argument("--megabytes", type=console.positive, default=8,
                      help="of text (default: %(default)s)")
  parser.add_argument("--repeats", type=console.count, default=5,
                      help="times that each is done (%(default)s)")
  return parser


def _run(args):
  config = spec.load(f"configs/demo.py,data.source=text:{args.text}")
  sources, bad = sources_lib.open_sources(config), sources_lib.BadDocuments(0)
  texts, left_bytes = [], args.megabytes * 2**20
  for _, text in sources_lib.documents(sources, 0, 1, bad):
    texts.append(text)
    left_bytes -= len(text)
    if left_bytes < 0:
      break
  if not texts:
    raise errors.InputError(f"{args.text} holds no text")
  rows = [["tokenizer", "process", "packing, tokens/s", "library, tokens/s",
           "ratio"]]
  for name in tqdm.tqdm(args.tokenizer, desc="tokenizers"):
    tokenizer = (kinds.train(name, texts, _VOCAB_SIZE) if name in kinds.TRAINED
                 else kinds.load(name))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
      found = {"this": compare(tokenizer, texts, args.repeats),
               "worker": pool.apply(
                   compare, (tokenizer, texts, args.repeats))}
    rows += [[name.rstrip("/").rpartition("/")[2], process,
              f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f}"]
             for process, (ours, theirs) in found.items()]
  print(console.table(rows), end="")


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    _run(args)


if __name__ == "__main__":
  main()
