"""What a serialised SentencePiece model says of itself, field by field.

Read here rather than by the classes that come with SentencePiece: they run
with the newest protobuf only, which Apache Beam does not allow.
Sources: sentencepiece_model.proto; protobuf.dev/programming-guides/encoding;
darts.h of darts-clone for the trie of a character map.
"""

import struct

_MODEL = {"pieces": 1, "trainer_spec": 2, "normalizer_spec": 3,
          "denormalizer_spec": 5}
# message -> {field: (number, value where it is not written)}.
_FIELDS = {
    "trainer_spec": {
        "model_type": (3, 1), "treat_whitespace_as_suffix": (24, 0),
        "byte_fallback": (35, 0)},
    "normalizer_spec": {
        "name": (1, b""), "precompiled_charsmap": (2, b""),
        "add_dummy_prefix": (3, 1), "remove_extra_whitespaces": (4, 1),
        "escape_whitespaces": (5, 1)},
    "denormalizer_spec": {"precompiled_charsmap": (2, b"")}}
_RULE_FILE = 6  # normalizer_spec.normalization_rule_tsv.
_PIECE_SCORE, _PIECE_TYPE = 2, 3
(NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE) = range(1, 7)


def settings(model):
  """Returns {"message.field": value}, numbers and bytes, of `_FIELDS`."""
  return {f"{message}.{name}": _last(_message(model, message), number, value)
          for message, fields in _FIELDS.items()
          for name, (number, value) in fields.items()}


def piece_types(model):
  """Returns the type of each piece, NORMAL to BYTE."""
  return [_last(model[value:stop], _PIECE_TYPE, NORMAL)
          for number, _, value, stop in _fields(model)
          if number == _MODEL["pieces"]]


def rules(charsmap):
  """Yields (string, what it becomes) of a precompiled character map.

  It is the size of a trie, the trie, and the strings it points to.
  """
  if not charsmap:
    return
  size, = struct.unpack_from("<I", charsmap)
  units = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
  targets = charsmap[4 + size:]
  offset = lambda unit: (unit >> 10) << ((unit & 1 << 9) >> 6)
  left = [(0, b"")]
  while left:
    place, found = left.pop()
    unit = units[place]
    if unit >> 8 & 1:
      start = units[place ^ offset(unit)] & (1 << 31) - 1
      yield found.decode(), targets[
          start:targets.index(b"\0", start)].decode()
    for byte in range(255, 0, -1):  # So that they come in order.
      child = place ^ offset(unit) ^ byte
      if child < len(units) and units[child] & (1 << 31 | 0xFF) == byte:
        left.append((child, found + bytes([byte])))


def without_rule_file(model):
  """Returns a model without the name of a temporary file.

  It is the one thing that would differ from one training to the next.
  """
  start, value, stop = next(
      place for number, *place in _fields(model)
      if number == _MODEL["normalizer_spec"])
  spec = model[value:stop]
  kept = b"".join(spec[first:last] for number, first, _, last in _fields(spec)
                  if number != _RULE_FILE)
  key = model[start:start + 1]
  return model[:start] + key + _varint_bytes(len(kept)) + kept + model[stop:]


def with_rounded_scores(model, parts):
  """Returns a model whose scores are multiples of 1 / `parts`."""
  rounded = bytearray(model)
  for number, _, value, stop in _fields(model):
    if number == _MODEL["pieces"]:
      for inner, _, first, _ in _fields(model[value:stop]):
        if inner == _PIECE_SCORE:
          score, = struct.unpack_from("<f", model, value + first)
          struct.pack_into("<f", rounded, value + first,
                           round(score * parts) / parts)
  return bytes(rounded)


def _message(model, name):
  return b"".join(model[value:stop] for number, _, value, stop
                  in _fields(model) if number == _MODEL[name])


def _last(message, wanted, value):
  """Returns the value of a field: a number, or bytes."""
  for number, start, first, stop in _fields(message):
    if number == wanted:
      is_number = message[start] & 7 == 0
      value = (_varint(message, first)[0] if is_number
               else message[first:stop])
  return value


def _fields(message):
  """Yields (number, start, start of the value, stop) of a message's fields."""
  stop = 0
  while stop < len(message):
    start = stop
    key, value = _varint(message, start)
    kind = key & 7
    if kind == 0:
      _, stop = _varint(message, value)
    elif kind == 2:
      size, value = _varint(message, value)
      stop = value + size
    else:
      stop = value + {1: 8, 5: 4}[kind]
    yield key >> 3, start, value, stop


def _varint(message, place):
  """Returns the number that stands at a place, and where it ends."""
  number = shift = 0
  while message[place] & 0x80:
    number |= (message[place] & 0x7F) << shift
    place, shift = place + 1, shift + 7
  return number | message[place] << shift, place + 1


def _varint_bytes(number):
  parts = []
  while number > 0x7F:
    parts.append(number & 0x7F | 0x80)
    number >>= 7
  return bytes(parts + [number])
