"""Documents -> tokenizer -> packed rows in ArrayRecord shards + a manifest.

Third stop of the flow, run once, ahead of training; packing.py says what a row
is. Each shard is packed alone, so a stopped preparation goes on where it was,
and the result does not depend on the number of workers. In order:
  1. manifest.json says what is being packed (`complete` false), and which
     documents are held out;
  2. a shard is written and only then described in its own .json file; a shard
     so described is never packed again (shards.py);
  3. manifest.json, with the counts and SHA-256 of all shards, is replaced.
"""

import functools
import time

from etils import epath
import tqdm

from latemask.data import held_out
from latemask.data import mixture
from latemask.data import packed_set
from latemask.data import packing
from latemask.data import shards as shards_lib
from latemask.data.sources import lines
from latemask.data.sources import table as sources_lib
from latemask.data.tokenizers import kinds as tokenizers_lib
from latemask import errors
from latemask.runtime import claims
from latemask.runtime import files
from latemask.runtime import workers


def prepare(config, directory, pack=None, tokenizer=None):
  """Packs the documents of `config.data` into `directory`, or loads them.

  Prints a summary at the end. Where another program packs them just now, it
  waits for that. Sources with shares are a set each (mixture.py).

  Args:
    pack: called with a `shards.Job`, it lets `shards.pack` run on each of its
      shards, wherever that is; None: in processes of this machine, under a
      progress bar.
    tokenizer: see `load`.

  Raises:
    InputError: see `load`, `table.open_sources`, `sentencepiece.load`; or more
      documents cannot be read than `data.max_bad_documents` allows.
  """
  packed = mixture.load(config, directory, tokenizer)
  if packed:
    if said := mixture.changes(config, packed):
      print(f"{directory} was packed from other text: {said}; the rows stay "
            "as they are", flush=True)
    return packed
  files.check_writable(directory)
  parts = mixture.parts(config, directory)
  if parts:
    return _prepare_parts(
        config, epath.Path(directory), pack, tokenizer, parts)
  sources, eval_sources = _open(config)
  everything = sources + eval_sources
  print("".join(f"{note}\n" for source in everything
                for note in source.notes), end="", flush=True)
  with claims.held(claims.inside(directory, "packing.json"),
                   wait=True) as claim:
    # Another program may have packed them meanwhile.
    return packed_set.load(config, directory, tokenizer) or _prepare(
        config, epath.Path(directory), pack or _pack_here, tokenizer, claim,
        sources, eval_sources)


def _open(config):
  """Returns the (sources, eval_sources) of a config."""
  return (sources_lib.open_sources(config),
          sources_lib.open_sources(config, "data.eval_source")
          if config.data.eval_source else [])


def _prepare_parts(config, directory, pack, tokenizer, parts):
  """Packs each of the sources with shares, and returns their `Mixture`."""
  opened = [_open(part.config) for part in parts]
  mixture.check_apart(opened)
  with claims.held(claims.inside(directory, "packing.json"), wait=True):
    splits = [_split(part.config, part.directory, *found)
              for part, found in zip(parts, opened)]
    sample = mixture.Sample(
        [(part.share, held_out.trained(sources, split))
         for part, (sources, _), split in zip(parts, opened, splits)],
        config.data.tokenizer_sample_bytes)
    given = tokenizer
    tokenizer, trained = _tokenizer(config, [sample], directory, given)
    if not mixture.read_begun(config, directory, given):
      files.write_json(directory / "manifest.json", {
          "settings": mixture.settings(config) | {
              "tokenizer": tokenizer.digest, "tokenizer_trained": trained},
          "complete": False, "split": None}, sort_keys=True)
  for part in parts:
    print(f"{part.name}, {float(part.share):.4g} of the rows, in "
          f"{part.directory.name}:", flush=True)
    prepare(part.config, part.directory, pack, tokenizer)
  return mixture.load(config, directory, given)


