"""Floating-point operations of a train step, in closed form; parameters.

Matrix products only, 2 per multiply-add, forward times three: each product has
two more in the backward pass, and the head's gradient repeats none (see
loss.py). Attention is counted as it is computed, between segments, too. Its two
small products count once, though `model.remat` may compute them twice. Tests
hold this against the traced step, XLA's cost analysis and the compiled TPU
text.
"""

import jax

from latemask.model import loss


def train_step_flops(config, plan, pruned=True):
  """Returns {component: FLOPs of a row in one train step}.

  The embedding is a lookup: no product.

  Args:
    config: a `ModelConfig`.
    plan: the `masking.Plan`.
    pruned: False counts a last layer that computes all tokens instead of the
      targets alone, as other trainers do.
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
    late += _layer(config, targets if pruned else stream, stream, memory)
  width = config.width
  padded_targets = targets
  if config.loss_chunk:  # Else next to nothing is padded.
    chunk = loss.chunk_targets(targets, config.loss_chunk)
    padded_targets = -(-targets // chunk) * chunk
  head = 2 * targets * width * width
  head += 2 * padded_targets * width * config.padded_vocab_size
  # The bias' gradient is a product, too.
  grad_bias = 2 * padded_targets * config.padded_vocab_size
  return {"embedding": 0, "early": 3 * early, "late": 3 * late,
          "head": 3 * head + grad_bias}


def layer_tokens(config, plan):
  """Returns tokens times layers of a row, the coarser account of a cost.

  Late layers count the whole row, pruned or not.
  """
  late_layers = config.layers - config.insertion_layer
  return config.insertion_layer * plan.num_kept + late_layers * plan.length


def parameters(params):
  """Returns {component: number of parameters}."""
  component = {"embedding": "embedding", "positions": "embedding",
               "embedding_norm": "embedding", "second_text": "embedding",
               "early": "early"}
  counts = dict.fromkeys(("embedding", "early", "late", "head"), 0)
  for name, tree in params.items():
    late_or_head = "head" if name in ("head", "output_bias") else "late"
    counts[component.get(name, late_or_head)] += sum(
        leaf.size for leaf in jax.tree.leaves(tree))
  return counts


def _layer(config, queries, keys, memory):
  """Forward FLOPs of one layer: queries among keys, then the memory."""
  d = config.width
  mlp_products = 2 + config.layer.architecture.gated
  flops = _attention(d, queries, keys)
  if memory is not None:
    flops += _attention(d, queries, memory)
  return flops + 2 * queries * d * config.mlp * mlp_products


def _attention(width, queries, keys):
  projections = 2 * width * width * (2 * queries + 2 * keys)
  return projections + 2 * 2 * queries * keys * width
