"""Packs the documents of a config ahead of training, here or with Beam.

  python -m latemask.tools.prepare --config configs/base.py \\
      --out /data/wiki128
  python -m latemask.main --config configs/base.py --workdir runs/base \\
      --config.data.dir=/data/wiki128

--config is FILE[:SIZE][,KEY=VALUE...], --out what runs name as data.dir.
Without --runner all cores of this machine pack. With it an Apache Beam
pipeline does, a shard at a time; what else stands on the command line goes to
Beam (--runner=DirectRunner --direct_num_workers=8). Its workers need this
code, and must see the text and --out under the same paths. The tokenizer is
trained here before the pipeline starts. Either way the files are the same, byte
for byte, and one can go on where the other stopped.

--dry_run prints what there is to pack, what will come out of it and how large
that is, estimated from a sample, and writes and downloads nothing.
"""

from latemask.config import spec as spec_lib
from latemask.data import beam as beam_lib
from latemask.data import estimate
from latemask.data import prepare as prepare_lib
from latemask import errors
from latemask.runtime import console


def _given_tokenizer(config):
  """Returns that of `train.init_from`, which needs JAX to be read."""
  if not config.train.init_from or config.data.tokenizer:
    return None
  from latemask.hub import pretrained
  return pretrained.tokenizer_of_rows(config)


def _parser():
  parser = console.parser("tools.prepare", __doc__, allow_abbrev=False)
  parser.add_argument("--config", required=True,
                      help="FILE[:SIZE][,KEY=VALUE...]")
  parser.add_argument("--out", required=True, help="folder of the packed rows")
  parser.add_argument("--runner", help="a Beam runner; default: this machine")
  parser.add_argument("--dry_run", action="store_true",
                      help="print estimates, write nothing")
  return parser


def main(argv=None):
  """Runs the command."""
  args, beam_args = _parser().parse_known_args(argv)
  with errors.one_line_exit():
    if beam_args and not args.runner:
      raise errors.InputError(
          f"unexpected argument {beam_args[0]!r}; see --help (only with "
          "--runner others go to Beam)")
    config = spec_lib.load(args.config, is_finetuning=False)
    given = _given_tokenizer(config)
    if args.dry_run:
      estimate.dry_run(config, args.out, given)
      return
    pack = beam_lib.beam_packer(args.runner, beam_args) if args.runner else None
    if not estimate.complete(config, args.out, given):
      prepare_lib.prepare(config, args.out, pack, given)
    print(f"the rows are in {args.out}\nnext: " + console.command(
        "main", *spec_lib.flags(args.config), f"--config.data.dir={args.out}",
        "--workdir", "runs/NAME"))


if __name__ == "__main__":
  main()
