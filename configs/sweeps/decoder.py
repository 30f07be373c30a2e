"""What should the late layers be, and how many? Equal compute.

  python -m latemask.tools.sweep --config configs/sweeps/decoder.py \\
      --out runs/decoder

Self-attention over all tokens, or cross-attention from the targets alone, 1,
2 and 4 late layers; and cross-attention from the whole length with 2, as in
the paper's figure.
"""

from configs import sweeps


def get_config(size="small"):
  """Returns base.py with the budget of its size."""
  return sweeps.equal_compute(size)


def sweep(config):
  """Yields the overrides of each point."""
  encoder = config.model.insertion_layer
  for decoder, queries, counts in (
      ("self", "targets", (1, 2, 4)), ("cross", "targets", (1, 2, 4)),
      ("cross", "all", (2,))):
    for count in counts:
      yield from sweeps.each_seed({
          "model.decoder": decoder, "model.decoder_queries": queries,
          "model.layers": encoder + count})


def columns():
  """Returns the keys worth plotting."""
  return ["model.decoder", "model.decoder_queries", "model.layers"]
