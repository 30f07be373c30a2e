"""Times real train steps of several configs against each other, or PyTorch.

  python -m latemask.bench.step --flops
  python -m latemask.bench.step --config configs/base.py \\
      --config configs/vanilla.py --rows 32 --dtype float32
  python -m latemask.bench.step --config configs/base.py --rows 8 \\
      --dtype float32 --peer hf

All contenders live in one process and take turns, A B A B, so that a machine
that slows down slows down all of them. Each prints a JSON line: the median step
and the spread (smallest and largest), tokens per second (of rows, masked or
not), FLOP/s, MFU where the chip's peak is known or --peak measures it, the
ratio to the first contender: the median of the ratios of each round, and the
bytes of XLA's temporaries on a device. They are compiled side by side, so
compile_secs is a program's own with one contender alone. --peer hf adds the
stock Hugging Face class of the first contender's encoder layers in PyTorch,
with its own loss, AdamW, SDPA and torch.compile where that works; it reads
whole rows with 15 % of the tokens masked. Its FLOPs are of all tokens in all
layers and in the head.

--flops times nothing. It prints the matrix FLOPs of a step, the share of
attention's two small products in it, the parameters, and three ratios to
vanilla.py with the same encoder layers: to a step of this project, whose last
layer computes the targets alone; to a step that computes its last layer for all
tokens, as is usual elsewhere; and the ratio of layers x tokens.
"""

from concurrent import futures
import json
import os
import statistics
import sys
import time

import jax
import numpy as np
import tqdm

from latemask.config import spec as spec_lib
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.model import flops
from latemask.model import products
from latemask.runtime import chips
from latemask.runtime import console
from latemask.runtime import mesh as mesh_lib
from latemask.train import step as step_lib

_FLOPS_CONFIGS = tuple(
    f"configs/{name}.py:{size}" for size in ("base", "large")
    for name in ("vanilla", "paper", "base", "cross", "lean")) + tuple(
        f"configs/modern.py:{size},data.length={length}{rate}"
        for size in ("base", "large") for length in (1024, 8192)
        for rate in ("", ",masking.predict_rate=0.375"))
_PEERS = ("hf",)


class Contender:
  """A config on all devices, ready to step."""

  def __init__(self, spec, args):
    """Initialises it; `compile` comes before the first step."""
    self.name = spec
    config = _config(spec, args)
    self.program = step_lib.build(config)
    self.rows = config.train.batch_size
    self.length = config.data.length
    model_config = self.program.model.config
    self.flops = self.program.step_flops
    ids_BxL = jax.device_put(
        _rows(self.rows, self.length, model_config.vocab_size),
        self.program.batch_sharding)
    self._ids_BxL = ids_BxL
    self._state = self.program.init_state()
    self._step = self.program.train_step.lower(
        self.program.state_shapes, ids_BxL)
    self.details = {"dtype": config.model.dtype}

  def compile(self):
    """Compiles its step, in any thread."""
    start_secs = time.monotonic()
    self._step = self._step.compile()
    self.compile_secs = time.monotonic() - start_secs
    memory = self._step.memory_analysis()
    if memory is not None:  # Not every backend knows.
      self.details["temporaries"] = memory.temp_size_in_bytes

  def step(self):
    """Takes a step, to its end."""
    self._state, metrics = self._step(self._state, self._ids_BxL)
    jax.block_until_ready((self._state, metrics))


def _config(spec, args):
  """Returns the config of a spec under the flags."""
  config = spec_lib.load(spec, is_finetuning=False)
  with config.unlocked():
    for key, value in (("train.batch_size", args.rows),
                       ("data.length", args.length),
                       ("model.dtype", args.dtype)):
      if value is not None:
        config.update_from_flattened_dict({key: value})
  return config


def _rows(num_rows, length, vocab_size):
  """Returns ids_BxL: each row a document of random words."""
  rng = np.random.default_rng(0)
  ids_BxL = rng.integers(len(specials.NAMES), vocab_size,
                         (num_rows, length), dtype=np.int32)
  ids_BxL[:, 0], ids_BxL[:, -1] = (
      specials.TRAINED.bos, specials.TRAINED.eos)
  return ids_BxL


def measure(contenders, repeats):
  """Returns the seconds of each contender's steps, [contenders][repeats]."""
  for contender in contenders:  # The first step after a compile is no sample.
    contender.step()
  secs = [[] for _ in contenders]
  for _ in tqdm.trange(repeats, desc="rounds", file=sys.stderr):
    for contender, samples in zip(contenders, secs):
      start_secs = time.monotonic()
      contender.step()
      samples.append(time.monotonic() - start_secs)
  return secs


def report(contenders, secs, peak_flops):
  """Yields a dict per contender."""
  for contender, samples in zip(contenders, secs):
    median = statistics.median(samples)
    line = {
        "name": contender.name, "rows": contender.rows,
        "length": contender.length, "compile_secs": contender.compile_secs,
        "step_secs": median, "step_secs_min": min(samples),
        "step_secs_max": max(samples), "repeats": len(samples),
        "tokens_per_sec": contender.rows * contender.length / median,
        "ratio": statistics.median(
            a / b for a, b in zip(samples, secs[0]))}
    if contender.flops:
      line |= {"flops": contender.flops,
               "flops_per_sec": contender.flops / median,
               "flops_ratio": contender.flops / contenders[0].flops}
      if peak_flops:
        line["mfu"] = contender.flops / median / peak_flops
    yield {k: float(f"{v:.4g}") if isinstance(v, float) else v
           for k, v in line.items()} | contender.details


