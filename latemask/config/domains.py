"""What a value may be, and the words that say so.

A domain looks at one value alone. What two values must be to each other is
known by the module that reads them.
"""

import dataclasses
import math
import numbers
import struct
from typing import Callable

from latemask import errors

# What step counters, positions and ids are kept in, and what the host counts
# with.
INT32 = 2**31 - 1
INT64 = 2**63 - 1
# Smaller ones are 0 on the devices.
_LEAST_FLOAT32 = 2.0**-126


@dataclasses.dataclass(frozen=True)
class Domain:
  """A set of values.

  Fields:
    says: what they are, so that it goes on from "it must be".
    has: whether a value is one of them.
  """

  says: str
  has: Callable[[object], bool]


def check(domain, name, value, where=""):
  """Refuses a value that a domain does not have.

  Args:
    name: what the message calls it.
    where: the file that it stands in, if it is not the config.

  Raises:
    InputError: one line with the name, the value and what it may be.
  """
  if not domain.has(value):
    raise errors.InputError(
        f"{where}{': ' * bool(where)}{name} is {_short(value)}; it must be "
        + domain.says)


def whole(least, most=INT64):
  """The whole numbers from `least` to `most`."""
  return Domain(
      f"a whole number from {least} to {_show(most)}",
      lambda value: isinstance(value, numbers.Integral) and not isinstance(
          value, bool) and least <= value <= most)


def even(least, most):
  """The even numbers from `least` to `most`."""
  inside = whole(least, most)
  return Domain(f"an even number from {least} to {_show(most)}",
                lambda value: inside.has(value) and value % 2 == 0)


def real(interval):
  """The numbers in an interval such as "[0, 1)" or "(0, inf)".

  As the devices have them: in float32 they still lie in it.
  """
  low, high = map(float, interval[1:-1].split(","))

  def inside(x):
    return ((low < x or interval[0] == "[" and low == x)
            and (x < high or interval[-1] == "]" and x == high))

  def has(value):
    return (isinstance(value, numbers.Real) and not isinstance(value, bool)
            and inside(value) and inside(_float32(value)))

  return Domain(f"a float32 number in {interval}", has)


def _float32(value):
  try:
    narrow, = struct.unpack("f", struct.pack("f", float(value)))
  except OverflowError:
    return math.inf if value > 0 else -math.inf
  return narrow if abs(narrow) >= _LEAST_FLOAT32 else 0.0


def choice(*names):
  """Some names."""
  return Domain(f"one of {', '.join(names)}",
                lambda value: isinstance(value, str) and value in names)


def optional(domain):
  """A domain, and None."""
  return Domain(f"{domain.says}, or None",
                lambda value: value is None or domain.has(value))


def each(domain, least=0, distinct=False):
  """The tuples of at least `least` values of a domain.

  Args:
    distinct: no value stands there twice.
  """
  def has(values):
    return (isinstance(values, (tuple, list)) and len(values) >= least
            and all(map(domain.has, values))
            and not (distinct and len(set(values)) < len(values)))

  return Domain(
      f"a tuple{f' of {least} or more' * bool(least)}, each "
      f"{domain.says}{', none twice' * distinct}", has)


# Of a mask rate, a share of the steps and, if there is one, a predict_rate.
_PHASE = real("(0, 1)"), real("(0, 1]"), real("(0, 1)")
PHASES = each(Domain(
    "(rate, share) or (rate, share, predict_rate), float32 numbers in (0, 1), "
    "a share in (0, 1]", lambda value: isinstance(value, (tuple, list))
    and len(value) in (2, 3)
    and all(domain.has(x) for domain, x in zip(_PHASE, value))))
# No system call takes a name with a null character.
TEXT = Domain("a non-empty text", lambda value: isinstance(
    value, str) and value != "" and "\0" not in value)
YES_NO = Domain("True or False", lambda value: isinstance(value, bool))


def _show(number):
  """Returns large powers of two as such."""
  for less in (0, 1):
    power = (number + less).bit_length() - 1
    if power >= 16 and number + less == 1 << power:
      return f"2**{power}" + " - 1" * less
  return f"{number:,}"


def _short(value):
  """Returns a value in one line, not too long a one."""
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."
