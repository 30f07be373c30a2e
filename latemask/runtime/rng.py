"""Random keys: JAX's own kinds, and a light one for dropout.

Dropout needs many random numbers, and they need not be very good. Threefry
spends some fifty operations on each. The hardware's generator (rbg) is not
split over devices: each makes the numbers of the whole batch and keeps its
share, so the cost and the memory grow with the slice. `hash` is a 32-bit mixer
over the element's index and the key, ten operations: elementwise, so it fuses,
splits as its result does, depends on no mesh, and need not be kept. Source of
the mixer: C. Wellons, "lowbias32" (public domain).
"""

import jax
from jax.extend import random as extend_random
import jax.numpy as jnp
import numpy as np

_THREEFRY = extend_random.threefry_prng_impl


def stream(seed, number, kind="threefry2x32"):
  """Returns the key of one of the streams of random numbers of a seed."""
  return jax.random.fold_in(
      jax.random.key(seed, impl=KINDS[kind]), np.uint32(number))


def index(shape):
  """Returns the place of every element, uint32; it repeats at 2**32."""
  found = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    found += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(
        stride % (1 << 32))
    stride *= shape[axis]
  return found


def mix(x, salt):
  """Returns uint32 mixed up: one to one for every salt."""
  x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> np.uint32(15))) + salt
  x *= np.uint32(0x846CA68B)
  return x ^ (x >> np.uint32(16))


def _random_bits(key_2, bit_width, shape):
  """Returns unsigned integers of the shape; they repeat at 2**32."""
  # Else XLA fuses the making of the key into every element's arithmetic.
  key_2 = jax.lax.optimization_barrier(key_2)
  # The second half of the key enters between the rounds: else two keys would
  # give the same numbers in another order.
  return mix(index(shape) ^ key_2[0], key_2[1]).astype(f"uint{bit_width}")


_HASH = extend_random.define_prng_impl(
    key_shape=(2,), seed=_THREEFRY.seed, split=_THREEFRY.split,
    random_bits=_random_bits, fold_in=_THREEFRY.fold_in, name="hash",
    tag="hash")

# train.dropout_rng -> implementation.
KINDS = {"hash": _HASH, "threefry2x32": "threefry2x32", "rbg": "rbg",
         "unsafe_rbg": "unsafe_rbg"}
