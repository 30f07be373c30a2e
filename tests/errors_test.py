"""What ends a program: one line, or nothing where nobody reads on."""

import os
import subprocess
import sys

import pytest

from tests import conftest


def _run(body, stdout=subprocess.PIPE, **environment):
  program = ("import sys\nfrom latemask import errors\n"
             f"with errors.one_line_exit():\n  {body}")
  return subprocess.run(
      [sys.executable, "-c", program], cwd=conftest.ROOT, stdout=stdout,
      stderr=subprocess.PIPE, env=os.environ | environment)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("body", [
    "print('a line')", "print('a line'); sys.exit(0)",
    "[print('a line') for _ in range(100_000)]"])
def test_a_reader_that_goes_is_no_error(body, unbuffered):
  """As `| head` goes."""
  ours, theirs = os.pipe()
  os.close(ours)
  done = _run(body, theirs, PYTHONUNBUFFERED=unbuffered)
  os.close(theirs)
  assert (done.returncode, done.stderr) == (141, b"")


def test_another_pipe_is_one():
  done = _run("print('a line'); raise BrokenPipeError('mine')")
  assert done.returncode == 1 and done.stdout == b"a line\n"
  assert done.stderr.endswith(b"BrokenPipeError: mine\n")


def test_an_ending_is_a_line():
  done = _run("raise errors.InputError('no such thing')")
  assert (done.returncode, done.stderr) == (2, b"latemask: no such thing\n")
