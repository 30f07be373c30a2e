"""What rows are padded to: few lengths cost padding, many cost compiling.

A program is compiled for each length. Which ones pay is estimated from the
rows, the size of the encoder and the platform alone, so that the same command
takes the same lengths again.
"""

import numpy as np

from latemask.finetune import batches

# What a program takes to compile, forward and backward and then forward alone,
# and the FLOP/s of a machine of unknown speed. Guesses: what they decide is
# speed alone.
_COMPILE_SECS = {"cpu": 10.0, "gpu": 20.0, "tpu": 20.0}
_FLOPS_PER_SEC = {"cpu": 5e10, "gpu": 1e14, "tpu": 5e13}
# Compiling is to take no more of a run than this.
_MOST_COMPILING = 0.1


def choose(max_length, lengths_W, flops_per_token, num_passes, platform):
  """Returns the lengths, ascending, with which a run is shortest.

  Args:
    max_length: none is longer.
    lengths_W: of all windows, held-out ones among them; the last of the
      lengths holds the longest.
    flops_per_token: of a train step.
    num_passes: how often a window is trained on, in all cells together.
    platform: cpu, gpu or tpu.
  """
  candidates = batches.buckets(max_length, lengths_W.max())
  secs_per_token = num_passes * flops_per_token / _FLOPS_PER_SEC[platform]
  # Windows by the first candidate that holds them.
  counts = np.bincount(np.searchsorted(candidates, lengths_W),
                       minlength=len(candidates))
  found = []
  for lengths, num_tokens in _cheapest(candidates, counts):
    compile_secs = len(lengths) * _COMPILE_SECS[platform]
    secs = num_tokens * secs_per_token
    if len(lengths) == 1 or compile_secs <= _MOST_COMPILING * secs:
      found.append((compile_secs + secs, lengths))
  return min(found)[1]


def _cheapest(candidates, counts):
  """Yields (lengths, tokens with padding) of the best of each number.

  All end with the last candidate.
  """
  ends = np.concatenate([[0], np.cumsum(counts)])
  # By the place of its last length: the best so far, of `number` lengths.
  best = [(int(ends[i + 1]) * length, (length,))
          for i, length in enumerate(candidates)]
  yield best[-1][1], best[-1][0]
  for number in range(2, len(candidates) + 1):
    best = [min(
        ((best[j][0] + int(ends[i + 1] - ends[j + 1]) * length,
          (*best[j][1], length)) for j in range(i) if best[j]),
        default=None) for i, length in enumerate(candidates)]
    yield best[-1][1], best[-1][0]
