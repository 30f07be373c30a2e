"""Where documents come from: text files, TFDS, or the running Python.

First stop of the flow. A source hands out its documents by shard: shard s of
S is a fixed part of the text, found without reading the other parts (but what
is compressed, and .csv, must be read from its beginning). So shards can be
packed in any order, by any number of processes, and packed again after a stop.

  text:GLOB            .txt, .raw, .jsonl, .json, .csv, .tsv, and .gz,
                       .zst, .bz2, .xz of all; UTF-8
  files:GLOB           any files, each a document; also compressed
  parquet:GLOB         a column of .parquet files
  arrow:GLOB           the same of Arrow files, and of folders of `datasets`
  tfds:NAME[:SPLIT]    a TensorFlow Datasets set, split `train` by default
  builtin              prose of the running Python, about 2 MB, no download

Several are joined by commas: SOURCE[,SOURCE...]. A comma begins a source only
where a kind follows (`,text:`, `,builtin`, ...), any other belongs to the name.
SOURCE@NUMBER gives a source's share of the rows (data/mixture.py); any other @
belongs to the name. `[,]` and `[@]` always belong to the name, and GLOB reads
them as `,` and `@`.
"""

import contextlib
import fractions
import glob
import math
import operator
import os
import re

from latemask.data.sources import arrow
from latemask.data.sources import builtin
from latemask.data.sources import columns
from latemask.data.sources import lines
from latemask.data.sources import text as text_lib
from latemask.data.sources import tfds as tfds_source
from latemask.data.sources import whole
from latemask import errors
from latemask.runtime import files as files_lib

_SHARD_BYTES = 16 << 20
_MAX_SHARDS = 1024
# A tokenizer sees at least so many, where there are.
_SAMPLE_DOCUMENTS = 1000
# How many files that changed are named.
_NAMED = 3
_KINDS = {"text": text_lib.Text.open, "files": whole.Whole.open,
          "parquet": columns.Parquet.open, "arrow": columns.Arrow.open,
          "tfds": tfds_source.Tfds.open, "builtin": builtin.Builtin.open}
# The last comma may stand alone.
_NEXT_PART = re.compile(
    rf",(?=\s*(?:(?:{'|'.join(_KINDS)}):|builtin\s*(?:[,@]|$)|,|$))")
_SHARE = re.compile(r"@\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(%?)$")
# The rows after which shares are exact, at most.
_MOST_ROWS = 10**6


class BadDocuments:
  """Counts the documents that cannot be read, up to a bound.

  Attributes:
    bound: how many may be met.
    count: how many were.
    first: what is wrong with the first one, and where; None without one.
  """

  def __init__(self, bound, before=0):
    """Takes the bound and how many other shards have met `before`."""
    self.count, self.first = 0, None
    self.bound, self._before = bound, before

  def add(self, message):
    """Counts one more.

    Raises:
      InputError: it is one too many; `message` and, if not 0, the bound.
    """
    self.count += 1
    self.first = self.first or message
    if self._before + self.count > self.bound:
      raise errors.InputError(message + refusal(self.bound))


def refusal(bound):
  """Returns what to add to the message of a bad document: it is one too many.

  Without a bound to speak of, a file's own message says all.
  """
  return (f"; more than {bound:,} documents are bad (data.max_bad_documents)"
          if bound else "")


def specs(text, key="data.source"):
  """Returns the parts of what a key names, at least one, without shares.

  Raises:
    InputError: there is none, or a share stands alone.
  """
  return [spec for spec, _ in _parts(text, key)]


def _parts(text, key):
  """Returns (part without its share, match of its share or None) of each."""
  found = [part.strip() for part in _NEXT_PART.split(text) if part.strip()]
  if not found:
    raise errors.InputError(
        f"{key} is empty; give text:GLOB, tfds:NAME or builtin")
  found = [(part[:share.start()].strip(), share) if share else (part, None)
           for part, share in zip(found, map(_SHARE.search, found))]
  for spec, share in found:
    if share and (not spec or _SHARE.search(spec.rstrip(" ,"))):
      raise errors.InputError(
          f"{key} {spec}{share[0]}: before {share[0]} stands no source")
    if share and key != "data.source":
      raise errors.InputError(
          f"{key} {spec}{share[0]}: only data.source has shares; "
          f"{_as_name(share)}")
  return found


def _as_name(share):
  return f"if it belongs to the name, write [@]{share[0].lstrip('@ ')}"


def shares(text):
  """Returns the shares in `data.source`, `Fraction`s; None if there are none.

  Raises:
    InputError: they cannot be.
  """
  key = "data.source"
  found = _parts(text, key)
  if not any(share for _, share in found):
    return None
  numbers = []
  for spec, share in found:
    if not share:
      raise errors.InputError(
          f"{key} {spec} has no share, and others have; write {spec}@NUMBER")
    numbers.append(fractions.Fraction(share[1]) / (100 if share[2] else 1))
    if not 0 < numbers[-1] <= 1:
      raise errors.InputError(
          f"{key} {spec}{share[0]}: a share must be above 0 and at most 1; "
          f"{_as_name(share)}")
  if sum(numbers) != 1:
    raise errors.InputError(
        f"{key}: the shares of {' and '.join(spec for spec, _ in found)} "
        f"({', '.join(share[0] for _, share in found)}) sum to "
        f"{float(sum(numbers)):.9g}, not 1")
  if math.lcm(*(number.denominator for number in numbers)) > _MOST_ROWS:
    raise errors.InputError(
        f"{key}: shares have too many digits; six behind the point are enough")
  return numbers


