"""Preparing as an Apache Beam pipeline: a shard is an element.

The bytes are those of packing without Beam: the same function packs a shard.
"""

import contextlib

from etils import epath

from latemask.data import shards
from latemask import errors
from latemask.runtime import workers

_POLL_SECS = 10
_REFUSED = ".refused"


def beam_packer(runner, beam_args):
  """Returns a `pack` for `prepare.prepare` that runs as a Beam pipeline.

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
    beam.Pipeline(options=options)
  except ValueError as error:
    raise errors.InputError(
        f"--runner={runner}: {' '.join(str(error).split())}") from error

  def pack(job):
    if not job.todo:
      return
    _take_refusals(job)
    # Sources with shares are packed one after the other, each in its own.
    pipeline = beam.Pipeline(options=options)
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
    path.write_text(str(error), "utf-8")


def _refusals(job):
  return sorted(epath.Path(job.directory).glob(f"*{_REFUSED}"))


def _take_refusals(job):
  """Returns what workers left word of, and deletes it."""
  messages = []
  for path in _refusals(job):
    messages.append(path.read_text("utf-8"))
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
