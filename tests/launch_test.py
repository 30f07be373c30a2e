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
      env=os.environ | {"PYTHON": ""} | environment, timeout=300)


@pytest.mark.slow
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
  assert "no-python-here is not there" in missing.stderr
  assert not (repository / ".venv").exists()


# An interpreter of a version: it says so, and makes an environment of itself.
INTERPRETER = """#!/bin/sh
case "$1 $2" in
  "--version ") echo "Python VERSION.1";;
  "-m venv") mkdir -p "$4/bin"; cp "$0" "$4/bin/python"
    echo "version = VERSION.1" > "$4/pyvenv.cfg";;
  "-m pip") ;;
  *) echo VERSION; case "$*" in *ensurepip*) exit CODE;; esac;;
esac
"""


@pytest.fixture
def machine(repository, tmp_path):
  """Runs local.sh where there are these interpreters, {place: version}."""
  tools = tmp_path / "bin"
  tools.mkdir()
  for name in ("sh", "bash", "sed", "cat", "cp", "grep", "mkdir", "dirname",
               "sha256sum", "flock"):
    (tools / name).symlink_to(shutil.which(name))

  def local(interpreters, *command, **environment):
    for place, version in interpreters.items():
      path = tmp_path / place
      path.parent.mkdir(parents=True, exist_ok=True)
      version, _, broken = version.partition(" ")
      path.write_text(INTERPRETER.replace("VERSION", version).replace(
          "CODE", "1" if broken else "0"))
      path.chmod(0o755)
    return _local(repository, *command, PATH=str(tools), HOME=str(tmp_path),
                  PYENV_ROOT="", **environment)
  return local


PYENV = ".pyenv/versions/3.13.0/bin/python"
UV = ".local/share/uv/python/cpython-3.12.3-linux/bin/python"


@pytest.mark.parametrize("interpreters, name, taken", [
    ({"bin/python3": "3.11", "bin/python3.13": "3.13"}, "", "bin/python3"),
    ({"bin/python3": "3.10", "bin/python3.11": "3.11",
      "bin/python3.12": "3.12"}, "", "bin/python3.12"),
    ({"bin/python3": "3.14", "bin/python3.11": "3.11"}, "", "bin/python3.11"),
    ({"bin/python3": "3.10", "bin/python3.12": "3.12", PYENV: "3.13"}, "",
     PYENV),
    ({UV: "3.12"}, "", UV),
    # It cannot make environments.
    ({"bin/python3": "3.12 broken", "bin/python3.11": "3.11"}, "",
     "bin/python3.11"),
    ({"bin/python3": "3.11", "bin/python3.12": "3.12"}, "python3.12",
     "bin/python3.12"),
    # pyenv has a python3.13 on PATH that runs only where it was asked for.
    ({"bin/python3.13": "3.13 broken", PYENV: "3.13"}, "python3.13", PYENV),
    ({"bin/python3": "3.11", "other/python": "3.12"}, "other/python",
     "other/python")])
def test_takes_a_supported_python(machine, tmp_path, interpreters, name,
                                  taken):
  said = machine(interpreters, "--python", PYTHON=name)
  assert said.returncode == 0, said.stderr
  assert tmp_path / said.stdout.strip() == tmp_path / taken


@pytest.mark.parametrize("interpreters, name, message", [
    ({}, "", "python3 is not there, and no Python 3.13, 3.12, 3.11 was found"),
    ({"bin/python3": "3.9", "bin/python3.10": "3.10"}, "",
     "python3 is Python 3.9.1, and no"),
    ({"bin/python3": "3.14"}, "", "python3 is Python 3.14.1, and no"),
    # What was asked for by name is not replaced by what was not.
    ({"bin/python3": "3.11"}, "python3.13", "python3.13 is not there"),
    ({"bin/python3": "3.11", "bin/python3.9": "3.9"}, "python3.9",
     "python3.9 is Python 3.9.1")])
def test_refuses_other_pythons(machine, tmp_path, interpreters, name, message):
  refused = machine(interpreters, "true", PYTHON=name)
  assert refused.returncode == 2
  assert message in refused.stderr and refused.stderr.count("\n") == 1
  assert not list(tmp_path.glob(".venv*/*"))


def test_another_python_has_an_environment_of_its_own(machine, tmp_path):
  pythons = {"bin/python3": "3.11", "bin/python3.13": "3.13"}
  where = ("sh", "-c", "echo $VIRTUAL_ENV; python --version")
  first = machine(pythons, *where)
  assert first.stdout.split() == [f"{tmp_path}/.venv", "Python", "3.11.1"]
  assert f"creating {tmp_path}/.venv with Python 3.11, python3" in first.stderr
  for is_new in (True, False):
    other = machine({}, *where, PYTHON="python3.13")
    assert other.stdout.split() == [
        f"{tmp_path}/.venv-3.13", "Python", "3.13.1"]
    assert ("creating" in other.stderr) == is_new
  for name in ("", "python3"):
    again = machine({}, *where, PYTHON=name)
    assert (again.stdout, again.stderr) == (first.stdout, "")


@pytest.mark.parametrize("script", sorted((ROOT / "launch").glob("*.sh")))
def test_scripts_parse(script):
  subprocess.run(["bash", "-n", str(script)], check=True)
