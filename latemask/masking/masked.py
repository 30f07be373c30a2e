"""`Masked`: a batch of which some tokens are hidden, as the model reads it."""

import flax.struct
import jax
import jax.numpy as jnp

from latemask.data.tokenizers import specials


@flax.struct.dataclass
class Masked:
  """A masked batch. K kept tokens, Q slots, T = Q + C targets a row.

  Fields:
    kept_ids_BxK: what the encoder reads, in order; <pad> where unused.
    kept_position_BxK: position within the token's own document.
    kept_segment_BxK: document within the row, from 1; 0 where unused.
    slot_position_BxQ, slot_segment_BxQ: the same of the [MASK] slots.
    corrupted_BxC: index into kept of the targets that stayed there, as random
      or same ids.
    place_BxL: where each token of the row stands in [kept; slots]; K + Q
      where it stands nowhere.
    target_index_BxT: place in the row of the targets: slots, then corrupted.
    target_ids_BxT: what they were.
    target_weights_BxT: float32, 1 or, where unused, 0.
  """

  kept_ids_BxK: jax.Array
  kept_position_BxK: jax.Array
  kept_segment_BxK: jax.Array
  slot_position_BxQ: jax.Array
  slot_segment_BxQ: jax.Array
  corrupted_BxC: jax.Array
  place_BxL: jax.Array
  target_index_BxT: jax.Array
  target_ids_BxT: jax.Array
  target_weights_BxT: jax.Array


def unmasked(ids_BxL):
  """Returns the `Masked` in which every token is kept and none is hidden."""
  segment_BxL, position_BxL = jax.vmap(documents)(ids_BxL)
  batch, length = ids_BxL.shape
  none_Bx0 = jnp.zeros((batch, 0), jnp.int32)
  return Masked(
      ids_BxL, position_BxL, segment_BxL, none_Bx0, none_Bx0, none_Bx0,
      jnp.broadcast_to(jnp.arange(length), (batch, length)), none_Bx0,
      none_Bx0, none_Bx0.astype(jnp.float32))


def documents(ids_L):
  """Returns each token's document in the row, from 1, and its place there."""
  index_L = jnp.arange(ids_L.shape[0])
  start_L = ids_L == specials.BOS
  segment_L = jnp.where(ids_L == specials.PAD, 0, jnp.cumsum(start_L))
  position_L = index_L - jax.lax.cummax(jnp.where(start_L, index_L, 0))
  return segment_L, jnp.where(segment_L > 0, position_L, 0)
