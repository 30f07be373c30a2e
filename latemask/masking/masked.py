"""`Masked`: a batch of which some tokens are hidden, as the model reads it."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

@flax.struct.dataclass
class Masked:
  """A masked batch. K kept tokens, Q slots, T = Q + C targets a row.

  A token has up to three numbers: its place in the row, of L; its index among
  the kept, of K; and its place in [kept; slots], of K + Q, where all that the
  model reads stands one behind the other. A row of L = 6, in which "big" and
  "ran" left for slots (.) and "dog" became "sky", so K = 4, Q = 2, C = 1:

    place in the row     0    1    2    3    4    5
    ids                <s>  big  dog  ran  off </s>
                         |    .    ~    .    |    |
    index among kept     0         1         2    3
    index of the slot         0         1
    place_BxL            0    4    1    5    2    3    slots stand behind K

    kept_ids_BxK       <s>  sky  off </s>
    kept_position_BxK    0    2    4    5
    slot_position_BxQ    1    3
    corrupted_BxC        1                   "sky", its index among the kept
    target_index_BxT     1    3    2         slots, then corrupted
    target_ids_BxT     big  ran  dog
    in [kept; slots]     4    5    1         place_BxL at target_index_BxT

  Positions are places in the row only where, as here, one document fills it.

  Fields:
    kept_ids_BxK: what the encoder reads, in order; pad where unused.
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


def unmasked(ids_BxL, specials):
  """Returns the `Masked` in which every token is kept and none is hidden.

  Args:
    ids_BxL: rows in which documents begin with bos.
    specials: the `Specials` of the tokenizer.
  """
  segment_BxL, position_BxL = jax.vmap(
      lambda ids_L: documents(ids_L, specials))(ids_BxL)
  batch, length = ids_BxL.shape
  none_Bx0 = jnp.zeros((batch, 0), jnp.int32)
  return Masked(
      ids_BxL, position_BxL, segment_BxL, none_Bx0, none_Bx0, none_Bx0,
      jnp.broadcast_to(jnp.arange(length), (batch, length)), none_Bx0,
      none_Bx0, none_Bx0.astype(jnp.float32))


def with_masks(ids_L, specials, num_kept, num_slots):
  """Returns the `Masked` of one document, with a slot for each mask in it.

  Args:
    ids_L: numpy; no pad.
    specials: the `Specials` of the tokenizer.
    num_kept, num_slots: K and Q, as many as there are or more.
  """
  kept_K = np.flatnonzero(ids_L != specials.mask)
  slot_Q = np.flatnonzero(ids_L == specials.mask)

  def row(values, size, fill=0):
    return np.pad(values, (0, size - len(values)),
                  constant_values=fill)[None].astype(np.int32)

  place_L = np.zeros(len(ids_L))
  place_L[kept_K] = np.arange(len(kept_K))
  place_L[slot_Q] = num_kept + np.arange(len(slot_Q))
  nowhere = num_kept + num_slots
  return Masked(
      kept_ids_BxK=row(ids_L[kept_K], num_kept, specials.pad),
      kept_position_BxK=row(kept_K, num_kept),
      kept_segment_BxK=row(np.ones(len(kept_K)), num_kept),
      slot_position_BxQ=row(slot_Q, num_slots),
      slot_segment_BxQ=row(np.ones(len(slot_Q)), num_slots),
      corrupted_BxC=np.zeros((1, 0), np.int32),
      place_BxL=row(place_L, nowhere, nowhere),
      target_index_BxT=row(slot_Q, num_slots),
      target_ids_BxT=np.zeros((1, num_slots), np.int32),  # Unknown.
      target_weights_BxT=row(
          np.ones(len(slot_Q)), num_slots).astype(np.float32))


def documents(ids_L, specials):
  """Returns each token's document in the row, from 1, and its place there."""
  index_L = jnp.arange(ids_L.shape[0])
  start_L = ids_L == specials.bos
  segment_L = jnp.where(ids_L == specials.pad, 0, jnp.cumsum(start_L))
  position_L = index_L - jax.lax.cummax(jnp.where(start_L, index_L, 0))
  return segment_L, jnp.where(segment_L > 0, position_L, 0)