def _split(config, directory, sources, eval_sources):
  """Returns how documents are split: as was begun, or as it will be."""
  begun = packed_set.read_begun(directory)
  return (begun.get("split") if begun
          else held_out.split(config, sources, eval_sources))


def _prepare(config, directory, pack, tokenizer, claim, sources,
             eval_sources):
  """Packs what is not packed yet, and returns the `packed_set.Packed`."""
  start_secs = time.monotonic()
  config = packed_set.fit_as_packed(config, directory)
  everything = sources + eval_sources
  num_shards = config.data.shards or sources_lib.default_shards(everything)
  text = {"sources": [s.fingerprint for s in sources],
          "eval_sources": [s.fingerprint for s in eval_sources],
          "files": {p: d for s in everything for p, d in s.files.items()}}
  begun = _begun(directory, text)
  split = _split(config, directory, sources, eval_sources)
  tokenizer, trained = _tokenizer(
      config, held_out.trained(sources, split), directory, tokenizer)
  settings = packed_set.settings(config) | {
      "tokenizer": tokenizer.digest, "tokenizer_trained": trained}
  manifest = _continue_or_begin(directory, config, begun, {
      "settings": settings, "complete": False, "num_shards": num_shards,
      "split": split} | text)
  for part in directory.glob("rows-*.part"):  # Of programs that were killed.
    part.unlink(missing_ok=True)
  todo = [s for s in range(num_shards) if not (
      shards_lib.described(directory, s, num_shards) and (
          directory / shards_lib.name(s, num_shards, ".arrayrecord")).exists())]
  pack_secs = time.monotonic()
  pack(shards_lib.Job(
      config, str(directory), sources, eval_sources, split, num_shards,
      tuple(todo),
      sum(s.size_bytes for s in everything) * len(todo) // num_shards))
  pack_secs = time.monotonic() - pack_secs
  shards = shards_lib.done(directory, num_shards)
  if len(shards) < num_shards:
    raise errors.InputError(
        f"{directory} has {len(shards)} of {num_shards} shards after packing; "
        "it must lie where all machines that pack see it")
  totals = _totals(config, shards, split)
  claim.check()
  files.write_json(directory / "manifest.json", manifest | {
      "complete": True, "totals": totals, "shards": shards}, sort_keys=True)
  done_tokens = sum(shards[s]["tokens"] for s in todo)
  print(f"packed {totals['documents']:,} documents, {totals['tokens']:,} "
        f"tokens, {totals['rows']:,} rows of {config.data.length} "
        f"({1 - totals['tokens'] / totals['rows'] / config.data.length:.1%} "
        f"padding) in {num_shards} shards; {_held_out(totals)}dropped "
        f"{totals['dropped_documents']:,} short documents, "
        f"{totals['dropped_tokens']:,} tokens; skipped "
        f"{totals['bad_documents']:,} bad documents; "
        f"{done_tokens / max(pack_secs, 1e-9):,.0f} tokens/s, "
        f"{time.monotonic() - start_secs:.0f} s in all", flush=True)
  return packed_set.load(config, directory, tokenizer)


def _begun(directory, text):
  """Returns the manifest of what is gone on with; None where all begins.

  So it does where no row is packed and the text is another: one that could not
  be read, and was mended. A tokenizer of what it was goes, too.
  """
  begun = packed_set.read_begun(directory)
  if begun is None or begun["complete"] or any(directory.glob("rows-*.json")):
    return begun
  if _is_same_text(begun, text):
    return begun
  (directory / "manifest.json").unlink()
  tokenizers_lib.delete(directory)
  return None


def _is_same_text(begun, text):
  """Returns whether a manifest is of the same sources as another."""
  before = {"eval_sources": [], "files": {}} | begun
  return (all(before[k] == text[k] for k in ("sources", "eval_sources"))
          and lines.are_same(before["files"], text["files"]))


def _tokenizer(config, sources, directory, given):
  """Returns (tokenizer, whether it was trained here), saved in place."""
  found = tokenizers_lib.saved(directory)
  if asked := tokenizers_lib.of_config(config, given):
    tokenizer = asked
    print(f"tokenizer: {tokenizer.vocab_size:,} ids, of them "
          f"{len(tokenizer.special_N)} special; the mask is "
          f"{tokenizer.mask_token}" + (
              "; a word that begins a text is cut up otherwise than behind a "
              "space" if tokenizer.first_word_differs else ""), flush=True)
  elif found and (directory / "manifest.json").exists():
    return found, True  # Trained before a stop.
  elif config.train.init_from:
    raise errors.InputError(
        f"nothing tells which tokenizer the rows in {directory} are to have: "
        "train.init_from is read no longer, and no checkpoint is whole")
  else:
    start_secs = time.monotonic()
    print(f"training a tokenizer of {config.data.vocab_size:,} pieces (about "
          "one second a megabyte of text)", flush=True)
    tokenizer = tokenizers_lib.train(
        config.data.tokenizer_kind, sources_lib.sample(
            sources, config.data.tokenizer_sample_bytes,
            sources_lib.BadDocuments(config.data.max_bad_documents)),
        config.data.vocab_size)
    print(f"tokenizer: {tokenizer.vocab_size:,} pieces, "
          f"{time.monotonic() - start_secs:.0f} s", flush=True)
  if found and found.digest != tokenizer.digest:
    raise errors.InputError(
        f"the tokenizer in {directory} is another than that of this config, "
        "and is left as it is; choose another data.dir")
  files.make(directory)
  tokenizers_lib.save(tokenizer, directory)
  return tokenizer, asked is None


def _continue_or_begin(directory, config, begun, manifest):
  """Writes and returns the manifest of what begins, or goes on.

  Raises:
    InputError: it does not fit the shards that are done.
  """
  if begun:
    why = None
    if "files" not in begun and not begun["complete"]:
      why = "an earlier version parted lines otherwise"
    elif (manifest["settings"]
          != packed_set.settings_before(config) | begun["settings"]
          or manifest["num_shards"] != begun["num_shards"]
          or not _is_same_text(begun, manifest)):
      why = "its sources or shards have changed"
    if why:
      raise errors.InputError(
          f"{directory} holds a preparation that is not complete, and {why}; "
          "delete the folder or choose another data.dir")
    # As it was written: the whole must get the digest that it had.
    manifest = {k: begun[k] for k in manifest if k in begun}
  manifest["complete"] = False
  files.write_json(directory / "manifest.json", manifest, sort_keys=True)
  return manifest


def _totals(config, shards, split):
  """Returns the counts of a set, if it can be trained on and evaluated.

  Raises:
    InputError: too many bad documents, or no rows of one kind.
  """
  totals = shards_lib.add(shards, (*shards_lib.COUNTS, "bad_documents"))
  if totals["bad_documents"] > config.data.max_bad_documents:
    first = next(s["first_bad_document"] for s in shards if s["bad_documents"])
    raise errors.InputError(
        first + sources_lib.refusal(config.data.max_bad_documents))
  if not totals["rows"]:
    raise errors.InputError(
        f"data.source {config.data.source} holds no document of at least "
        f"{packing.MIN_PIECE_TOKENS} tokens")
  if split:
    totals["parts"] = {
        part: shards_lib.add([s["parts"][part] for s in shards], packing.COUNTS)
        for part in shards_lib.PARTS}
    held_out.check_rows(config, totals["rows"],
                        totals["parts"]["held_out"]["rows"])
  return totals


def _held_out(totals):
  if "parts" not in totals:
    return ""
  part = totals["parts"]["held_out"]
  return f"held out {part['documents']:,} documents, {part['rows']:,} rows; "


def _pack_here(job):
  """Packs the shards of a `shards.Job` in processes of this machine."""
  with tqdm.tqdm(total=job.size_bytes, desc="packing", unit="B",
                 unit_scale=True, mininterval=0.5,
                 disable=not job.todo) as bar:
    workers.run(functools.partial(shards_lib.pack, job), job.todo,
                job.config.data.workers, bar)
