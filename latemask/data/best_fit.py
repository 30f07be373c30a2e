"""Best fit: which pieces of text share a row, so that hardly one is cut.

Rows are filled one after the other from the pieces that wait, of which there is
a window: each takes the longest one, then the longest that the room left holds,
and so on (first fit decreasing; for rows of documents: Ding et al., arXiv
2404.10830). Where no piece fits and padding would take more than a share of all
rows so far, the longest one is cut. So no text, however its lengths fall, is
padded much, and text of many lengths is not cut at all.

Nothing is random and nothing outlives the pieces: equal pieces are equal rows.
"""

import bisect
import collections

# A piece is cut where padding would take more than 1 / 64 of the rows.
_ROWS_A_PADDED_ONE = 64


def rows(pieces, room, gap, least, window):
  """Yields (row, what is left of it) of some pieces, a row being a list.

  All is measured in the length of a piece, as `len` has it.

  Args:
    pieces: bytes, or another sequence; each of `least` to `room`.
    room: of an empty row, for one piece.
    gap: what each further piece takes besides its own length.
    least: no piece is cut shorter.
    window: of the pieces that wait together; bounds memory.
  """
  waiting = _Waiting()
  num_rows = padding = 0

  def fill():
    nonlocal num_rows, padding
    num_rows += 1
    row, left = [], room
    while waiting.size and left >= least:
      piece = waiting.take(left)
      if piece is None:
        allowed = num_rows * (room + gap)
        cut = min(left, waiting.longest - least)
        if (padding + left + gap) * _ROWS_A_PADDED_ONE <= allowed or (
            cut < least):
          break
        whole = waiting.take(room)
        piece = whole[:cut]
        waiting.add(whole[cut:])
      row.append(piece)
      left -= len(piece) + gap
    padding += left + gap
    return row, left

  for piece in pieces:
    waiting.add(piece)
    while waiting.size > window:
      yield fill()
  while waiting.size:
    yield fill()


class _Waiting:
  """Pieces by length; of equal ones the oldest comes first.

  Attributes:
    size: of all of them.
  """

  def __init__(self):
    self.size = 0
    self._lengths = []  # Those that there are, sorted.
    self._pieces = collections.defaultdict(collections.deque)

  @property
  def longest(self):
    """Length of the longest piece."""
    return self._lengths[-1]

  def add(self, piece):
    """Takes a piece in."""
    length = len(piece)
    if not self._pieces[length]:
      bisect.insort(self._lengths, length)
    self._pieces[length].append(piece)
    self.size += length

  def take(self, most):
    """Takes out the longest piece of at most `most`; None: there is none."""
    index = bisect.bisect_right(self._lengths, most) - 1
    if index < 0:
      return None
    length = self._lengths[index]
    piece = self._pieces[length].popleft()
    if not self._pieces[length]:
      del self._lengths[index]
    self.size -= length
    return piece
