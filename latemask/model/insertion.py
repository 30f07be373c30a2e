"""Where the mask slots join the kept tokens, and what the late layers read.

Insertions take kept tokens and slots and return one sequence, its place, and
where the targets stand in it. Positions are explicit, so that `append` and
`scatter` differ in order alone. Decoders (the late layers):
  self    ordinary layers over kept tokens and slots (3ML-self);
  cross   self-attention among queries, cross-attention to the normed encoder
          output, MLP (3ML-cross). Queries are the targets, or all tokens.
Source: 3ML, arXiv 2211.04898, re-implemented from its public description.
"""

import jax
import jax.numpy as jnp

from latemask.model import parts


# Insertions: kept and slots -> one sequence, its place, where the targets
# stand in it. Positions are explicit, so the two differ in order alone.


def _append(masked, kept, slot):
  """Slots stand behind the kept tokens: S = K + Q."""
  place = _join(kept[1], slot[1])
  batch, num_slots = masked.slot_position_BxQ.shape
  slot_index = jnp.broadcast_to(
      kept[0].shape[1] + jnp.arange(num_slots), (batch, num_slots))
  return (jnp.concatenate([kept[0], slot[0]], axis=1), place,
          jnp.concatenate([slot_index, masked.corrupted_BxC], axis=1))


def _scatter(masked, kept, slot):
  """Every token stands where it stood in the row: S = L."""
  hidden, place, _ = _append(masked, kept, slot)
  index_BxL = masked.place_BxL
  here_BxL = index_BxL < hidden.shape[1]
  index_BxL = jnp.minimum(index_BxL, hidden.shape[1] - 1)
  place = place.take(index_BxL)
  place = place.replace(
      segment_BxS=jnp.where(here_BxL, place.segment_BxS, 0))
  hidden = jnp.where(
      here_BxL[..., None], parts.take(hidden, index_BxL), 0)
  return hidden, place, masked.target_index_BxT


def _only_targets(masked, kept, slot):
  """Slots, then the targets that stayed in the encoder: S = T."""
  num_slots = slot[0].shape[1]
  noise = kept[1].take(masked.corrupted_BxC)
  # What stands in unused places must not pass for a token of document 1.
  noise = noise.replace(segment_BxS=jnp.where(
      masked.target_weights_BxT[:, num_slots:] > 0, noise.segment_BxS, 0))
  return jnp.concatenate(
      [slot[0], parts.take(kept[0], masked.corrupted_BxC)], axis=1), _join(
          slot[1], noise), None


def _join(first, second):
  """Returns the places of the one tokens, then of the others."""
  return jax.tree.map(
      lambda a, b: jnp.concatenate([a, b], axis=-1 if a.ndim == 2 else 2),
      first, second)


INSERTIONS = {"append": _append, "scatter": _scatter}
QUERIES = {
    "targets": lambda config: _only_targets,
    "all": lambda config: INSERTIONS[config.insertion],
}


def _decode_self(model, masked, kept, slot, train):
  hidden, place, target_BxT = INSERTIONS[model.config.insertion](
      masked, kept, slot)
  return model._end(model.late(hidden, place, target_BxT, train=train))


def _decode_cross(model, masked, kept, slot, train):
  c = model.config
  memory, memory_place = model._end(kept[0]), kept[1]
  hidden, place, target_BxT = QUERIES[c.decoder_queries](c)(
      masked, (memory, memory_place), slot)
  out = model.late(hidden, place, target_BxT, memory, memory_place, train)
  return (model.decoder_norm(out) if c.layer.architecture.pre_norm else out)


DECODERS = {"self": _decode_self, "cross": _decode_cross}
