"""Floating-point operations of a train step, in closed form; parameters.

Matrix products only, 2 per multiply-add, forward times three: each product has
two more in the backward pass, and the head's gradient repeats none (see
loss.py). Attention is counted as it is computed, between segments, too, and in
local layers between the tokens of neighbouring blocks (local.py). Its two
small products count once, though `model.remat` may compute them twice. Tests
hold this against the traced step, XLA's cost analysis and the compiled TPU
text.
"""

import math

import jax

from latemask.model import local
from latemask.model import loss
from latemask.model import parts


def train_step_flops(config, plan, pruned=True):
  """Returns {component: FLOPs of a row in one train step}.

  The embedding is a lookup: no product.

  Args:
    config: a `ModelConfig`.
    plan: the `masking.Plan`.
    pruned: False counts a last layer that computes all tokens instead of the
      targets alone, as other trainers do.
  """
  flops = {"embedding": 0, "early": 0, "late": 0}
  for component, *sizes in _layers(config, plan, pruned):
    flops[component] += 3 * _layer(config, *sizes)
  return flops | {"head": _head(config, plan.num_targets)}


def stock_step_flops(config, length):
  """Returns the FLOPs of a row in a step of the stock class.

  All tokens pass through all layers and the head. Local layers count as they
  are computed here, though SDPA multiplies whole rows and masks.

  Args:
    config: a `ModelConfig` of the encoder alone, as of `cut.encoder_config`.
    length: L.
  """
  return _head(config, length) + 3 * sum(
      _layer(config, length, length, None, is_local)
      for is_local in config.local_layers)


def _head(config, targets):
  """FLOPs of the head, forward and backward."""
  width = config.width
  padded_targets = targets
  if config.loss_chunk:  # Else next to nothing is padded.
    chunk = loss.chunk_targets(targets, config.loss_chunk)
    padded_targets = parts.padded(targets, chunk)
  head = 2 * targets * width * width
  head += 2 * padded_targets * width * config.padded_vocab_size
  # The bias' gradient is a product, too.
  grad_bias = 2 * padded_targets * config.padded_vocab_size
  return 3 * head + grad_bias


def attention_flops(config, plan):
  """Returns those of a row's step that are attention's two small products."""
  return 3 * sum(2 * 2 * _num_scores(config, *sizes) * config.width
                 for _, *sizes in _layers(config, plan, True))


def global_attentions(config, plan):
  """Returns the (queries, keys) that layers attend with, each once.

  Of local layers nothing: their blocks are of one size (local.py).
  """
  return sorted({
      (queries, read)
      for _, queries, *reads, is_local in _layers(config, plan, True)
      for read in reads if read is not None and not is_local})


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
    is_head = name in ("head", "output_bias", "output_embedding")
    late_or_head = "head" if is_head else "late"
    counts[component.get(name, late_or_head)] += sum(
        leaf.size for leaf in jax.tree.leaves(tree))
  return counts


def _layers(config, plan, pruned):
  """Yields (component, queries, keys, memory or None, is local) of each."""
  kept, targets = plan.num_kept, plan.num_targets
  is_early, is_late = (config.local_layers[:config.insertion_layer],
                       config.local_layers[config.insertion_layer:])
  for is_local in is_early:
    yield "early", kept, kept, None, is_local
  memory = kept if config.decoder == "cross" else None
  stream = (plan.length if config.insertion == "scatter" else
            kept + plan.num_slots)
  if config.decoder == "cross" and config.decoder_queries == "targets":
    stream = targets
  for is_local in is_late[:-1]:
    yield "late", stream, stream, memory, is_local
  # A local layer computes all tokens, wherever it stands.
  last = targets if pruned and not is_late[-1] else stream
  yield "late", last, stream, memory, is_late[-1]


def _layer(config, queries, keys, memory, is_local):
  """Forward FLOPs of one layer: queries among keys, then the memory."""
  d = config.width
  read = [keys] if memory is None else [keys, memory]
  projections = sum(2 * d * d * (2 * queries + 2 * num) for num in read)
  scores = _num_scores(config, queries, keys, memory, is_local)
  mlp_products = 2 + config.layer.architecture.gated
  return projections + 2 * 2 * scores * d + (
      2 * queries * d * config.mlp * mlp_products)


def _num_scores(config, queries, keys, memory, is_local):
  """Pairs of a query and a key, or one of the memory, that are multiplied."""
  if is_local:
    return math.prod(local.blocks(keys, config.local_window))
  return queries * (keys + (memory or 0))
