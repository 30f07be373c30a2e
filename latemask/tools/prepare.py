"""Packs the documents of a config ahead of training, here or with Beam.

  python -m latemask.tools.prepare --config configs/base.py \\
      --out /data/wiki128
  python -m latemask.main --config configs/base.py --workdir runs/base \\
      --config.data.dir=/data/wiki128

--config is FILE[:SIZE][,KEY=VALUE...], --out what runs name as data.dir.
Without --runner all cores of this machine pack. With it an Apache Beam
pipeline does, a shard at a time; what else stands on the command line goes to
Beam (--runner=DirectRunner --direct_num_workers=8). Its workers need this
code and must see the text and --out, under the same paths. The tokenizer is
trained here before the pipeline starts. Either way the files are the same,
byte for byte, and what one has begun the other goes on with.

--dry_run prints what there is to pack, what will come out of it and how large
that is, estimated from a sample, and writes and downloads nothing.
"""

import contextlib
import dataclasses

from etils import epath
import numpy as np

from latemask.config import spec as spec_lib
from latemask.data import packing
from latemask.data import prepare as prepare_lib
from latemask.data import shards
from latemask.data.sources import table as sources_lib
from latemask.data.sources import tfds as tfds_source
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask import errors
from latemask.runtime import console
from latemask.runtime import workers

_POLL_SECS = 10
_REFUSED = ".refused"
# Text that an estimate is made from, at least, for each source.
_SAMPLE_BYTES = 4 << 20
_BYTES_A_TOKEN = 4
# ArrayRecord: chunk header and index entry of a record; blocks of a file.
_RECORD_BYTES = 43 + 9
_BLOCK_BYTES = 1 << 16


def beam_packer(runner, beam_args):
  """Returns a `pack` for `packing.prepare` that runs as a Beam pipeline.

  Args:
    runner: name of a Beam runner.
    beam_args: command-line options of the pipeline.

  Raises:
    InputError: Beam is not installed, or knows no such runner.
  """
  try:
    import apache_beam as beam
    from apache_beam.options import pipeline_options
  except ImportError as error:
    raise errors.InputError(
        f"--runner={runner} needs Apache Beam ({error}); pip install "
        "apache-beam") from error
  options = pipeline_options.PipelineOptions(beam_args, runner=runner)
  try:
    pipeline = beam.Pipeline(options=options)
  except ValueError as error:
    raise errors.InputError(
        f"--runner={runner}: {' '.join(str(error).split())}") from error

  def pack(job):
    if not job.todo:
      return
    _take_refusals(job)
    (pipeline | beam.Create(job.todo)
     # Else runners give one worker all that was made together.
     | beam.Reshuffle()
     | "pack" >> beam.Map(_pack_on_worker, job=job))
    with _watching(job):
      state = pipeline.run().wait_until_finish()
    for message in _take_refusals(job):
      raise errors.InputError(message)
    if state != beam.runners.runner.PipelineState.DONE:
      raise errors.InputError(
          f"the pipeline ended as {state}; the same command goes on with it")

  return pack


def _pack_on_worker(shard, job):
  """Packs a shard; leaves word where it cannot be."""
  if _refusals(job):
    return
  try:
    shards.pack(job, shard)
  except errors.InputError as error:
    # Raised, a runner would try again, and wrap it in something of its own.
    path = epath.Path(job.directory) / f"{shard:05d}{_REFUSED}"
    path.write_text(str(error))


def _refusals(job):
  return sorted(epath.Path(job.directory).glob(f"*{_REFUSED}"))


def _take_refusals(job):
  """Returns what workers left word of, and deletes it."""
  messages = []
  for path in _refusals(job):
    messages.append(path.read_text())
    path.unlink()
  return messages


@contextlib.contextmanager
def _watching(job):
  """Prints how many shards are done, while its body runs and at the end."""
  said = None
  def say():
    nonlocal said
    done = len(shards.done(job.directory, job.num_shards))
    if done != said:
      print(f"{done:,} of {job.num_shards:,} shards are packed", flush=True)
    said = done
  try:
    with workers.repeating(say, _POLL_SECS):
      yield
  finally:
    say()


