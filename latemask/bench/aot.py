"""Compiles the train or eval step for TPUs that are not there.

  python -m latemask.bench.aot --config configs/base.py --topology v5e:2x2
  python -m latemask.bench.aot --config configs/base.py:large,mesh.fsdp=8 \\
      --topology v5e-8 --rows_per_chip 64
  python -m latemask.bench.aot --config configs/base.py --topology v5e-8 --fit

Needs no TPU, only `pip install libtpu`, and one to three minutes a compile.
Prints one JSON object: chip, chips, mesh, rows_per_chip, compile_secs,
flops_per_chip (matrix products of the compiled text, loops counted out),
closed_form_flops_per_chip (see flops.py), hbm (bytes: arguments, outputs,
temporaries, total, capacity) and collectives (by kind: runs and bytes of one
chip); the FLOPs and collectives are null for a chip whose compiled text this
jaxlib cannot read (v6e with 0.10). --fit adds largest_rows_per_chip, a multiple
of 8; it takes some more compiles.
"""

import importlib.util
import json
import os
import re
import sys
import time

import jax
from jax.experimental import topologies
import numpy as np

from latemask.bench import hlo
from latemask.config import spec
from latemask import errors
from latemask.model import flops
from latemask.runtime import chips
from latemask.runtime import console
from latemask.runtime import mesh as mesh_lib
from latemask.train import step as step_lib

_FIT_MULTIPLE = 8


class DoesNotFit(Exception):
  """The compiler found no way into the chip's memory."""


def devices_of(topology):
  """Returns the devices of a topology (v5e:2x2) or slice (v5e-8), or several.

  Raises:
    InputError: no such topology, or no libtpu.
  """
  slices, name = re.fullmatch(r"(?:([1-9]\d*)x(?=v))?(.*)", topology).groups()
  named = re.fullmatch(r"(v\w+)-(\d+)", name)
  if named:
    sizes = errors.choose(chips.SLICES, named[1], "--topology")
    name = f"{named[1]}:" + errors.choose(
        sizes, int(named[2]), f"--topology {named[1]}-")
  if importlib.util.find_spec("libtpu") is None:
    raise errors.InputError("libtpu is not installed: pip install libtpu")
  options = errors.choose(chips.OPTIONS, name.partition(":")[0],
                          f"--topology {topology}: generation")
  options = options | ({"num_slices": int(slices)} if slices else {})
  # Said to no TPU at all: no metadata server is asked, no host named, and no
  # lock taken that another process may hold.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  try:
    return topologies.get_topology_desc(
        topology_name=name, platform="tpu", **options).devices
  # JAX's own errors and "not implemented" are RuntimeErrors.
  except (RuntimeError, ValueError) as error:
    reason = str(error).strip().splitlines()[0]
    raise errors.InputError(f"--topology {topology}: {reason}") from error


def compile_step(config, devices, rows_per_chip=None, step="train"):
  """Compiles a step of the real program.

  Args:
    config: the run's config; it stays as it is.
    rows_per_chip: of a micro-batch; None takes the config's batch size.
    step: "train" or "eval".

  Returns:
    (Program, compiled, seconds).

  Raises:
    DoesNotFit: it needs more memory than a chip has.
  """
  if rows_per_chip:
    config = config.copy_and_resolve_references()
    with config.unlocked():
      config.train.batch_size = rows_per_chip * len(devices) * (
          config.train.accumulation)
  mesh = mesh_lib.make_mesh(config, devices)
  program = step_lib.build(config, mesh=mesh)
  batch_size = _batch_size(config, step)
  ids = jax.ShapeDtypeStruct((batch_size, config.data.length), np.int32,
                             sharding=program.batch_sharding)
  start_secs = time.monotonic()
  try:
    if step == "train":
      compiled = program.train_step.lower(
          program.state_shapes, ids).compile()
    else:
      rows = jax.ShapeDtypeStruct((batch_size,), np.int32,
                                  sharding=program.batch_sharding)
      compiled = program.eval_step(program.plan).lower(
          program.state_shapes.params, rows, ids).compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise DoesNotFit(str(error).splitlines()[0]) from error
  return program, compiled, time.monotonic() - start_secs


def _batch_size(config, step):
  """Returns the rows that a step reads: evaluation's is a micro-batch."""
  return config.train.batch_size // (
      config.train.accumulation if step == "eval" else 1)


