"""Documents -> tokenizer -> packed rows in ArrayRecord shards + a manifest.

Third stop of the flow, run once, ahead of training; rows.py says what a row
is. Each shard is packed alone, so a stopped preparation goes on where it was,
and the result does not depend on the number of workers. In order:
  1. manifest.json says what is being packed (`complete` false);
  2. a shard is written under another name, renamed, and only then described
     in its own .json file; a shard so described is never packed again;
  3. manifest.json, with the counts and SHA-256 of all shards, is replaced.
"""

import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import time

from array_record.python import array_record_module
from etils import epath
import ml_collections
import tqdm

from latemask import errors
from latemask import since
from latemask.data import lines
from latemask.data import local
from latemask.data import processes
from latemask.data import rows
from latemask.data import sources as sources_lib
from latemask.data import text as text_lib
from latemask.data import tokenizer as tokenizer_lib

# What settings that are older than a key mean.
_BEFORE = {"documents": since.BEFORE["data.documents"]}


@dataclasses.dataclass(frozen=True)
class Packed:
  """A complete packed set.

  Fields:
    directory: where it lies.
    manifest: the parsed manifest.json.
    tokenizer: the tokenizer whose ids the rows hold.
  """

  directory: str
  manifest: dict
  tokenizer: tokenizer_lib.Tokenizer

  @property
  def paths(self):
    """The shard files that hold rows, in order."""
    return [str(epath.Path(self.directory) / s["file"])
            for s in self.manifest["shards"] if s["rows"]]

  @property
  def num_rows(self):
    """Rows by file of `paths`."""
    return [s["rows"] for s in self.manifest["shards"] if s["rows"]]

  @property
  def num_bytes(self):
    """Bytes by file of `paths`."""
    return [s["bytes"] for s in self.manifest["shards"] if s["rows"]]

  @property
  def digest(self):
    """SHA-256 of the manifest: equal digests are equal rows."""
    # The same text has other times where it was copied to.
    text = json.dumps({k: v for k, v in self.manifest.items()
                       if k != "files"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Job:
  """What is to be packed, plain enough to be sent to another machine.

  Fields:
    config: the run's config; its group `data` is read.
    directory: where the tokenizer lies and the shards are written.
    sources: of the documents, opened.
    num_shards: of the whole set.
    todo: the shards to be packed.
    size_bytes: of their text, about.
  """

  config: ml_collections.ConfigDict
  directory: str
  sources: list
  num_shards: int
  todo: tuple[int, ...]
  size_bytes: int


def directory_of(config, workdir):
  """Returns where the packed rows of a run lie."""
  return config.data.dir or epath.Path(workdir) / "data"


def load(config, directory, tokenizer=None):
  """Returns the complete `Packed` in `directory`, or None where none is.

  Args:
    tokenizer: the one that the rows must have; None leaves it to the config.

  Raises:
    InputError: what lies there was packed with other settings; see `check`.
  """
  check(config)
  directory = epath.Path(directory)
  path = directory / "manifest.json"
  if not path.exists():
    return None
  try:
    manifest = json.loads(path.read_text())
    found = manifest["settings"]
  except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
    raise errors.InputError(
        f"{path} is no manifest of packed data; delete the folder or choose "
        "another data.dir") from error
  wanted = _settings(config)
  if config.data.tokenizer:
    tokenizer = tokenizer_lib.load(config.data.tokenizer)
  if tokenizer:
    wanted["tokenizer"] = tokenizer.digest
  elif not found["tokenizer_trained"] and not config.train.init_from:
    wanted["tokenizer"] = "trained on the documents"
  if config.train.init_from:
    del wanted["vocab_size"]  # Whoever trained it, it is the right one.
  found = _BEFORE | found
  differing = [k for k in wanted if wanted[k] != found.get(k)]
  if differing:
    raise errors.InputError(
        f"{directory} was packed with another " + " and another ".join(
            f"{k} ({found.get(k)!s:.40}, not {wanted[k]!s:.40})"
            for k in differing)
        + "; choose another data.dir or delete the folder")
  if not manifest["complete"]:
    return None
  for shard in manifest["shards"]:
    file = directory / shard["file"]
    if not file.exists() and not file.with_suffix(".json").exists():
      return None  # Deleted on purpose, to be packed again.
    if not file.exists() or file.stat().length != shard["bytes"]:
      raise errors.InputError(f"{file} is missing or cut off; {advice(file)}")
  tokenizer = tokenizer_lib.load(directory / "tokenizer.model")
  if tokenizer.digest != found["tokenizer"]:
    raise errors.InputError(
        f"{directory}/tokenizer.model is not the tokenizer that the rows were "
        "packed with; restore it or delete the folder")
  return Packed(str(directory), manifest, tokenizer)


def advice(path):
  """Returns what to do about a shard that is damaged."""
  path = epath.Path(path)
  return (f"delete {path.name} and {path.with_suffix('.json').name}, and the "
          "same command packs that shard again")


def prepare(config, directory, pack=None, tokenizer=None):
  """Packs the documents of `config.data` into `directory`, or loads them.

  Prints a summary at the end.

  Args:
    pack: called with a `Job`, it lets `pack_shard` run on each of its shards,
      wherever that is; None: in processes of this machine, under a progress
      bar.
    tokenizer: see `load`.

  Raises:
    InputError: see `load`, `sources.open_sources`, `tokenizer.load`; or more
      documents cannot be read than `data.max_bad_documents` allows.
  """
  packed = load(config, directory, tokenizer)
  if packed:
    if said := sources_lib.changes(config, packed.manifest):
      print(f"{directory} was packed from other text: {said}; the rows stay "
            "as they are", flush=True)
    return packed
  local.check_writable(directory)
  start_secs = time.monotonic()
  sources = sources_lib.open_sources(config)
  print("".join(f"{note}\n" for source in sources for note in source.notes),
        end="", flush=True)
  num_shards = config.data.shards or sources_lib.default_shards(sources)
  directory = epath.Path(directory)
  tokenizer, trained = _tokenizer(config, sources, directory, tokenizer)
  settings = _settings(config) | {
      "tokenizer": tokenizer.digest, "tokenizer_trained": trained}
  manifest = {"settings": settings, "complete": False,
              "num_shards": num_shards,
              "sources": [s.fingerprint for s in sources],
              "files": {p: d for s in sources for p, d in s.files.items()}}
  manifest = _continue_or_begin(directory, manifest)
  todo = [s for s in range(num_shards) if not all(
      (directory / _shard_name(s, num_shards, suffix)).exists()
      for suffix in (".json", ".arrayrecord"))]
  pack_secs = time.monotonic()
  (pack or _pack_here)(Job(
      config, str(directory), sources, num_shards, tuple(todo),
      sum(s.size_bytes for s in sources) * len(todo) // num_shards))
  pack_secs = time.monotonic() - pack_secs
  shards = done_shards(directory, num_shards)
  if len(shards) < num_shards:
    raise errors.InputError(
        f"{directory} has {len(shards)} of {num_shards} shards after packing; "
        "it must lie where all machines that pack see it")
  totals = {k: sum(s[k] for s in shards) for k in rows.COUNTS}
  if totals["bad_documents"] > config.data.max_bad_documents:
    first = next(s["first_bad_document"] for s in shards if s["bad_documents"])
    raise errors.InputError(
        first + sources_lib.refusal(config.data.max_bad_documents))
  if not totals["rows"]:
    raise errors.InputError(
        f"data.source {config.data.source} holds no document of at least "
        f"{rows.MIN_PIECE_TOKENS} tokens")
  local.write_json(directory / "manifest.json", manifest | {
      "complete": True, "totals": totals, "shards": shards}, sort_keys=True)
  done_tokens = sum(shards[s]["tokens"] for s in todo)
  print(f"packed {totals['documents']:,} documents, {totals['tokens']:,} "
        f"tokens, {totals['rows']:,} rows of {config.data.length} in "
        f"{num_shards} shards; dropped {totals['dropped_documents']:,} short "
        f"documents, {totals['dropped_tokens']:,} tokens; skipped "
        f"{totals['bad_documents']:,} bad documents; "
        f"{done_tokens / max(pack_secs, 1e-9):,.0f} tokens/s, "
        f"{time.monotonic() - start_secs:.0f} s in all", flush=True)
  return load(config, directory, tokenizer)


def pack_shard(job, shard, progress=lambda num_bytes: None):
  """Packs one shard: a function of its arguments, the text and tokenizer.

  Args:
    job: the `Job` that it belongs to.
    progress: called with the characters of text just done.

  Returns:
    The counts of the shard: documents, tokens (specials included, padding
    not), rows, dropped_documents, dropped_tokens, bad_documents,
    first_bad_document (what is wrong with it, or None), file, sha256, bytes.

  Raises:
    InputError: a source cannot be read; or this shard and those that are done
      hold more bad documents than `data.max_bad_documents`.
  """
  config, directory = job.config, epath.Path(job.directory)
  path = directory / _shard_name(shard, job.num_shards, ".arrayrecord")
  tokenizer = tokenizer_lib.load(directory / "tokenizer.model")
  counts = dict.fromkeys(rows.COUNTS, 0)
  bound = config.data.max_bad_documents
  bad = sources_lib.BadDocuments(bound, before=bound and sum(
      s["bad_documents"] for s in done_shards(directory, job.num_shards)
      if s["file"] != path.name))
  documents = (text for _, text in sources_lib.documents(
      job.sources, shard, job.num_shards, bad))
  with local.writing(path) as part:
    # One record a chunk, so that a row is read alone; not compressed, as
    # ids hardly compress and every row is read many times.
    writer = array_record_module.ArrayRecordWriter(
        str(part), "group_size:1,uncompressed")
    with _no_cycles():
      for row in rows.pack(documents, tokenizer, config.data.packing,
                           config.data.length, counts, progress):
        writer.write(row)
        counts["rows"] += 1
    writer.close()
    result = counts | {"bad_documents": bad.count,
                       "first_bad_document": bad.first,
                       "file": path.name, "sha256": _sha256(part),
                       "bytes": part.stat().length}
  local.write_json(path.with_suffix(".json"), result, sort_keys=True)
  return result


def done_shards(directory, num_shards):
  """Returns what `pack_shard` returned for the shards that are done."""
  paths = [epath.Path(directory) / _shard_name(s, num_shards, ".json")
           for s in range(num_shards)]
  return [json.loads(p.read_text()) for p in paths if p.exists()]


def check(config):
  """Checks what can be without reading anything.

  Raises:
    InputError: a key of `config.data` that cannot be.
  """
  data = config.data
  errors.choose(rows.PACKINGS, data.packing, "data.packing")
  errors.choose(text_lib.DOCUMENTS, data.documents, "data.documents")
  if data.length < rows.MIN_PIECE_TOKENS + 2:
    raise errors.InputError(
        f"data.length is {data.length}; rows need at least "
        f"{rows.MIN_PIECE_TOKENS + 2} tokens")
  for key in ("shards", "workers", "tokenizer_sample_bytes"):
    if data[key] is not None and data[key] < 1:
      raise errors.InputError(f"data.{key} is {data[key]}; it must be positive")
  if data.max_bad_documents < 0:
    raise errors.InputError(
        f"data.max_bad_documents is {data.max_bad_documents}; it must be 0 or "
        "more")


def _settings(config):
  """What the rows depend on, but for the tokenizer."""
  data = config.data
  return {"source": data.source, "length": data.length,
          "packing": data.packing, "documents": data.documents,
          "text_fields": list(data.text_fields),
          "vocab_size": None if data.tokenizer or config.train.init_from
          else data.vocab_size}


def _tokenizer(config, sources, directory, given):
  """Returns (tokenizer, whether it was trained here), saved in place."""
  path = directory / "tokenizer.model"
  found = tokenizer_lib.load(path) if path.exists() else None
  if config.data.tokenizer:
    tokenizer = tokenizer_lib.load(config.data.tokenizer)
  elif given:
    tokenizer = given
  elif found and (directory / "manifest.json").exists():
    return found, True  # Trained before a stop.
  else:
    start_secs = time.monotonic()
    print(f"training a tokenizer of {config.data.vocab_size:,} pieces (about "
          "one second a megabyte of text)", flush=True)
    tokenizer = tokenizer_lib.train(
        sources_lib.sample(
            sources, config.data.tokenizer_sample_bytes,
            sources_lib.BadDocuments(config.data.max_bad_documents)),
        config.data.vocab_size)
    print(f"tokenizer: {tokenizer.vocab_size:,} pieces, "
          f"{time.monotonic() - start_secs:.0f} s", flush=True)
  if found and found.digest != tokenizer.digest:
    raise errors.InputError(
        f"{path} is another tokenizer than that of this config, and is left "
        "as it is; choose another data.dir")
  local.make(directory)
  tokenizer.save(path)
  return tokenizer, not (config.data.tokenizer or given)


def _continue_or_begin(directory, manifest):
  """Writes and returns the manifest of what begins, or goes on.

  Raises:
    InputError: it does not fit the shards that are done.
  """
  path = directory / "manifest.json"
  if path.exists():
    found = json.loads(path.read_text())
    why = None
    if "files" not in found and not found["complete"]:
      why = "an earlier version parted lines otherwise"
    elif (manifest["settings"] != _BEFORE | found["settings"]
          or any(manifest[k] != found[k] for k in ("num_shards", "sources"))
          or not lines.are_same(found.get("files", {}), manifest["files"])):
      why = "its sources or shards have changed"
    if why:
      raise errors.InputError(
          f"{directory} holds a preparation that is not complete, and {why}; "
          "delete the folder or choose another data.dir")
    # As it was written: the whole must get the digest that it had.
    manifest = {k: found[k] for k in manifest if k in found}
  manifest["complete"] = False
  local.write_json(path, manifest, sort_keys=True)
  return manifest


def _pack_here(job):
  """Packs the shards of a `Job` in processes of this machine."""
  with tqdm.tqdm(total=job.size_bytes, desc="packing", unit="B",
                 unit_scale=True, mininterval=0.5,
                 disable=not job.todo) as bar:
    processes.run(functools.partial(pack_shard, job), job.todo,
                  job.config.data.workers, bar)


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


def _shard_name(shard, num_shards, suffix):
  return f"rows-{shard:05d}-of-{num_shards:05d}{suffix}"


def _sha256(path):
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
