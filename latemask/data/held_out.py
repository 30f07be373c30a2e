"""Which documents are held out for evaluation: a hash of their place.

A document stands in training rows or in held-out ones, never in both. Where it
goes depends on the number of its source and on its place there, and on nothing
else. So it is the same for any number of shards and workers, and for both
passes over the text: that of the tokenizer (which sees training documents only)
and that of the rows. With `data.eval_source` all of that is held out, and of
`data.source` nothing is. How a set is split is its manifest's `split`:
  {"by": "documents", "below": N}    of data.source those whose hash is below
  {"by": "eval_source", "below": 0}  all of data.eval_source
Sets that were packed before this was so hold out rows instead of documents, and
have no `split`; see order.py.
"""

import dataclasses
import hashlib

from latemask.data.sources import table as sources_lib
from latemask import errors

_HASHES = 1 << 53  # Up to here any reader of JSON is exact.
# A shorter text may have fewer tokens than a row takes.
_SURE_CHARS = 100
_ADVICE = (
    "; name other text in data.eval_source, or give more documents (in a .txt "
    "file a line is one)")


@dataclasses.dataclass(frozen=True)
class Trained:
  """A source without the documents that are held out.

  Fields:
    source, number: it, and its place among those of `data.source`.
    below: documents whose hash is below are held out.
    aside: called with (place, text) of each of them; None: nobody asks.
  """

  source: object
  number: int
  below: int
  aside: object = None

  @property
  def size_bytes(self):
    """Bytes of text, the held-out ones included."""
    return self.source.size_bytes

  def documents(self, shard, num_shards, bad):
    """Yields (place, text) of the documents of one shard that are left."""
    for pair in self.source.documents(shard, num_shards, bad):
      if _hash(self.number, pair[0]) >= self.below:
        yield pair
      elif self.aside:
        self.aside(pair)


def trained(sources, split, aside=None):
  """Returns sources without their held-out documents; see `Trained`."""
  below = split["below"] if split else 0
  return [Trained(source, number, below, aside)
          for number, source in enumerate(sources)]


def split(config, sources, eval_sources):
  """Returns how documents are split; see above.

  Where `data.eval_fraction` chooses none of few documents, the one with the
  lowest hash is held out. Reads on until it has met a document of either kind,
  some 1 / `data.eval_fraction` of them.

  Raises:
    InputError: the same text stands on both sides, or one side has none.
  """
  if config.data.eval_source:
    both = sources_lib.shared(sources, eval_sources)
    if both:
      raise errors.InputError(
          f"{both[0]} is named by data.source and by data.eval_source; what "
          "is held out must not be trained on")
    return {"by": "eval_source", "below": 0}
  below, lowest = round(config.data.eval_fraction * _HASHES), _HASHES
  count = num_trained = 0
  bad = sources_lib.BadDocuments(config.data.max_bad_documents)
  for number, source in enumerate(sources):
    for place, text in source.documents(0, 1, bad):
      found = _hash(number, place)
      count += 1
      num_trained += found >= below
      if len(text) >= _SURE_CHARS:
        lowest = min(lowest, found + 1)
      if num_trained and lowest <= below:
        return {"by": "documents", "below": below}
  if below < lowest < _HASHES:
    below, num_trained = lowest, count - 1
  if count and not num_trained:
    raise errors.InputError(
        f"data.source {config.data.source} holds {count:,} document"
        f"{'s' * (count > 1)}, and all would be held out{_ADVICE}")
  return {"by": "documents", "below": below}


def check_rows(config, num_rows, num_eval_rows):
  """Refuses a set of which nothing is held out, or nothing is left to train on.

  Raises:
    InputError: it is so.
  """
  for count, what in ((num_rows - num_eval_rows, "to train on"),
                      (num_eval_rows, "held out")):
    if not count:
      raise errors.InputError(
          (f"data.eval_source {config.data.eval_source}"
           if config.data.eval_source and what == "held out" else
           f"data.eval_fraction {config.data.eval_fraction}")
          + f" leaves no row {what}, of {num_rows:,}{_ADVICE}")


def _hash(number, place):
  digest = hashlib.blake2b(f"{number} {place}".encode(), digest_size=8)
  return int.from_bytes(digest.digest(), "big") % _HASHES
