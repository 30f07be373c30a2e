"""Tables: aligned, and no cell ends early."""

from latemask.runtime import console


def test_table_is_aligned():
  assert console.table([("#", "name"), ("1", "a|b"), ("2", "longer")]) == (
      "| #   | name   |\n"
      "| --- | ------ |\n"
      "| 1   | a\\|b   |\n"
      "| 2   | longer |\n")
