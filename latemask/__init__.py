"""latemask: pre-train masked language models whose [MASK] tokens come late."""

import sys

# While `python -m latemask.NAME` looks for the module. Here, since what it
# imports next takes seconds, and a signal must end that, too.
if sys.argv[:1] == ["-m"]:
  from latemask.runtime import signals
  signals.listen()
