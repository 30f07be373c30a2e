"""Checks an entry of a speedrun, and prints its line of the table of records.

  python -m latemask.tools.speedrun --track mini --hardware "2 cores" \\
      runs/mini/seed=1 runs/mini/seed=2 runs/mini/seed=3

The runs are finished workdirs, alike but for their seed. What a track fixes
(text, tokenizer, rows, how is evaluated) and its target stand in
configs/speedrun.py, the rules and the records in configs/README.md. All is read
from metrics.jsonl, config.json and the manifest of the rows. Exit code 2: a
rule is broken; the line says which.
"""

import pathlib
import shutil
import subprocess

from latemask import errors
from latemask.config import spec as spec_lib
from latemask.report import reading
from latemask.report import speedrun
from latemask.runtime import console

_CONFIG = "configs/speedrun.py"


def _parser():
  parser = console.parser("tools.speedrun", __doc__)
  parser.add_argument("runs", metavar="RUN", nargs="+", help="a workdir")
  parser.add_argument("--track", required=True, help="mini or wikitext")
  parser.add_argument("--hardware", required=True,
                      help="what it ran on, for the table")
  parser.add_argument("--commit", help="of the code; default: that of this "
                      "clone")
  parser.add_argument("--config", default=_CONFIG,
                      help=f"file of the tracks ({_CONFIG})")
  return parser


def _track(path, name):
  file = spec_lib.module(path)
  if not hasattr(file, "TRACKS"):
    raise errors.InputError(f"{path} has no TRACKS; see {_CONFIG}")
  tracks = file.TRACKS
  if name not in tracks:
    raise errors.InputError(
        f"--track is {name!r}; choose one of {', '.join(tracks)}")
  return speedrun.Track(
      name, spec_lib.flatten(spec_lib.load(f"{path}:{name}").to_dict()),
      **tracks[name])


def _commit():
  """Returns the commit of this clone, with a + where files were changed."""
  if not shutil.which("git"):
    return "?"
  done = subprocess.run(
      ["git", "describe", "--always", "--dirty=+"], capture_output=True,
      text=True, cwd=pathlib.Path(__file__).parent)
  return done.stdout.strip() or "?"


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    found = reading.read(args.runs)
    if found.problems:
      raise errors.InputError(found.problems[0])
    line = speedrun.entry(found.runs, _track(args.config, args.track),
                          args.hardware, args.commit or _commit())
    print(console.table([tuple(line), tuple(line.values())]), end="")


if __name__ == "__main__":
  main()
