"""Rows: encoded documents -> rows of `length` ids, as the bytes stored.

Between the tokenizer and the shards. Ids are little-endian uint16 (uint32
from 65,536 ids on), a row is filled up with pad. Where <s> and
</s> stand here, a tokenizer may have [CLS] and [SEP]:
  documents   `<s> a </s><s> b </s>...`: every piece of a document stands
      between <s> and </s> and sees only itself in the model, which derives
      segments and positions from the <s> ids. A document that is longer than a
      row goes on in another; which pieces share a row says `data.fit`;
  stream      `<s> ...a </s> b... </s>`: one running text, as in RoBERTa's
      FULL-SENTENCES; documents see their neighbours. With `data.fit` "next",
      as all were packed once, short documents are left out.
"""

import functools
import itertools

import numpy as np

from latemask.data import best_fit

# Pieces shorter than this are dropped (and counted): with fewer tokens
# between <s> and </s> there is nothing to learn, and rows of special tokens
# only could not be masked.
MIN_PIECE_TOKENS = 8
# What `pack` counts; `maskable_tokens` are those that are not special.
COUNTS = ("documents", "tokens", "maskable_tokens", "rows",
          "dropped_documents", "dropped_tokens")
_ENCODE_CHARS = 1 << 17
# Tokens that wait for a row that they fit (best fit).
_WINDOW_TOKENS = 1 << 20
# Rows in which tokens are counted at once: a call a row takes its time.
_COUNTED_ROWS = 64


def row_dtype(vocab_size):
  """Returns the dtype in which ids below `vocab_size` are stored."""
  return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def pack(documents, tokenizer, data, counts, progress):
  """Yields the rows of some documents, as bytes.

  Args:
    data: `config.data`, of which `packing`, `fit` and `length` are read.
    counts: dict of `COUNTS`, added to.
    progress: called with the characters of text just done.
  """
  dtype = row_dtype(tokenizer.vocab_size)
  encoded = _encode(
      documents, tokenizer, dtype, _min_tokens(data), counts, progress)
  rows = PACKINGS[data.packing](data)(
      encoded, data.length, dtype, tokenizer.specials, counts)
  while some := list(itertools.islice(rows, _COUNTED_ROWS)):
    counts["rows"] += len(some)
    counts["maskable_tokens"] += num_maskable(
        np.frombuffer(b"".join(some), dtype), tokenizer)
    yield from some


def num_maskable(ids, tokenizer):
  """Returns how many ids are neither special nor padding."""
  return int(np.count_nonzero(~tokenizer.is_special(ids)))


def _min_tokens(data):
  """Returns of how many tokens a document is at least, or is dropped."""
  # A line of a running text needs nothing but neighbours.
  return 1 if (data.packing, data.fit) == ("stream", "best") else (
      MIN_PIECE_TOKENS)


def _encode(documents, tokenizer, dtype, min_tokens, counts, progress):
  """Yields (ids as the bytes of an array, lengths of the documents)."""
  for batch in _batches(documents):
    ids = tokenizer.encode(batch)
    lengths = list(map(len, ids))
    counts["documents"] += len(batch)
    counts["dropped_documents"] += sum(n < min_tokens for n in lengths)
    yield np.concatenate(ids).astype(dtype).tobytes(), lengths
    progress(sum(map(len, batch)))


def _batches(documents):
  """Yields lists of documents, of which there may be few but long ones."""
  batch, size = [], 0
  for document in documents:
    batch.append(document)
    size += len(document)
    if size > _ENCODE_CHARS:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


def _pack_best(encoded, length, dtype, specials, counts):
  """Yields rows of `<s> piece </s>` segments, short documents being whole."""
  size = dtype.itemsize
  bos, pad, eos = _special_bytes(specials, dtype)
  inner_bytes, min_bytes = (length - 2) * size, MIN_PIECE_TOKENS * size
  pieces = _pieces(encoded, lambda: inner_bytes, min_bytes, size, counts)
  for row, room in best_fit.rows(pieces, inner_bytes, 2 * size, min_bytes,
                                 _WINDOW_TOKENS * size):
    text = [part for piece in row for part in (bos, piece, eos)]
    yield _filled(text, room, pad, size, length, counts)


def _pieces(encoded, room, min_bytes, size, counts):
  """Yields documents, cut where a piece has no more room.

  Args:
    room: function of nothing: the bytes that the next piece may take.
  """
  for data, lengths in encoded:
    stop = 0
    for num_tokens in lengths:
      start, stop = stop, stop + num_tokens * size
      while stop - start >= min_bytes:
        piece = data[start:min(start + room(), stop)]
        start += len(piece)
        yield piece
      counts["dropped_tokens"] += (stop - start) // size


def _pack_next(encoded, length, dtype, specials, counts):
  """Yields rows of `<s> piece </s>` segments, cutting pieces to fit."""
  size = dtype.itemsize
  bos, pad, eos = _special_bytes(specials, dtype)
  inner_bytes, min_bytes = (length - 2) * size, MIN_PIECE_TOKENS * size
  # `room` is what a piece may take, its <s> and </s> already taken off.
  row, room = [], inner_bytes
  for piece in _pieces(encoded, lambda: room, min_bytes, size, counts):
    row += bos, piece, eos
    room -= len(piece) + 2 * size
    if room < min_bytes:
      yield _filled(row, room, pad, size, length, counts)
      row, room = [], inner_bytes
  if row:
    yield _filled(row, room, pad, size, length, counts)


def _filled(row, room, pad, size, length, counts):
  """Returns the bytes of a row, filled up with padding."""
  spare = room // size + 2
  counts["tokens"] += length - spare
  row.append(pad * spare)
  return b"".join(row)


def _pack_stream(encoded, length, dtype, specials, counts, min_tokens):
  """Yields rows of `<s> running text </s>`, documents parted by </s>."""
  size = dtype.itemsize
  bos, pad, eos = _special_bytes(specials, dtype)
  inner_bytes = (length - 2) * size
  stream = b""
  for data, lengths in encoded:
    parts, stop = [stream], 0
    for num_tokens in lengths:
      start, stop = stop, stop + num_tokens * size
      if num_tokens < min_tokens:
        counts["dropped_tokens"] += num_tokens
      else:
        parts += data[start:stop], eos
    stream, start = b"".join(parts), 0
    while len(stream) - start >= inner_bytes:
      counts["tokens"] += length
      yield bos + stream[start:start + inner_bytes] + eos
      start += inner_bytes
    stream = stream[start:]
  if len(stream) >= MIN_PIECE_TOKENS * size:
    room = inner_bytes - len(stream) - 2 * size
    yield _filled([bos, stream, eos], room, pad, size, length, counts)
  else:
    counts["dropped_tokens"] += len(stream) // size


def _special_bytes(specials, dtype):
  """Returns <s>, <pad> and </s> as stored."""
  return [np.array(i, dtype).tobytes() for i in (
      specials.bos, specials.pad, specials.eos)]


FITS = {"best": _pack_best, "next": _pack_next}
# config.data -> how the rows of encoded documents are made.
PACKINGS = {"documents": lambda data: FITS[data.fit],
            "stream": lambda data: functools.partial(
                _pack_stream, min_tokens=_min_tokens(data))}
