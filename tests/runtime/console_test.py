"""Tables: aligned, and no cell ends early."""

from latemask.runtime import console


def test_table_is_aligned():
  assert console.table([("#", "name"), ("1", "a|b"), ("2", "longer")]) == (
      "| #   | name   |\n"
      "| --- | ------ |\n"
      "| 1   | a\\|b   |\n"
      "| 2   | longer |\n")


def test_a_command_can_be_pasted():
  told = console.command("tools.fill_mask", "--workdir", "a b", "It <mask>.")
  assert told == (
      "python -m latemask.tools.fill_mask --workdir 'a b' 'It <mask>.'")


def test_a_command_is_behind_what_started_this_one(monkeypatch):
  monkeypatch.setenv("LATEMASK_LAUNCHER", "bash launch/local.sh")
  assert console.command("tools.report", "a b") == (
      "bash launch/local.sh python -m latemask.tools.report 'a b'")
