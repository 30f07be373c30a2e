"""Runs the points of a sweep, one after the other or several at a time.

  python -m latemask.tools.sweep --out runs/lr --config configs/sweeps/lr.py \\
      --dry_run
  python -m latemask.tools.sweep --out runs/lr --config \\
      configs/sweeps/lr.py:tiny,data.source=builtin,model.dtype=float32
  python -m latemask.tools.sweep --out runs/lr \\
      --config configs/sweeps/glue.py,data_dir=/data/glue
  python -m latemask.tools.sweep --out runs/rates --config configs/demo.py \\
      --grid masking.rate=0.15,0.5 --grid model.insertion_layer=0,4
  python -m latemask.tools.report runs/lr

--config is FILE[:SIZE][,KEY=VALUE...] of configs/sweeps/, or any config with
--grid: each value of one key with each value of the others. Every point is a
run of latemask.main in --out/NAME. The same command goes on: what is done is
left, what was begun goes on from its checkpoint, what failed is tried again.
--only takes some of the points. A run that fails stops no other. Rows that
points share are packed once, under --out/data, compiled programs are kept in
--out/cache (not on gs://), and --out/sweep.json tells tools/report.py what was
swept. With configs/sweeps/glue.py the finished runs of --out, or those of
--init_from, are fine-tuned, each in RUN/glue.

Several machines may share --out, on NFS or gs://, and run the same command:
each run is claimed (see runtime/claims.py), and that of a machine which went
away is taken over after a minute. A command ends when all runs have ended,
those of other machines, too.

Exit codes: 0 all done; 1 some runs failed (they are listed); 2 what was given
cannot be used; 143 / 130 stopped by SIGTERM / SIGINT, the runs after a save.
"""

import os
import sys

from etils import epath
import jax

from latemask import errors
from latemask.runtime import console
from latemask.runtime import files
from latemask.sweep import costs
from latemask.sweep import grid as grid_lib
from latemask.sweep import points as points_lib
from latemask.sweep import runner


def _parser():
  parser = console.parser("tools.sweep", __doc__)
  parser.add_argument("--config", required=True,
                      help="a sweep, or any config with --grid: "
                      "FILE[:SIZE][,KEY=VALUE...]")
  parser.add_argument("--grid", action="append", default=[],
                      metavar="KEY=VALUE,...",
                      help="values to try of a config key; may be given for "
                      "several keys")
  parser.add_argument("--out", help="folder of the runs")
  parser.add_argument("--init_from", nargs="+", default=[], metavar="RUN",
                      help="runs to fine-tune")
  parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN",
                      help="run the points alone whose names match one, such "
                      "as '*seed=1'; --dry_run prints the names")
  parser.add_argument("--parallel", type=console.count, default=1,
                      help="runs at a time on this machine (1)")
  parser.add_argument("--flops_per_sec", type=console.positive,
                      help="of a run here, for an estimate; default: that "
                      "of those that are done")
  parser.add_argument("--dry_run", action="store_true",
                      help="print the runs, write nothing")
  return parser


def _run(args):
  """Runs the command; returns the exit code."""
  if not args.out:
    if not args.init_from:
      raise errors.InputError(
          "--out is missing; name the folder that the runs shall lie in")
    if any(map(files.is_remote, args.init_from)):
      raise errors.InputError(
          "--out is missing; of runs on gs:// it is not known")
    args.out = os.path.commonpath(
        [os.path.dirname(os.path.abspath(run)) for run in args.init_from])
  for run in args.init_from or ():
    if not epath.Path(run).is_dir():
      raise errors.InputError(f"--init_from {run} is no folder")
  points, columns = points_lib.read(args.config, args.out, args.init_from,
                                    grid_lib.parse(args.grid))
  chosen = costs.check(points_lib.matching(points, args.only))
  files.check_writable(args.out)
  rate = args.flops_per_sec or costs.rate_of(chosen)
  print(costs.table(chosen, rate, args.parallel), end="", flush=True)
  if args.dry_run:
    return 0
  runner.pack(chosen)
  if chosen[0].flops:
    points_lib.record(points, columns, epath.Path(args.out) / "sweep.json")
  code = runner.Sweep(chosen, args, rate).run()
  done = sum(bool(point.done) for point in points)
  if done:
    print(f"{done} of {len(points)} runs are finished, in {args.out}\n"
          "next: " + console.command("tools.report", args.out))
  return code


def main():
  """Runs the command."""
  args = _parser().parse_args()
  # The accelerator is the runs' own.
  jax.config.update("jax_platforms", "cpu")
  with errors.one_line_exit():
    sys.exit(_run(args))


if __name__ == "__main__":
  main()
