"""One shard of a packed set: its documents -> rows in a file -> its counts.

Packing plans the work, and this does it. A shard needs no other shard, so any
process can pack any of them. It holds its training rows first, then its
held-out ones. It is written under another name, renamed, and only then
described in a .json file beside it. A shard that has such a file is done.
"""

import contextlib
import dataclasses
import gc
import hashlib
import itertools
import json

from array_record.python import array_record_module
from etils import epath
import ml_collections

from latemask.data import held_out
from latemask.data import packing
from latemask.data.sources import table as sources_lib
from latemask.data.tokenizers import kinds as tokenizers_lib
from latemask.runtime import files

# The parts of a set, in the order in which they stand in a shard.
PARTS = ("training", "held_out")
# What is counted of both together.
COUNTS = ("documents", "tokens", "rows", "dropped_documents",
          "dropped_tokens")


@dataclasses.dataclass(frozen=True)
class Job:
  """What is to be packed, plain enough to be sent to another machine.

  Fields:
    config: the run's config; its group `data` is read.
    directory: where the tokenizer lies and the shards are written.
    sources, eval_sources: of the documents, opened.
    split: how they are held out, see held_out.py; None: they are not.
    num_shards: of the whole set.
    todo: the shards to be packed.
    size_bytes: of their text, about.
  """

  config: ml_collections.ConfigDict
  directory: str
  sources: list
  eval_sources: list
  split: dict | None
  num_shards: int
  todo: tuple[int, ...]
  size_bytes: int


def pack(job, shard, progress=lambda num_bytes: None):
  """Packs one shard: a function of its arguments, the text and tokenizer.

  Args:
    job: the `Job` that it belongs to.
    progress: called with the characters of text just done.

  Returns:
    The counts of the shard: documents, tokens (specials included, padding
    not), rows, dropped_documents, dropped_tokens, bad_documents,
    first_bad_document (what is wrong with it, or None), file, sha256, bytes;
    and parts, `packing.COUNTS` of what is trained on and of what is held out,
    where documents are.

  Raises:
    InputError: a source cannot be read; or this shard and those that are done
      hold more bad documents than `data.max_bad_documents`.
  """
  config, directory = job.config, epath.Path(job.directory)
  path = directory / name(shard, job.num_shards, ".arrayrecord")
  tokenizer = tokenizers_lib.saved(directory)
  bound = config.data.max_bad_documents
  bad = sources_lib.BadDocuments(bound, before=bound and sum(
      s["bad_documents"] for s in done(directory, job.num_shards)
      if s["file"] != path.name))
  aside = []  # Met on the way, and packed behind the others.
  documents = {
      "training": sources_lib.documents(
          held_out.trained(job.sources, job.split, aside.append), shard,
          job.num_shards, bad),
      "held_out": itertools.chain(aside, sources_lib.documents(
          job.eval_sources, shard, job.num_shards, bad))}
  parts = {part: dict.fromkeys(packing.COUNTS, 0) for part in PARTS}
  with files.writing(path) as file:
    # One record a chunk, so that a row is read alone; not compressed, as
    # ids hardly compress and every row is read many times.
    writer = array_record_module.ArrayRecordWriter(
        str(file), "group_size:1,uncompressed")
    with _no_cycles():
      for part, counts in parts.items():
        texts = (text for _, text in documents[part])
        for row in packing.pack(
            texts, tokenizer, config.data, counts, progress):
          writer.write(row)
    writer.close()
    result = add(parts.values(), COUNTS) | {
        "bad_documents": bad.count, "first_bad_document": bad.first,
        "file": path.name, "sha256": _sha256(file),
        "bytes": files.size(file)}
  if job.split:
    result["parts"] = parts
  files.write_json(path.with_suffix(".json"), result, sort_keys=True)
  return result


def done(directory, num_shards):
  """Returns what `pack` returned for the shards that are done."""
  found = [described(directory, s, num_shards) for s in range(num_shards)]
  return [counts for counts in found if counts]


def described(directory, shard, num_shards):
  """Returns what `pack` returned for a shard; None where it is not done.

  Nor is one whose file is damaged.
  """
  path = epath.Path(directory) / name(shard, num_shards, ".json")
  try:
    found = json.loads(path.read_bytes())
  except (OSError, ValueError):
    return None
  is_whole = isinstance(found, dict) and found.keys() >= {*COUNTS, "sha256"}
  return found if is_whole else None


def advice(path):
  """Returns what to do about a shard that is damaged."""
  path = epath.Path(path)
  return (f"delete {path.name} and {path.with_suffix('.json').name}, and the "
          "same command packs that shard again")


def name(shard, num_shards, suffix):
  """Returns the name of a file of a shard."""
  return f"rows-{shard:05d}-of-{num_shards:05d}{suffix}"


def add(counts, keys):
  """Returns the sums of some counts by key."""
  return {key: sum(c[key] for c in counts) for key in keys}


@contextlib.contextmanager
def _no_cycles():
  """Its body makes no cycles; looking for them took 6 % of packing."""
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was_enabled:
      gc.enable()


def _sha256(path):
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
