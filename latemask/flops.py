"""Floating-point operations of a train step, in closed form.

Matrix products only, 2 per multiply-add, forward times three: each product
has two more in the backward pass, and the head's gradient repeats none (see
loss.py). Attention counts what is computed, across segments too.
"""

from latemask import layers

# Dense bfloat16 FLOP/s of one device by jax's device_kind; vendors' data
# sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def train_step_flops(config, plan):
  """Returns {component: FLOPs of a row in one train step}.

  Args:
    config: a `model.ModelConfig`.
    plan: the `masking.Plan`.
  """
  kept, slots, targets = plan.num_kept, plan.num_slots, plan.num_targets
  early = config.insertion_layer * _layer(config, kept, kept, None)
  late_layers = config.layers - config.insertion_layer
  if config.decoder == "cross" and config.decoder_queries == "targets":
    late = late_layers * _layer(config, targets, targets, kept)
  else:
    stream = plan.length if config.insertion == "scatter" else kept + slots
    memory = kept if config.decoder == "cross" else None
    late = (late_layers - 1) * _layer(config, stream, stream, memory)
    late += _layer(config, targets, stream, memory)
  width = config.width
  chunk = min(config.loss_chunk, targets)
  padded_targets = -(-targets // chunk) * chunk
  head = 2 * targets * width * width
  head += 2 * padded_targets * width * config.padded_vocab_size
  return {"early": 3 * early, "late": 3 * late, "head": 3 * head}


def _layer(config, queries, keys, memory):
  """Forward FLOPs of one layer: queries among keys, then the memory."""
  d = config.width
  mlp_products = 3 if layers.ARCHITECTURES[config.architecture].gated else 2
  flops = _attention(d, queries, keys)
  if memory is not None:
    flops += _attention(d, queries, memory)
  return flops + 2 * queries * d * config.mlp * mlp_products


def _attention(width, queries, keys):
  projections = 2 * width * width * (2 * queries + 2 * keys)
  return projections + 2 * 2 * queries * keys * width
