"""Scores texts: how likely a model finds each, token by token.

  python -m latemask.tools.score --workdir runs/demo texts.txt
  python -m latemask.tools.score --workdir runs/demo --pairs pairs.tsv

A line of the file (without one, of standard input) is a text. Prints for each
its pseudo-log-likelihood in nats, the number of its tokens and the text, with
tabs between: the sum over the tokens of log p(token | all others), a mask for
one token at a time, which enters at the insertion layer as in training. It is
never above 0, and longer texts have lower ones. --json prints an object a
line, with each token. --pairs takes minimal pairs, either a file of two
columns (good, tab, bad) or two files of as many lines (good, then bad), and
prints the share of pairs in which the good text scores higher, with its
binomial standard error; --out then takes the scores pair by pair.
--workdir is a run, a checkpoint of it or an exported folder. All texts are
looked at before the first is scored: exit code 2 if one is empty, or longer
than the rows that the model was trained on (--truncate cuts it, --max_length
takes more, up to the positions that there are).
"""

import json
import math
import sys

from latemask import errors
from latemask.hub import pretrained
from latemask.predict import length
from latemask.predict import score as score_lib
from latemask.predict import texts as texts_lib
from latemask.runtime import console

# Of lower mean scores, as of a model that diverged, exp is no number.
_LEAST = -700


def _parser():
  parser = console.parser("tools.score", __doc__)
  parser.add_argument("--workdir", required=True,
                      help="run, checkpoint or exported folder")
  parser.add_argument("--pairs", nargs="+", metavar="FILE",
                      help="minimal pairs: a file with a tab between good and "
                      "bad, or a file of each")
  parser.add_argument("--within_word", action="store_true",
                      help="hide the later pieces of a token's word, too")
  parser.add_argument("--out", help="file to write the scores to")
  parser.add_argument("--json", action="store_true", help="JSON lines")
  length.add_arguments(parser)
  parser.add_argument("--batch_size", type=console.count, default=64,
                      help="tokens that are hidden at once, each in a row of "
                      "its own (%(default)s)")
  parser.add_argument("texts", nargs="?",
                      help="file with a text a line; without one, standard "
                      "input")
  return parser


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    _check(args)
    columns = _columns(args)
    loaded = pretrained.load(args.workdir)
    scorer = score_lib.Scorer(loaded, args.max_length, args.within_word)
    length.warn(loaded, args.max_length)
    ids = [[_ids(scorer, text, where, args.truncate) for where, text in column]
           for column in columns]
    scored = scorer.score(sum(ids, []), args.batch_size, "scoring")
    if args.pairs:
      _tell_pairs(columns, scored, args)
    else:
      with texts_lib.writer(args.out) as write:
        for (_, text), found in zip(columns[0], scored):
          write(_line(text, found, loaded.tokenizer, args.json))
      _tell_perplexity(scored)


def _check(args):
  """Checks what flags alone can say."""
  if args.pairs and args.texts:
    raise errors.InputError(
        f"--pairs or texts, not both ({args.texts} is one too many)")
  if len(args.pairs or ()) > 2:
    raise errors.InputError(
        f"--pairs takes one file or two, not {len(args.pairs)}")
  if args.out:
    texts_lib.check_out(args.out)


def _columns(args):
  """Returns a list of (where it stands, text) for texts, or good and bad."""
  paths = args.pairs or [args.texts]
  columns = [list(texts_lib.lines(path)) for path in paths]
  if args.pairs and len(paths) == 1:
    columns = list(zip(*(_two(*line) for line in columns[0])))
  elif len({len(column) for column in columns}) > 1:
    raise errors.InputError(
        f"{paths[0]} has {len(columns[0])} lines and {paths[1]} has "
        f"{len(columns[1])}; a line of the one and of the other are a pair")
  if not columns or not columns[0]:
    raise errors.InputError(f"{paths[0] or 'standard input'} has no line")
  return columns


def _two(where, line):
  """Returns the two texts of a line, each with the place of the line."""
  texts = line.split("\t")
  if len(texts) != 2:
    raise errors.InputError(
        f"{where} has {len(texts)} columns; it must have two, good and bad, "
        "with one tab between")
  return [(where, text) for text in texts]


def _ids(scorer, text, where, truncate):
  try:
    return scorer.ids(text, truncate)
  except errors.InputError as error:
    raise errors.InputError(f"{where}: {error}") from error


def _line(text, found, tokenizer, as_json):
  """Returns the line of a text."""
  if not as_json:
    return f"{found.score:.4f}\t{len(found.ids_S)}\t{text}"
  return json.dumps({"text": text, "score": round(found.score, 4), "tokens": [
      {"token": tokenizer.pieces[i], "log_probability": round(float(p), 4)}
      for i, p in zip(found.ids_S, found.log_probabilities_S)]},
                    ensure_ascii=False)


def _tell_perplexity(scored):
  tokens = sum(len(found.ids_S) for found in scored)
  mean = sum(found.score for found in scored) / tokens
  perplexity = math.exp(-mean) if mean > _LEAST else math.inf
  print(f"{len(scored):,} texts of {tokens:,} tokens; pseudo-perplexity "
        f"{perplexity:,.2f}", file=sys.stderr)


def _tell_pairs(columns, scored, args):
  """Prints the share of the pairs; writes each where it was asked for."""
  good, bad = scored[:len(columns[0])], scored[len(columns[0]):]
  if args.out:
    with texts_lib.writer(args.out) as write:
      for texts, found in zip(zip(*columns), zip(good, bad)):
        texts = [text for _, text in texts]
        scores = [round(one.score, 4) for one in found]
        write(json.dumps(dict(zip(
            ("good", "bad", "good_score", "bad_score"), texts + scores)),
                         ensure_ascii=False) if args.json else
              "\t".join([f"{score:.4f}" for score in scores] + texts))
  share, error, ties = score_lib.share_of_pairs(good, bad)
  if args.json:
    print(json.dumps({"pairs": len(good), "share": round(share, 6),
                      "standard_error": round(error, 6), "equal": ties}))
    return
  print(f"the good text scores higher in {share:.1%} ± {error:.1%} of "
        f"{len(good):,} pairs"
        + (f"; in {ties:,} both score equally, which counts as not" if ties
           else ""))


if __name__ == "__main__":
  main()
