"""Documents -> tokenizer -> packed rows in ArrayRecord shards + a manifest.

Third stop of the flow, run once, ahead of training; rows.py says what a row
is. Each shard is packed alone, so a stopped preparation goes on where it was,
and the result does not depend on the number of workers. In order:
  1. manifest.json says what is being packed (`complete` false);
  2. a shard is written under another name, renamed, and only then described
     in its own .json file; a shard so described is never packed again;
  3. manifest.json, with the counts and SHA-256 of all shards, is replaced.
"""

import concurrent.futures
import contextlib
import dataclasses
import gc
import hashlib
import json
import multiprocessing
import os
import threading
import time

from array_record.python import array_record_module
from etils import epath
import tqdm

from latemask import errors
from latemask.data import rows
from latemask.data import sources as sources_lib
from latemask.data import tokenizer as tokenizer_lib


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
  def digest(self):
    """SHA-256 of the manifest: equal digests are equal rows."""
    text = json.dumps(self.manifest, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(config, directory):
  """Returns the complete `Packed` in `directory`, or None where none is.

  Raises:
    InputError: what lies there was packed with other settings.
  """
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
    wanted["tokenizer"] = tokenizer_lib.load(config.data.tokenizer).digest
  else:
    wanted["tokenizer"] = found["tokenizer"]
    if not found["tokenizer_trained"]:
      wanted["tokenizer"] = "trained on the documents"
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
    if not file.exists() or file.stat().length != shard["bytes"]:
      raise errors.InputError(
          f"{file} is missing or cut off; delete {path}, and the same command "
          "packs it again")
  tokenizer = tokenizer_lib.load(directory / "tokenizer.model")
  if tokenizer.digest != found["tokenizer"]:
    raise errors.InputError(
        f"{directory}/tokenizer.model is not the tokenizer that the rows were "
        "packed with; restore it or delete the folder")
  return Packed(str(directory), manifest, tokenizer)


def prepare(config, directory):
  """Packs the documents of `config.data` into `directory`, or loads them.

  Shows a progress bar on stderr and a summary at the end.

  Raises:
    InputError: see `load`, `sources.open_sources`, `tokenizer.load`.
  """
  packed = load(config, directory)
  if packed:
    return packed
  start_secs = time.monotonic()
  sources = sources_lib.open_sources(config)
  num_shards = config.data.shards or sources_lib.default_shards(sources)
  directory = epath.Path(directory)
  tokenizer, trained = _tokenizer(config, sources, directory)
  settings = _settings(config) | {
      "tokenizer": tokenizer.digest, "tokenizer_trained": trained}
  manifest = {"settings": settings, "complete": False,
              "num_shards": num_shards,
              "sources": [s.fingerprint for s in sources]}
  _continue_or_begin(directory, manifest)
  todo = [s for s in range(num_shards) if not all(
      (directory / _shard_name(s, num_shards, suffix)).exists()
      for suffix in (".json", ".arrayrecord"))]
  pack_secs = time.monotonic()
  _pack_shards(config, directory, tokenizer, num_shards, todo,
               sum(s.size_bytes for s in sources))
  pack_secs = time.monotonic() - pack_secs
  shards = [json.loads(
      (directory / _shard_name(s, num_shards, ".json")).read_text())
            for s in range(num_shards)]
  totals = {k: sum(s[k] for s in shards) for k in rows.COUNTS}
  if not totals["rows"]:
    raise errors.InputError(
        f"data.source {config.data.source} holds no document of at least "
        f"{rows.MIN_PIECE_TOKENS} tokens")
  _write_json(directory / "manifest.json", manifest | {
      "complete": True, "totals": totals, "shards": shards})
  done_tokens = sum(shards[s]["tokens"] for s in todo)
  print(f"packed {totals['documents']:,} documents, {totals['tokens']:,} "
        f"tokens, {totals['rows']:,} rows of {config.data.length} in "
        f"{num_shards} shards; dropped {totals['dropped_documents']:,} short "
        f"documents, {totals['dropped_tokens']:,} tokens; "
        f"{done_tokens / max(pack_secs, 1e-9):,.0f} tokens/s, "
        f"{time.monotonic() - start_secs:.0f} s in all", flush=True)
  return load(config, directory)


def pack_shard(config, directory, tokenizer, shard, num_shards,
               progress=lambda num_bytes: None):
  """Packs one shard: a pure function of its arguments and the sources.

  Args:
    progress: called with the bytes of text just done.

  Returns:
    The counts of the shard: documents, tokens (specials included, padding
    not), rows, dropped_documents, dropped_tokens, file, sha256, bytes.
  """
  directory = epath.Path(directory)
  path = directory / _shard_name(shard, num_shards, ".arrayrecord")
  # Of this process alone: an orphan of a killed run may still write its own.
  part = path.with_name(f"{path.name}.{os.getpid()}.part")
  # One record a chunk, so that a row is read alone; not compressed, as
  # ids hardly compress and every row is read many times.
  writer = array_record_module.ArrayRecordWriter(
      str(part), "group_size:1,uncompressed")
  counts = dict.fromkeys(rows.COUNTS, 0)
  sources = sources_lib.open_sources(config)
  documents = sources_lib.documents(sources, shard, num_shards)
  with _no_cycles():
    for row in rows.pack(documents, tokenizer, config.data.packing,
                         config.data.length, counts, progress):
      writer.write(row)
      counts["rows"] += 1
  writer.close()
  result = counts | {"file": path.name, "sha256": _sha256(part),
                     "bytes": part.stat().length}
  part.replace(path)
  _write_json(path.with_suffix(".json"), result)
  return result


def check(config):
  """Checks what can be without reading anything.

  Raises:
    InputError: a key of `config.data` that cannot be.
  """
  data = config.data
  errors.choose(rows.PACKINGS, data.packing, "data.packing")
  if data.length < rows.MIN_PIECE_TOKENS + 2:
    raise errors.InputError(
        f"data.length is {data.length}; rows need at least "
        f"{rows.MIN_PIECE_TOKENS + 2} tokens")
  for key in ("shards", "workers", "tokenizer_sample_bytes"):
    if data[key] is not None and data[key] < 1:
      raise errors.InputError(f"data.{key} is {data[key]}; it must be positive")


def _settings(config):
  """What the rows depend on, but for the tokenizer."""
  check(config)
  data = config.data
  return {"source": data.source, "length": data.length,
          "packing": data.packing, "text_fields": list(data.text_fields),
          "vocab_size": None if data.tokenizer else data.vocab_size}


def _tokenizer(config, sources, directory):
  """Returns (tokenizer, whether it was trained here), saved in place."""
  path = directory / "tokenizer.model"
  found = tokenizer_lib.load(path) if path.exists() else None
  if config.data.tokenizer:
    tokenizer = tokenizer_lib.load(config.data.tokenizer)
  elif found and (directory / "manifest.json").exists():
    return found, True  # Trained before a stop.
  else:
    start_secs = time.monotonic()
    print(f"training a tokenizer of {config.data.vocab_size:,} pieces (about "
          "one second a megabyte of text)", flush=True)
    tokenizer = tokenizer_lib.train(
        sources_lib.sample(sources, config.data.tokenizer_sample_bytes),
        config.data.vocab_size)
    print(f"tokenizer: {tokenizer.vocab_size:,} pieces, "
          f"{time.monotonic() - start_secs:.0f} s", flush=True)
  if found and found.digest != tokenizer.digest:
    raise errors.InputError(
        f"{path} is another tokenizer than that of this config, and is left "
        "as it is; choose another data.dir")
  directory.mkdir(parents=True, exist_ok=True)
  tokenizer.save(path)
  return tokenizer, not config.data.tokenizer


def _continue_or_begin(directory, manifest):
  """Writes the manifest of a preparation, or checks that of a stopped one."""
  path = directory / "manifest.json"
  if not path.exists():
    _write_json(path, manifest)
    return
  found = json.loads(path.read_text())
  if any(found.get(key) != value for key, value in manifest.items()):
    raise errors.InputError(
        f"{directory} holds a stopped preparation whose sources or shards "
        "have changed; delete the folder or choose another data.dir")


def _pack_shards(config, directory, tokenizer, num_shards, todo, total_bytes):
  """Packs the shards `todo`, in parallel, under one progress bar."""
  cores = len(os.sched_getaffinity(0))
  workers = min(config.data.workers or cores, len(todo))
  jobs = [(config, str(directory), tokenizer, s, num_shards) for s in todo]
  total = total_bytes * len(todo) // num_shards
  with tqdm.tqdm(total=total, desc="packing", unit="B", unit_scale=True,
                 mininterval=0.5, disable=not todo) as bar:
    if workers <= 1:
      for job in jobs:
        pack_shard(*job, progress=bar.update)
      return
    # Not fork: the parent may hold threads of JAX, Grain or TensorFlow.
    context = multiprocessing.get_context("spawn")
    done_bytes = context.Value("q", 0)
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, _start_worker, (done_bytes,)) as pool:
      pending = {pool.submit(_pack_in_worker, job) for job in jobs}
      try:
        while pending:
          done, pending = concurrent.futures.wait(pending, timeout=0.5)
          for future in done:
            future.result()
          bar.update(done_bytes.value - bar.n)
      finally:
        for future in pending:
          future.cancel()


def _start_worker(done_bytes):
  """Takes the shared counter; ends with the parent, killed or not."""
  global _done_bytes
  _done_bytes = done_bytes
  def follow():
    multiprocessing.parent_process().join()
    os._exit(1)
  threading.Thread(target=follow, daemon=True).start()


def _pack_in_worker(job):
  def progress(num_bytes):
    with _done_bytes.get_lock():
      _done_bytes.value += num_bytes
  pack_shard(*job, progress=progress)


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
  digest = hashlib.sha256()
  with path.open("rb") as file:
    while block := file.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()


def _write_json(path, value):
  part = path.with_name(f"{path.name}.{os.getpid()}.part")
  part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
  part.replace(path)