def describe(program, compiled, compile_secs, step="train"):
  """Returns what is printed, as a dict."""
  devices = program.mesh.devices.flatten()
  kind = devices[0].device_kind
  rows_per_chip = _batch_size(program.config, step) / len(devices)
  memory = compiled.memory_analysis()
  hbm = {"arguments": memory.argument_size_in_bytes,
         "outputs": (memory.output_size_in_bytes
                     - memory.alias_size_in_bytes),
         "temporaries": memory.temp_size_in_bytes}
  hbm["total"] = sum(hbm.values())
  hbm["capacity"] = chips.capacity_bytes(kind)
  text = compiled_text(compiled)
  closed = sum(flops.train_step_flops(
      program.model.config, program.plan).values())
  if step == "eval":  # Forward only.
    closed /= 3
  return {
      "chip": kind, "chips": len(devices), "mesh": dict(program.mesh.shape),
      "step": step, "rows_per_chip": rows_per_chip,
      "compile_secs": round(compile_secs, 1),
      "flops_per_chip": text and hlo.matmul_flops(text),
      "closed_form_flops_per_chip": closed * rows_per_chip,
      "hbm": hbm, "collectives": text and hlo.collectives(text)}


def compiled_text(compiled):
  """Returns the compiled HLO; None where this jaxlib cannot read it.

  jaxlib 0.10 does not know a form of asynchronous operation that libtpu
  0.0.51 writes for v6e. What was compiled is sound all the same.
  """
  try:
    return compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    if "hlo_instruction" not in str(error):
      raise
    return None


def largest_rows(config, devices, say):
  """Returns the largest multiple of 8 rows a chip that compiles into it.

  Doubles until it is too much, then halves the interval, at the place where a
  straight line through what was seen would meet the capacity.
  """
  sizes, too_many, rows = {}, None, 32
  while rows:
    say(f"--fit: compiling {rows} rows a chip")
    try:
      _, compiled, _ = compile_step(config, devices, rows)
      memory = compiled.memory_analysis()
      sizes[rows] = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    except DoesNotFit:
      too_many = rows
    rows = _next_rows(
        sizes, too_many, chips.capacity_bytes(devices[0].device_kind))
  return max(sizes, default=0)


def _next_rows(sizes, too_many, capacity):
  """Returns the next number of rows to try; 0 when the answer is known."""
  fits = max(sizes, default=0)
  if too_many is not None and too_many - fits <= _FIT_MULTIPLE:
    return 0
  if not sizes:
    return too_many // 2 // _FIT_MULTIPLE * _FIT_MULTIPLE
  guess = 2 * fits
  if len(sizes) > 1:
    (low, low_bytes), (high, high_bytes) = sorted(sizes.items())[-2:]
    slope = (high_bytes - low_bytes) / (high - low)
    guess = int(high + (capacity - high_bytes) / max(slope, 1))
  guess = max(guess // _FIT_MULTIPLE * _FIT_MULTIPLE, fits + _FIT_MULTIPLE)
  return guess if too_many is None else min(guess, too_many - _FIT_MULTIPLE)


def _parser():
  parser = console.parser("bench.aot", __doc__)
  parser.add_argument("--config", required=True,
                      help="FILE[:SIZE][,KEY=VALUE...]")
  parser.add_argument("--topology", required=True,
                      help="v5e:2x2, or a slice: v4-8, v5e-256, v6e-8, ...; "
                      "2xv5e-16 is two of them")
  parser.add_argument("--rows_per_chip", type=console.count,
                      help="rows of a micro-batch; default: the config's")
  parser.add_argument("--step", choices=("train", "eval"), default="train")
  parser.add_argument("--fit", action="store_true",
                      help="find the largest rows_per_chip, too")
  return parser


def _say(text):
  print(text, file=sys.stderr, flush=True)


def _run(args):
  config = spec.load(args.config, is_finetuning=False)
  devices = devices_of(args.topology)
  _say(f"compiling the {args.step} step for {len(devices)} x "
       f"{devices[0].device_kind}: one to three minutes")
  result = {"config": args.config, "topology": args.topology} | describe(
      *compile_step(config, devices, args.rows_per_chip, args.step),
      args.step)
  if args.fit:
    result["largest_rows_per_chip"] = largest_rows(config, devices, _say)
  return result


def main():
  """Runs the command."""
  args = _parser().parse_args()
  jax.config.update("jax_platforms", "cpu")
  try:
    with errors.one_line_exit():
      print(json.dumps(_run(args)))
  except DoesNotFit as error:
    _say(f"latemask: does not fit: {error}")
    sys.exit(1)


if __name__ == "__main__":
  main()