@dataclasses.dataclass(frozen=True)
class _Guess:
  """Stands for a tokenizer that is still to be trained."""

  vocab_size: int

  def encode(self, texts):
    """Returns as many ids as there may be, all the same."""
    return [np.zeros(-(-len(text.encode()) // _BYTES_A_TOKEN), np.int32)
            for text in texts]


def dry_run(config, directory):
  """Prints what `packing.prepare` would do, and writes nothing.

  Returns:
    The estimated counts, keys of `rows.COUNTS`, bad_documents and bytes.

  Raises:
    InputError: see `packing.load` and `sources.open_source`; or the set was
      packed from other text.
  """
  directory = epath.Path(directory)
  packed = _complete(config, directory)
  if packed:
    return packed.manifest["totals"]
  tokenizer = _tokenizer(config, directory)
  totals, found = dict.fromkeys((*packing.COUNTS, "bad_documents"), 0), []
  for key, spec in sources_lib.named(config):
    try:
      found.append((spec, sources_lib.open_source(
          spec, config, key, download=False)))
    except tfds_source.NotPrepared:
      print(f"{spec}: not prepared yet, so its size is not known; left out "
            "below, and downloaded first unless this is a dry run")
  sources = sources_lib.once([source for _, source in found])
  for (spec, _), source in zip(found, sources):
    for note in source.notes:
      print(note)
    counts, bad = _estimate(config, source, tokenizer)
    print(f"{spec}: {source.size_bytes:,} bytes, about "
          f"{counts['documents']:,} documents, {counts['tokens']:,} tokens")
    if bad:
      print(f"  about {counts['bad_documents']:,} bad documents "
            f"(data.max_bad_documents is {config.data.max_bad_documents}): "
            f"{bad}")
    totals = {key: totals[key] + counts[key] for key in totals}
  num_shards = config.data.shards or sources_lib.default_shards(sources)
  row_bytes = config.data.length * packing.row_dtype(
      tokenizer.vocab_size).itemsize + _RECORD_BYTES
  blocks = -(-totals["rows"] * row_bytes // num_shards // _BLOCK_BYTES) + 1
  totals["bytes"] = num_shards * blocks * _BLOCK_BYTES
  done = len(shards.done(directory, num_shards))
  print(f"in all about {totals['tokens']:,} tokens in {totals['rows']:,} rows "
        f"of {config.data.length}: {totals['bytes']:,} bytes in {num_shards:,} "
        f"shards, of which {done:,} are packed; nothing was written")
  return totals


def _complete(config, directory):
  """Returns the complete set in a folder, and says so; None if none is there.

  Raises:
    InputError: see `packing.load`; or it was packed from other text.
  """
  packed = prepare_lib.load(config, directory)
  if packed:
    changes = prepare_lib.changes(config, packed)
    if changes:
      raise errors.InputError(
          f"{directory} was packed from other text: {changes}; delete the "
          "folder or choose another --out")
    print(f"{directory} is complete: {packed.manifest['totals']['rows']:,} "
          "rows; nothing is to be done")
  return packed


def _tokenizer(config, directory):
  """Returns the tokenizer, or what stands for it; says which."""
  path = config.data.tokenizer or directory / "tokenizer.model"
  if config.data.tokenizer or path.exists():
    print(f"estimated from a sample, with the tokenizer {path}")
    return tokenizer_lib.load(path)
  if given := _given_tokenizer(config):
    print("estimated from a sample, with the tokenizer of train.init_from")
    return given
  print(f"estimated from a sample, at {_BYTES_A_TOKEN} bytes a token: a "
        f"tokenizer of {config.data.vocab_size:,} pieces is trained first, on "
        f"{config.data.tokenizer_sample_bytes:,} bytes")
  return _Guess(config.data.vocab_size)


def _given_tokenizer(config):
  """Returns that of `train.init_from`, which needs JAX to be read."""
  if not config.train.init_from or config.data.tokenizer:
    return None
  from latemask.hub import pretrained
  return pretrained.tokenizer_of_rows(config)


def _estimate(config, source, tokenizer):
  """Returns (counts of a source, what is wrong with a bad document)."""
  # One of many small shards: of files, blocks that lie evenly.
  parts = -(-source.size_bytes // _SAMPLE_BYTES) or 1
  bad = sources_lib.BadDocuments(float("inf"))
  counts = dict.fromkeys(packing.COUNTS, 0)
  documents = (text for _, text in source.documents(parts // 2, parts, bad))
  found = packing.pack(
      documents, tokenizer, config.data.packing, config.data.length, counts,
      progress=lambda num_bytes: None)
  for _ in found:
    pass
  counts["bad_documents"] = bad.count
  return {key: parts * value for key, value in counts.items()}, bad.first


def _parser():
  parser = console.parser("prepare", __doc__, allow_abbrev=False)
  parser.add_argument("--config", required=True,
                      help="FILE[:SIZE][,KEY=VALUE...]")
  parser.add_argument("--out", required=True, help="folder of the packed rows")
  parser.add_argument("--runner", help="a Beam runner; default: this machine")
  parser.add_argument("--dry_run", action="store_true",
                      help="print estimates, write nothing")
  return parser


def main(argv=None):
  """Runs the command."""
  args, beam_args = _parser().parse_known_args(argv)
  with errors.one_line_exit():
    if beam_args and not args.runner:
      raise errors.InputError(
          f"unexpected argument {beam_args[0]!r}; see --help (only with "
          "--runner others go to Beam)")
    config = spec_lib.load(args.config)
    if "data" not in config:
      raise errors.InputError(
          f"{args.config} has no data to pack; give a config that pre-trains")
    if args.dry_run:
      dry_run(config, args.out)
      return
    pack = beam_packer(args.runner, beam_args) if args.runner else None
    if not _complete(config, args.out):
      prepare_lib.prepare(config, args.out, pack, _given_tokenizer(config))


if __name__ == "__main__":
  main()
