"""launch/local.sh: makes the environment once, and says what is wrong."""

import os
import shutil
import subprocess

import pytest

from tests import conftest

ROOT = conftest.ROOT


@pytest.fixture
def repository(tmp_path):
  """A repository with nothing but the script and no requirements."""
  (tmp_path / "launch").mkdir()
  shutil.copy(ROOT / "launch" / "local.sh", tmp_path / "launch")
  (tmp_path / "requirements.txt").write_text("# nothing\n")
  return tmp_path


def _local(repository, *command, cwd=None, **environment):
  return subprocess.run(
      ["bash", str(repository / "launch" / "local.sh"), *command],
      cwd=cwd or repository, capture_output=True, text=True,
      env=os.environ | environment, timeout=300)


def test_sets_up_once_and_again_after_a_change(repository, tmp_path):
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  done = _local(repository, "python", "-c",
                "import os, sys; print(sys.prefix, os.getcwd(), sys.argv[1])",
                "two words  'quoted'", cwd=elsewhere)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == (
      f"{repository}/.venv {elsewhere} two words  'quoted'")
  assert "creating" in done.stderr and "installing" in done.stderr
  assert _local(repository, "true").stderr == ""
  (repository / "requirements.txt").write_text("# something else\n")
  changed = _local(repository, "sh", "-c", "exit 7")
  assert changed.returncode == 7
  assert "installing" in changed.stderr and "creating" not in changed.stderr
  # A set-up that fails is not taken for one that is done.
  (repository / "requirements.txt").write_text("no such package at all\n")
  for _ in range(2):
    failed = _local(repository, "true")
    assert failed.returncode == 2
    assert "could not install" in failed.stderr


def test_refusals(repository):
  assert _local(repository).returncode == 2
  helped = _local(repository, "--help")
  assert helped.returncode == 0 and "CMD" in helped.stdout
  missing = _local(repository, "true", PYTHON="no-python-here")
  assert missing.returncode == 2
  assert "no no-python-here on PATH" in missing.stderr
  old = repository / "python-old"
  old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1"\n'
                 "exit 1\n")
  old.chmod(0o755)
  refused = _local(repository, "true", PYTHON=str(old))
  assert refused.returncode == 2
  assert not (repository / ".venv").exists()


@pytest.mark.parametrize("script", sorted((ROOT / "launch").glob("*.sh")))
def test_scripts_parse(script):
  subprocess.run(["bash", "-n", str(script)], check=True)