def named(config):
  """Returns (key, part) of all that is named, to train on and to hold out."""
  keys = ["data.source"] + ["data.eval_source"] * bool(config.data.eval_source)
  return [(key, spec) for key in keys
          for spec in specs(operator.attrgetter(key)(config), key)]


def open_source(spec, config, key="data.source", download=True):
  """Returns the source that a part of a config key names, by its kind.

  Args:
    download: a TFDS set that is not there is downloaded and prepared.

  Raises:
    InputError: an unknown kind, no file matched, or a TFDS set that is not
      there and cannot be downloaded (NotPrepared).
  """
  kind, _, rest = spec.partition(":")
  if kind not in _KINDS and _is_path(spec):
    path = os.path.expanduser(spec)
    if os.path.isdir(path) and _kind_of(path) == "text":
      path = os.path.join(path, "*")
    raise errors.InputError(
        f"{key} is {spec!r}, a path without its kind; write "
        f"{_kind_of(path)}:{path}")
  return errors.choose(_KINDS, kind, key)(rest, config, key, download)


def _is_path(text):
  """Returns whether a text looks like the path of files: there, or one day."""
  return (text.startswith(("/", "./", "../", "~")) or glob.has_magic(text)
          or os.path.exists(text) or files_lib.is_remote(text)
          or text_lib.Text.reads(text) or _kind_of(text) != "text")


def _kind_of(path):
  """Returns the kind of source that reads what lies at a path."""
  if columns.Parquet.reads(path):
    return "parquet"
  is_saved = os.path.isdir(path) and arrow.saved_files(path)
  return "arrow" if is_saved or columns.Arrow.reads(path) else "text"


def open_sources(config, key="data.source"):
  """Returns the sources that a key of the config names; see `open_source`.

  A file that several of them name belongs to the first.
  """
  text = operator.attrgetter(key)(config)
  return once([open_source(s, config, key) for s in specs(text, key)])


def once(sources):
  """Returns the sources with each file in the first that reads it only."""
  known = set()
  return [source.without(known) for source in sources]


def shared(sources, others):
  """Returns what the others read that the sources read, too: paths, names."""
  return [name for other in others for name in other.shared(sources)]


def changes(config, manifest, key="data.source"):
  """Returns in words how text differs from what was packed; "" if it does not.

  Text that is gone altogether counts as unchanged. So does text on gs:// or in
  TFDS, which is not looked at.

  Args:
    manifest: what the sources were then: `sources`, the fingerprint of each
      in order, and `files`, which sets packed earlier have not.
  """
  said, before, now = [], {}, []
  for spec, fingerprint in zip(
      specs(operator.attrgetter(key)(config), key), manifest["sources"]):
    if isinstance(fingerprint, str):
      said += builtin.changes(fingerprint) * (spec == "builtin")
    elif not files_lib.is_remote(spec):
      before |= fingerprint
      with contextlib.suppress(errors.InputError):
        now.append(open_source(spec, config, key))
  now = {path for source in once(now) for path in source.paths}
  gone = [path for path in before if not os.path.exists(path)]
  if now or len(gone) < len(before):
    said += _named("new", now - before.keys())
    files = {path: {"text_bytes": size} for path, size in before.items()}
    files |= manifest.get("files", {})
    said += _named("changed", [path for path in now & before.keys()
                               if lines.has_changed(path, files[path])])
    said += _named("gone", gone)
  return ", ".join(said)


def _named(what, paths):
  """Returns [a text that names some files], or [] if there are none."""
  # Names need not be UTF-8, and what is printed must be.
  shown = [path.encode(errors="backslashreplace").decode()
           for path in sorted(paths)[:_NAMED]] + ["..."] * (
               len(paths) > _NAMED)
  return [f"{len(paths):,} {what} ({', '.join(shown)})"] * bool(paths)


def default_shards(sources):
  """Number of shards that suits the sources: one per 16 MiB, at most 1024."""
  wanted = sum(s.size_bytes for s in sources) // _SHARD_BYTES
  bounds = [s.max_shards for s in sources if s.max_shards]
  return max(1, min([wanted, _MAX_SHARDS] + bounds))


def documents(sources, shard, num_shards, bad):
  """Yields (place, text) of shard `shard` of `num_shards`, source by source.

  A place is a number that no other document of its source has, whatever the
  shards are.

  Args:
    bad: the `BadDocuments` that counts those that are skipped.

  Raises:
    InputError: too many that cannot be read, or a file that cannot be
      decompressed; names the file and the place.
  """
  for source in sources:
    yield from source.documents(shard, num_shards, bad)


def sample(sources, max_bytes, bad):
  """Yields about `max_bytes` (at most twice that), evenly over the whole.

  Of long documents, which are few, the beginning is taken.
  """
  total = max(sum(source.size_bytes for source in sources), 1)
  share = max_bytes / total * (1 << 32)
  long = max(max_bytes // _SAMPLE_DOCUMENTS, 1)
  kept, room, longest = [], 2 * max_bytes, long if total > max_bytes else None
  for number, (_, document) in enumerate(documents(sources, 0, 1, bad)):
    # Multiples of the golden ratio lie evenly in any stretch of them.
    place = number * 0x9E3779B1 % (1 << 32)
    if place < share:
      kept.append((place, document[:longest]))
      room -= len(kept[-1][1])
    if room < 0:  # Packed files hold more than they told: of all that, half.
      share, longest = share / 2, long
      kept = [(place, document[:longest]) for place, document in kept
              if place < share]
      room = 2 * max_bytes - sum(len(document) for _, document in kept)
  for _, document in kept:
    yield document
