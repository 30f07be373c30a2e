"""Worker processes, and one that the system kills."""

import os
import signal

import pytest
import tqdm

from latemask import errors
from latemask.runtime import workers


def _dies(item, progress):
  progress(item)
  if item == 2:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told_in_a_line():
  with tqdm.tqdm(total=3, disable=True) as bar:
    with pytest.raises(errors.Ending, match="a worker process was killed"):
      workers.run(_dies, [0, 1, 2], 2, bar)
