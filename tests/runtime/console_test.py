"""Tables: aligned, and no cell ends early; numbers of flags; commands."""

import pytest

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


@pytest.mark.parametrize("flag, values, bad", [
    ("--count", {"1": 1, "12": 12}, ["0", "-1", "1.5", "x", ""]),
    ("--least", {"0": 0, "3": 3}, ["-1", "1e3"]),
    ("--seed", {"0": 0, "4294967295": 2**32 - 1}, ["-1", "4294967296"]),
    ("--positive", {"1e-4": 1e-4, "2": 2.0}, ["0", "-1", "nan", "inf", "x"]),
])
def test_numbers_that_cannot_be_are_told_in_one_line(
    capsys, flag, values, bad):
  parser = console.parser("tools.none", "Does nothing.")
  parser.add_argument("--count", type=console.count)
  parser.add_argument("--least", type=console.at_least(0))
  parser.add_argument("--seed", type=console.seed)
  parser.add_argument("--positive", type=console.positive)
  for text, value in values.items():
    assert getattr(parser.parse_args([flag, text]), flag[2:]) == value
  for text in bad:
    with pytest.raises(SystemExit) as ended:
      parser.parse_args([f"{flag}={text}"])
    line, = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith(f"latemask: argument {flag}: '{text}' is no ")
