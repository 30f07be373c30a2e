"""The folder of a report: written whole, and nothing else is overwritten."""

import os
import pathlib

from latemask import errors
from latemask.report import content as content_lib
from latemask.report import look as look_lib
from latemask.report import page as page_lib
from latemask.report import reading
from latemask.runtime import files

_MARK = "<!-- made by latemask.tools.report; written anew each time -->\n"
_OWN = {"report.md"} | {f"{name}.{kind}" for name in page_lib.PICTURES
                        for kind in ("png", "svg")}


def write(directories, out, analyses=(), rank_rows=64, baseline=None):
  """Writes a report.

  Args:
    directories: workdirs, or folders that hold some.
    out: folder to write.
    analyses: "rank", or nothing.
    rank_rows: held-out rows that it reads a run.
    baseline: see `content.gather`.

  Returns:
    (names of the pictures, lines about what is damaged and left out).

  Raises:
    InputError: no run, no such baseline, or `out` holds something else.
  """
  out = pathlib.Path(out)
  check_out(out)
  found = reading.read(directories)
  if not found.runs and not found.glues:
    raise errors.InputError(
        "no run can be used: " + "; ".join(found.problems))
  content = content_lib.gather(
      found, rank_rows if "rank" in analyses else 0, baseline)
  with look_lib.style():
    pictures = page_lib.draw(content)
    try:
      with files.replacing(out, "report.md") as part:
        for name, (fig, _) in pictures.items():
          look_lib.save(fig, part, name)
        (part / "report.md").write_text(
            _MARK + page_lib.text(content, pictures))
    except OSError as error:
      raise errors.of_disk(error) or errors.InputError(
          f"{out} cannot be written: {error}") from error
  return list(pictures), content.problems


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