def measured_peak(dtype):
  """Returns the FLOP/s of a large square product on all devices."""
  size = 8192 if jax.default_backend() != "cpu" else 2048
  a = jax.numpy.ones((size, size), dtype)
  product = jax.jit(lambda a: products.dense(a, a))
  jax.block_until_ready(product(a))
  secs = []
  for _ in range(5):
    start_secs = time.monotonic()
    for _ in range(4):
      out = product(a)
    jax.block_until_ready(out)
    secs.append((time.monotonic() - start_secs) / 4)
  return 2 * size**3 / statistics.median(secs) * jax.device_count()


def flops_table(specs):
  """Returns rows of the table of --flops as dicts."""
  table = []
  for spec in specs:
    config = spec_lib.load(spec, is_finetuning=False)
    program, vanilla = _program(config), _program(_vanilla(config))
    cost = _cost(program)
    total = sum(cost.values())
    counts = flops.parameters(program.state_shapes.params)
    table.append({
        "config": spec, "architecture": config.model.architecture,
        "layers": (f"{config.model.insertion_layer}+"
                   f"{config.model.layers - config.model.insertion_layer}"),
        "kept": program.plan.num_kept, "targets": program.plan.num_targets,
        "parameters": sum(counts.values()),
        **{f"{k}_flops": v for k, v in cost.items()}, "flops": total,
        "attention": flops.attention_flops(
            program.model.config, program.plan) / total,
        "to_vanilla": total / sum(_cost(vanilla).values()),
        "to_unpruned_vanilla": total / sum(_cost(vanilla, False).values()),
        "layer_tokens": (flops.layer_tokens(
            program.model.config, program.plan) / flops.layer_tokens(
                vanilla.model.config, vanilla.plan))})
  return table


def _vanilla(config):
  """Returns the encoder layers of a config, with the masks of vanilla.py."""
  plain = spec_lib.load("configs/vanilla.py")
  config = config.copy_and_resolve_references()
  model = config.model
  with config.unlocked():
    config.masking = plain.masking
    model.layers = model.insertion_layer or model.layers
    model.update(insertion_layer=0, decoder="self",
                 insertion=plain.model.insertion)
  return config


def _program(config):
  mesh = mesh_lib.make_mesh(config, jax.devices()[:1])
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.train.batch_size = config.train.accumulation
  return step_lib.build(config, mesh=mesh)


def _cost(program, pruned=True):
  return flops.train_step_flops(
      program.model.config, program.plan, pruned)


def _print_table(table):
  columns = {
      "config": "{config}", "architecture": "{architecture}",
      "layers": "{layers}", "kept": "{kept}",
      "targets": "{targets}", "M params": "{parameters:,.0f}",
      "embedding": "{embedding_flops:.2f}", "early": "{early_flops:.2f}",
      "late": "{late_flops:.2f}", "head": "{head_flops:.2f}",
      "GFLOP a row": "{flops:.2f}", "attention": "{attention:.3f}",
      "/ vanilla": "{to_vanilla:.3f}",
      "/ unpruned": "{to_unpruned_vanilla:.3f}",
      "layers x tokens": "{layer_tokens:.3f}"}
  rows = [[text.format(**{
      k: v / 1e9 if "flops" in k else v / 1e6 if k == "parameters" else v
      for k, v in row.items()}) for text in columns.values()]
          for row in table]
  print(console.table([columns, *rows]), end="")


def _parser():
  parser = console.parser("bench.step", __doc__)
  parser.add_argument("--config", action="append", default=[],
                      help="FILE[:SIZE][,KEY=VALUE...]; may stand repeatedly")
  parser.add_argument("--rows", type=console.count, help="rows of a batch")
  parser.add_argument("--length", type=console.count, help="tokens of a row")
  parser.add_argument("--dtype", choices=("float32", "bfloat16"))
  parser.add_argument("--repeats", type=console.count, default=5,
                      help="times that each is measured (%(default)s)")
  parser.add_argument("--peer", choices=_PEERS,
                      help="hf: the stock Hugging Face class in PyTorch")
  parser.add_argument("--eager", action="store_true",
                      help="the peer without torch.compile")
  parser.add_argument("--peak", action="store_true",
                      help="measure the peak that MFU refers to")
  parser.add_argument("--flops", action="store_true",
                      help="print the table of FLOPs, time nothing")
  return parser


def _run(args):
  if args.flops:
    return _print_table(flops_table(args.config or _FLOPS_CONFIGS))
  if not args.config:
    raise errors.InputError("give at least one --config, or --flops")
  if args.peer:  # Else JAX takes most of a GPU's memory at its first use.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  contenders = [Contender(spec, args) for spec in args.config]
  print(f"compiling {', '.join(args.config)}", file=sys.stderr)
  # Nothing runs meanwhile: on several host devices, programs that run at once
  # can wait for each other for ever.
  with futures.ThreadPoolExecutor() as pool:
    list(pool.map(Contender.compile, contenders))
  if args.peer:
    # Imported here: PyTorch is no part of what latemask needs.
    from latemask.bench import torch_peer
    contenders.append(torch_peer.Peer(
        contenders[0].program, args.dtype or contenders[0].details["dtype"],
        _rows(contenders[0].rows, contenders[0].length,
              contenders[0].program.model.config.vocab_size),
        not args.eager))
  peak = (measured_peak(contenders[0].details["dtype"]) if args.peak
          else chips.peak_flops())
  for line in report(contenders, measure(contenders, args.repeats), peak):
    print(json.dumps({"device": jax.devices()[0].device_kind,
                      "devices": jax.device_count()} | line), flush=True)


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    _run(args)


if __name__ == "__main__":
  main()
