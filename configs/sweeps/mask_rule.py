"""What is masked together, and does BERT's noise help? Equal compute.

  python -m latemask.tools.sweep --config configs/sweeps/mask_rule.py \\
      --out runs/mask_rule

Tokens, whole words, spans x mask only, or 80 / 10 / 10. Tokens that become
random or stay do not leave the encoder, so noise makes a step dearer.
"""

from configs import sweeps


def get_config(size="small"):
  """Returns base.py with the budget of its size."""
  return sweeps.equal_compute(size)


def sweep(config):
  """Yields the overrides of each point."""
  del config  # The same at every size.
  for unit in ("token", "word", "span"):
    for noise in (0.0, 0.1):
      yield from sweeps.each_seed({
          "masking.unit": unit, "masking.random_rate": noise,
          "masking.same_rate": noise})


def columns():
  """Returns the keys worth plotting."""
  return ["masking.unit", "masking.random_rate"]
