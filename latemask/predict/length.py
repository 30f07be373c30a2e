"""How long a text may be: as in training, or as `--max_length` says."""

import sys

from latemask import errors
from latemask.hub import pretrained
from latemask.runtime import console

long_enough = console.at_least(3)  # <s>, </s> and a token.


def add_arguments(parser):
  """Adds the flags of commands that take texts."""
  parser.add_argument("--truncate", action="store_true",
                      help="cut what is longer")
  parser.add_argument("--max_length", type=long_enough,
                      help="tokens of the longest text (those of the rows that "
                      "the model was trained on)")


def longest(loaded, max_length=None):
  """Returns the tokens that a text may have.

  Args:
    loaded: a `pretrained.Pretrained` that is to predict words.
    max_length: what was asked for; None for the rows that it was trained on.

  Raises:
    InputError: it has no head, or not so many positions.
  """
  if "head" not in loaded.params:
    raise errors.InputError(
        "this model has no head that predicts words, only an encoder")
  if max_length and max_length > loaded.config.max_length:
    raise errors.InputError(
        f"--max_length is {max_length}; the model has "
        f"{loaded.config.max_length} positions")
  return max_length or loaded.trained_length


def warn(loaded, max_length):
  """Says what texts mean that are longer than the rows of training."""
  if (max_length or 0) > loaded.trained_length:
    print("latemask: warning: " + pretrained.beyond(
        loaded.params, loaded.trained_length, max_length), file=sys.stderr)


def check(num_tokens, limit, truncate):
  """Checks the length of a text, special tokens included.

  Raises:
    InputError: it is longer than `limit`, and is not to be cut.
  """
  if num_tokens > limit and not truncate:
    raise errors.InputError(
        f"a text of {num_tokens} tokens is too long: at most {limit} are "
        "taken, as in training or as --max_length says; --truncate cuts it")
