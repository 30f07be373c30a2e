"""A page about runs: pictures first, then tables.

  python -m latemask.tools.report runs/ --out report/
  python -m latemask.tools.report runs/base runs/vanilla --analysis rank

Reads run workdirs and fine-tuning workdirs, or folders that hold many, live or
finished, and writes report.md with its pictures (PNG and SVG). Runs that
differ in their seed alone are one series: the mean, with a band from the
lowest to the highest. A series is named by the config keys in which it differs
from the others (those of DIR/sweep.json's `columns` first). What is damaged is
told on stderr and on the page, and left out. --out must be new, empty, or an
earlier report. --analysis rank adds the effective rank of token
representations by layer (see rank.py), from each run's newest checkpoint.
Exit code 2: no run found, or --out holds something else.
"""

import os
import pathlib
import sys


from latemask import errors
from latemask.report import look as report_look
from latemask.report import page as page_lib
from latemask.report import runs as runs_lib
from latemask.runtime import console
from latemask.runtime import files

_MARK = "<!-- made by latemask.tools.report; written anew each time -->\n"
_OWN = {"report.md"} | {f"{name}.{kind}" for name in page_lib.PICTURES
                        for kind in ("png", "svg")}


def write(directories, out, analyses=(), rank_rows=64):
  """Writes a report.

  Args:
    directories: workdirs, or folders that hold some.
    out: folder to write.
    analyses: "rank", or nothing.
    rank_rows: held-out rows that it reads a run.

  Returns:
    Lines about what is damaged and left out.

  Raises:
    InputError: no run, or `out` holds something else.
  """
  out = pathlib.Path(out)
  check_out(out)
  found = runs_lib.read(directories)
  if not found.runs and not found.glues:
    raise errors.InputError(
        "no run can be used: " + "; ".join(found.problems))
  page = page_lib.Page(found)
  with report_look.style():
    page.draw()
    if "rank" in analyses:
      page.draw_rank(rank_rows)
    try:
      with files.replacing(out) as part:
        for name, fig in page.figures.items():
          report_look.save(fig, part, name)
        (part / "report.md").write_text(_MARK + page.text())
    except OSError as error:
      raise errors.of_disk(error) or errors.InputError(
          f"{out} cannot be written: {error}") from error
  return page.problems


def check_out(out):
  """Checks that nothing but an earlier report is overwritten.

  Raises:
    InputError: something else is there.
  """
  if not os.path.lexists(out):
    return
  if not out.is_dir():
    raise errors.InputError(f"--out {out} is no folder")
  names = {path.name for path in out.iterdir()}
  page = out / "report.md"
  is_report = names <= _OWN and page.is_file() and (
      page.read_text(errors="replace").startswith(_MARK))
  if names and not is_report:
    others = sorted(names - _OWN) or ["report.md"]
    raise errors.InputError(
        f"--out {out} holds something else than a report ({others[0]}); name "
        "a new folder")


def _parser():
  parser = console.parser("report", __doc__)
  parser.add_argument("directories", metavar="DIR", nargs="+",
                      help="workdir, or a folder that holds some")
  parser.add_argument("--out", default="report", help="folder to write")
  parser.add_argument("--analysis", action="append", default=[],
                      choices=["rank"], help="what to compute besides")
  parser.add_argument("--rank_rows", type=int, default=64,
                      help="held-out rows for --analysis rank (default 64)")
  return parser


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    if args.rank_rows < 1:
      raise errors.InputError("--rank_rows must be positive")
    for problem in write(args.directories, args.out, args.analysis,
                         args.rank_rows):
      print(f"latemask: {problem}", file=sys.stderr)
  print(f"{args.out}/report.md")


if __name__ == "__main__":
  main()
