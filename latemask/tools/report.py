"""A page about runs: pictures first, then tables.

  python -m latemask.tools.report runs/ --out report/
  python -m latemask.tools.report runs/base runs/vanilla --analysis rank

Reads run workdirs and fine-tuning workdirs, or folders that hold many, live or
finished, and writes report.md with its pictures (PNG and SVG). Runs that
differ in their seed alone are one series: the mean, with a band from the
lowest to the highest. A series is named by its folder and by the config keys
in which it differs from the others (those of DIR/sweep.json's `columns` first;
of a sweep by the keys alone). What is damaged is told on stderr and on the
page, and left out. --out must be new, empty, or an earlier report. --analysis
rank adds the effective rank of token representations by layer (see
report/effective_rank.py), from each run's newest checkpoint.
--baseline RUN adds what each
series takes to reach the held-out loss at which that run, or series, ends.
Exit code 2: no run found, or --out holds something else.
"""

import os
import sys

from latemask import errors
from latemask.report import folder as report_folder
from latemask.runtime import console


def _parser():
  parser = console.parser("tools.report", __doc__)
  parser.add_argument("directories", metavar="DIR", nargs="+",
                      help="workdir, or a folder that holds some")
  parser.add_argument("--out", default="report", help="folder to write")
  parser.add_argument("--analysis", action="append", default=[],
                      choices=["rank"], help="what to compute besides")
  parser.add_argument("--rank_rows", type=console.count, default=64,
                      help="held-out rows for --analysis rank (default 64)")
  parser.add_argument("--baseline", metavar="RUN",
                      help="a run, or the folder or label of a series")
  return parser


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    pictures, problems = report_folder.write(
        args.directories, args.out, args.analysis, args.rank_rows,
        args.baseline)
    for problem in problems:
      print(f"latemask: {problem}", file=sys.stderr)
    print(f"the report lies in {os.path.join(args.out, 'report.md')}, with "
          f"{len(pictures)} pictures (.png, .svg) beside it")


if __name__ == "__main__":
  main()
