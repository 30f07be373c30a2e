"""Labels new rows with a fine-tuned model, as JSON lines.

  python -m latemask.tools.predict --init_from runs/mine --input new.csv \\
      --out labels.jsonl
  echo "It was fine." | python -m latemask.tools.predict --init_from runs/mine

--init_from is a fine-tuning workdir that exported a model, or the Hugging Face
folder of a fine-tuned encoder. --input is a .csv, .tsv, .jsonl or .parquet
file with the columns that the model was trained on (--text names others; tags
may be in .conll, answers in a .json of SQuAD's form), or a .txt file, a text a
line; without it, standard input is. Each row gives an object, in order: label
and probabilities; labels and probabilities; number; words, tags and entities;
or answer, its characters in the context and how much better it is than none.
Rows are read as they are needed, and computed in batches of about equal length.
Exit code 2 if a row or column cannot be used.
"""

import json
import os

import tqdm

from latemask import errors
from latemask.data.sources import unpack
from latemask.finetune.tasks import own
from latemask.predict import labels
from latemask.predict import length
from latemask.predict import texts as texts_lib
from latemask.runtime import console

# Kind -> columns of its texts, where no one knows others.
_COLUMNS = {"tokens": ("tokens",), "span": ("question", "context")}


def _parser():
  parser = console.parser("tools.predict", __doc__)
  parser.add_argument("--init_from", required=True,
                      help="fine-tuning workdir or Hugging Face folder")
  parser.add_argument("--input", help="file of rows; default: standard input, "
                      "a text a line")
  parser.add_argument("--text", nargs="+", metavar="COLUMN",
                      help="columns of the texts; default: those that it was "
                      "trained on")
  parser.add_argument("--out", help="file to write; default: standard output")
  parser.add_argument("--max_length", type=length.long_enough,
                      help="tokens of a row; default: those of its training")
  parser.add_argument("--stride", type=console.at_least(0),
                      help="long texts become windows that share so many "
                      "tokens; default: as in its training")
  return parser


def _rows(args, labeller):
  """Yields the texts of each row."""
  kind = labeller.task.kind
  trained = labeller.task.text or _COLUMNS.get(kind, ())  # (): no one knows.
  is_lines = args.input is None or unpack.ending(args.input)[0] == ".txt"
  text = ("text",) if is_lines else tuple(args.text or trained or ("text",))
  if trained and len(text) != len(trained):
    raise errors.InputError(
        f"the model was trained on {', '.join(trained)}; "
        + ("a line of text is one column: name a file of rows with --input"
           if is_lines else f"--text names {', '.join(text)}"))
  if args.input is None:
    for where, line in texts_lib.lines():
      yield own.texts_of(where, kind, text, [line])
    return
  for _, found, _ in own.rows_of(args.input, kind, text):
    yield found


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    if args.input is not None and not os.path.isfile(args.input):
      raise errors.InputError(f"there is no file {args.input}")
    if args.out:
      texts_lib.check_out(args.out)
    labeller = labels.Labeller(args.init_from, args.max_length, args.stride)
    with texts_lib.writer(args.out) as write:
      for said in tqdm.tqdm(labeller.label(_rows(args, labeller)),
                            "labelling", unit=" rows", disable=None):
        write(json.dumps(said, ensure_ascii=False))


if __name__ == "__main__":
  main()
