"""Random keys: JAX's own kinds, and a light one for dropout.

Dropout needs many random numbers, and they need not be very good. Threefry
spends some fifty operations on each. The hardware's generator (rbg) is not
split over devices: each makes the numbers of the whole batch and keeps its
share, so the cost and the memory grow with the slice. `hash` is a 32-bit mixer
over the element's index and the key, ten operations: elementwise, so it fuses,
splits as its result does, depends on no mesh, need not be kept, and a part of
an array can be made without the rest. Source of the mixer: C. Wellons,
"lowbias32" (public domain).
"""

import dataclasses
import math

import jax
from jax.extend import random as extend_random
import jax.numpy as jnp
import numpy as np

_THREEFRY = extend_random.threefry_prng_impl
# Places that a 32-bit index has.
_PLACES = 1 << 32


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of an array: those from `start` on, along one axis.

  Fields:
    axis: that axis.
    start: int or int32 scalar, where along it the part begins.
    size: of the whole array along it.
  """

  axis: int
  start: object
  size: int


def stream(seed, number, kind="threefry2x32"):
  """Returns the key of one of the streams of random numbers of a seed."""
  return jax.random.fold_in(
      jax.random.key(seed, impl=KINDS[kind]), np.uint32(number))


def fold_in(key, number, salt):
  """Returns the key of a part of what a key is for.

  To unsafe_rbg folding in is XOR: layer 2 of micro-batch 6 would have the bits
  of layer 6 of micro-batch 2. There the number is mixed up first.

  Args:
    number: int or integer scalar, of the part.
    salt: which sort of part it is: a layer, a micro-batch.
  """
  if jax.random.key_impl(key) == "unsafe_rbg":
    number = mix(jnp.asarray(number).astype(jnp.uint32), np.uint32(salt))
  return jax.random.fold_in(key, number)


def index(shape, part=None):
  """Returns the place of every element, uint32; it repeats at 2**32.

  Args:
    part: the `Part` of an array that this shape is; None: the whole one.
  """
  found = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    place = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    size = shape[axis]
    if part and part.axis == axis:
      place += jnp.asarray(part.start).astype(jnp.uint32)
      size = part.size
    found += place * np.uint32(stride % _PLACES)
    stride *= size
  return found


def mix(x, salt):
  """Returns uint32 mixed up: one to one for every salt."""
  x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> np.uint32(15))) + salt
  x *= np.uint32(0x846CA68B)
  return x ^ (x >> np.uint32(16))


def bits(key, shape, part=None):
  """Returns uint32 bits of the shape.

  Args:
    key: of any of the KINDS.
    part: the `Part` of an array that they are for; None: the whole one. The
      bits of `hash` are those that the whole array has there. Other kinds
      cannot make a part alone: it has bits of its own.
  """
  if part is None:
    return jax.random.bits(key, shape)
  if jax.random.key_impl(key) != _HASH:
    return jax.random.bits(jax.random.fold_in(key, part.start), shape)
  return _hash(jax.random.key_data(key), shape, part)


def _random_bits(key_2, bit_width, shape):
  """Returns unsigned integers of the shape."""
  return _hash(key_2, shape).astype(f"uint{bit_width}")


def _hash(key_2, shape, part=None):
  """Returns uint32 of the shape, each of its place in the whole array."""
  # Else XLA fuses the making of the key into every element's arithmetic.
  key_2 = jax.lax.optimization_barrier(key_2)
  lead = _num_leading(shape, part)
  if lead:
    # Weights of 8,192 x 8,192 tokens and 16 heads are 2**30 a row: the index of
    # all of them would repeat at every fourth row. So rows (and heads, where
    # one row is too many) have keys of their own.
    ahead, shape = ((*shape[:lead], *[1] * len(shape[lead:])),
                    (*[1] * lead, *shape[lead:]))
    is_ahead = part and part.axis < lead
    place = index(ahead, part if is_ahead else None)
    part = None if is_ahead else part
    # Both halves: of rows with one in common, some correlate.
    key_2 = (mix(place ^ key_2[0], key_2[1]), mix(place ^ key_2[1], key_2[0]))
  # The second half of the key enters between the rounds: else two keys would
  # give the same numbers in another order.
  return mix(index(shape, part) ^ key_2[0], key_2[1])


def _num_leading(shape, part):
  """Returns how many leading axes an index of 32 bits does not reach."""
  sizes = list(shape)
  if part:
    sizes[part.axis] = part.size
  return next(lead for lead in range(len(sizes) + 1)
              if math.prod(sizes[lead:]) <= _PLACES)


_HASH = extend_random.define_prng_impl(
    key_shape=(2,), seed=_THREEFRY.seed, split=_THREEFRY.split,
    random_bits=_random_bits, fold_in=_THREEFRY.fold_in, name="hash",
    tag="hash")

# train.dropout_rng -> implementation.
KINDS = {"hash": _HASH, "threefry2x32": "threefry2x32", "rbg": "rbg",
         "unsafe_rbg": "unsafe_rbg"}
