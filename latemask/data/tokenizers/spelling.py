"""A token as its model spells it -> text in which \u2581 is a space."""

import functools

from latemask.data.tokenizers import word_starts


@functools.cache
def _byte_of():
  """Returns {character: byte} of byte-level models, as GPT-2 has them."""
  plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD),
           *range(0xAE, 0x100)]
  others = [byte for byte in range(0x100) if byte not in plain]
  return ({chr(byte): byte for byte in plain}
          | {chr(0x100 + place): byte for place, byte in enumerate(others)})


def _of_bytes(token, model):
  """Bytes, of which some may be no whole character."""
  del model
  byte_of = _byte_of()
  if any(char not in byte_of for char in token):
    return token  # An added one, which is text.
  text = bytes(byte_of[char] for char in token).decode(
      "utf-8", "surrogateescape")
  text = "".join(f"<0x{ord(char) - 0xDC00:02X}>" if
                 0xDC80 <= ord(char) <= 0xDCFF else char for char in text)
  return text.replace(" ", word_starts.SPACE)


def _of_wordpiece(token, model):
  """Those that go on have a prefix."""
  prefix = model["continuing_subword_prefix"]
  return (token.removeprefix(prefix) if token.startswith(prefix)
          else word_starts.SPACE + token)


# Others write text, and \u2581 for a space.
_KINDS = {"ByteLevel": _of_bytes, "WordPiece": _of_wordpiece}


def text(kind, token, model):
  """Returns a token as text.

  Args:
    kind: how its model spells, ByteLevel or a type of models.
    model: its description in tokenizer.json.
  """
  return _KINDS[kind](token, model) if kind in _KINDS else token
