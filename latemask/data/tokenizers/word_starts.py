"""Where words begin in a row of ids (masking.word_starts)."""

SPACE = "\u2581"


# Scripts that write no spaces: first and last code points of their blocks.
_NO_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao.
    (0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F),  # Myanmar.
    (0x1780, 0x17FF), (0x19E0, 0x19FF),  # Khmer.
    (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x20000, 0x323AF),  # Han.
    (0x3041, 0x309F),  # Hiragana.
    (0x30A0, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F),  # Katakana.
)
# First bytes in UTF-8 of U+4000 to U+9FFF, nearly all of them Han. Those of
# the other scripts stand before characters of many scripts.
_HAN_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(0xE4, 0xEA))


def _after_space(piece):
  return piece.startswith("\u2581")


def _after_space_or_alone(piece):
  return _after_space(piece) or piece in _HAN_BYTES or any(
      first <= ord(piece[0]) <= last for first, last in _NO_SPACES)


# masking.word_starts -> whether a piece begins a word.
WORD_STARTS = {"spaces": _after_space, "scripts": _after_space_or_alone}
