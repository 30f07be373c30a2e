"""Guesses the words behind <mask>, or the mask of the model's own vocabulary.

  python -m latemask.tools.fill_mask --workdir runs/demo \\
      "The value of <mask> is a string."

Prints the most probable words for each mask, in percent; the masks enter at
the insertion layer, as in training. A word may be a piece of a longer one: the
last lines tell what marks it. --workdir is a run, a checkpoint of it or an
exported folder. Without a text, each line of standard input is one. --json
prints one JSON object a line. Exit code 2: a text without a mask, or one longer
than the rows that the model was trained on (--truncate cuts it, --max_length
takes more, up to the positions that there are). On standard input such a line
is reported with its number, the other lines are answered, and the exit code is
1. Empty lines are passed over.
"""

import json
import sys

from latemask import errors
from latemask.hub import pretrained
from latemask.predict import fill_mask as fill_mask_lib
from latemask.predict import length
from latemask.predict import texts
from latemask.runtime import console


def _print(text, filled, as_json):
  """Prints the guesses for a text; returns the words that may need a legend."""
  if as_json:
    print(json.dumps({"text": text, "masks": [
        [{"word": word, "probability": round(p, 6)} for word, p in best]
        for best in filled]}, ensure_ascii=False), flush=True)
    return set()
  print(text)
  for best in filled:
    print("  " + "   ".join(f"{word} {p:.1%}" for word, p in best), flush=True)
  return {word for best in filled for word, _ in best}


def _tell_marks(words, mask):
  for line in fill_mask_lib.legend(words, mask):
    print(line)


def _parser():
  parser = console.parser("tools.fill_mask", __doc__)
  parser.add_argument("--workdir", required=True,
                      help="run, checkpoint or exported folder")
  parser.add_argument("--top", type=console.count, default=5,
                      help="words a mask")
  parser.add_argument("--json", action="store_true", help="JSON lines")
  length.add_arguments(parser)
  parser.add_argument("texts", nargs="*",
                      help="texts with <mask>, or [MASK]")
  return parser


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    loaded = pretrained.load(args.workdir)
    filler = fill_mask_lib.Filler(loaded, args.max_length)
    length.warn(loaded, args.max_length)
    if args.texts:
      words = set()
      for text in args.texts:
        words |= _print(
            text, filler.fill(text, args.top, args.truncate), args.json)
      _tell_marks(words, filler.mask)
    else:
      sys.exit(_fill_lines(filler, args))


def _fill_lines(filler, args):
  """Fills the lines of standard input; returns the exit code."""
  code, words = 0, set()
  for number, line in enumerate(texts.standard_input(), 1):
    try:
      text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
      if not text:
        continue
      words |= _print(
          text, filler.fill(text, args.top, args.truncate), args.json)
    except (errors.InputError, UnicodeDecodeError) as error:
      # One of many: the others are done.
      print(f"latemask: line {number}: {error}", file=sys.stderr, flush=True)
      code = 1
  _tell_marks(words, filler.mask)
  return code


if __name__ == "__main__":
  main()
