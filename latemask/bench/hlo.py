"""What a compiled program does, read from its text: products, collectives.

XLA's own cost analysis counts the body of a loop once. Here each computation
counts as often as it runs: once per call, fusion or branch, and a loop's body
as often as its condition says (JAX's loops count from 0 to a constant). The
branches of a conditional all count.
"""

import collections
import math
import re

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
          "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all",
               "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|"
    r"called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
# The channel of a collective that several computations share.
_CHAINED = re.compile(r"channel_id=(\d+).*chain_id=")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")


def shapes(text):
  """Returns {(dtype, dimensions)} of all arrays in the text."""
  return {(dtype, _dimensions(sizes)) for dtype, sizes in _ARRAY.findall(text)
          if dtype in _BYTES}


def matmul_flops(text, count_loops=True):
  """Returns the FLOPs of all matrix products.

  Args:
    text: compiled HLO.
    count_loops: False counts a loop's body once, as XLA's analysis does.
  """
  computations, entry = _parse(text)
  times = _times(computations, entry, count_loops)
  return sum(
      times[name] * _product_flops(instruction, computation)
      for name, computation in computations.items() if times[name]
      for instruction in computation.values())


def collectives(text):
  """Returns {kind: {"count": runs, "bytes": bytes of their results}}.

  Bytes are those of one device's result, and of a reduce-scatter's operand:
  what is reduced or spread, whichever algorithm moves it. One that goes on
  through several computations (`chain_id`) counts once.
  """
  computations, entry = _parse(text)
  times = _times(computations, entry, True)
  found, begun = {}, set()
  for name, computation in computations.items():
    for shape, opcode, rest in computation.values():
      kind = opcode.removesuffix("-start")
      if kind not in COLLECTIVES or not times[name]:
        continue
      if chained := _CHAINED.search(rest):
        if chained[1] in begun:
          continue
        begun.add(chained[1])
      size = _size_bytes(shape)
      if opcode.endswith("-start") and kind != "all-reduce":
        # (operands, results, ...): the results are the larger or equal half.
        arrays = _arrays(shape)
        size = max(_array_bytes(a) for a in arrays)
      if kind == "reduce-scatter":
        size = sum(_size_bytes(computation[o][0])
                   for o in _operands(rest) if o in computation)
      total = found.setdefault(kind, {"count": 0, "bytes": 0})
      total["count"] += times[name]
      total["bytes"] += times[name] * size
  return found


def _parse(text):
  """Returns ({computation: {instruction: (shape, opcode, rest)}}, entry)."""
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      current = computations.setdefault(header[2], {})
      entry = header[2] if header[1] else entry
      continue
    instruction = _INSTRUCTION.match(line)
    if instruction and current is not None:
      current[instruction[1]] = instruction.groups()[1:]
  if entry is None:
    raise ValueError("the text holds no ENTRY computation")
  return computations, entry


def _times(computations, entry, count_loops):
  """Returns how often each computation runs."""
  times = collections.Counter()

  def visit(name, factor):
    times[name] += factor
    for _, opcode, rest in computations[name].values():
      inner = factor
      if opcode == "while" and count_loops:
        inner *= _trips(computations[_CONDITION.search(rest)[1]])
      for names in _CALLED.findall(rest):
        for called in re.findall(r"[\w.\-]+", names):
          if called in computations:
            visit(called, inner)

  visit(entry, 1)
  return times


def _trips(condition):
  """Returns how often a loop with this condition runs."""
  constants = [int(rest.partition(")")[0])
               for shape, opcode, rest in condition.values()
               if opcode == "constant" and shape.startswith("s32[]")]
  if len(constants) != 1:
    raise ValueError(f"a loop's condition compares with {constants}")
  return constants[0]


def _product_flops(instruction, computation):
  shape, opcode, rest = instruction
  if opcode not in ("dot", "convolution"):
    return 0
  out = math.prod(_arrays(shape)[0][1])
  operands = [_operand_dimensions(o, computation) for o in _raw_operands(rest)]
  if opcode == "dot":
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)[1]
    return 2 * out * math.prod(
        operands[0][i] for i in _dimensions(contracted))
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
  kernel = dict(zip(labels[2], operands[1]))
  window = _window(rest)
  flops = 2 * kernel["i"]
  for label, size in zip(labels[3], _arrays(shape)[0][1]):
    if not label.isdigit():
      flops *= size
      continue
    # Along a spatial axis only those pairs count that meet real input:
    # XLA writes batched products as padded and dilated convolutions.
    in_size = operands[0][labels[1].index(label)]
    flops *= _valid_pairs(size, kernel[label], in_size,
                          {k: v[int(label)] for k, v in window.items()})
  return flops


def _window(rest):
  """Returns {"stride": [...], "pad": [...], ...} of a convolution."""
  text = re.search(r"window=\{([^}]*)\}", rest)
  fields = dict(f.split("=") for f in text[1].split()) if text else {}
  size = fields.pop("size", "").split("x")
  window = {"stride": [1] * len(size), "lhs_dilate": [1] * len(size),
            "rhs_dilate": [1] * len(size), "pad": [0] * len(size)}
  for key, value in fields.items():
    if key == "pad":
      window[key] = [int(v.split("_")[0]) for v in value.split("x")]
    elif key in window:
      window[key] = [int(v) for v in value.split("x")]
  return window


def _valid_pairs(out_size, kernel_size, in_size, window):
  """Pairs (output, tap) of one axis that fall on an element of the input."""
  pairs = 0
  for out in range(out_size):
    for tap in range(kernel_size):
      place = (out * window["stride"] - window["pad"]
               + tap * window["rhs_dilate"])
      index, between = divmod(place, window["lhs_dilate"])
      pairs += not between and 0 <= index < in_size
  return pairs


def _raw_operands(rest):
  """Returns the operands' texts: up to the parenthesis that closes them."""
  depth, start, found = 0, 0, []
  for i, letter in enumerate(rest):
    if letter in "([{":
      depth += 1
    elif letter in ")]}":
      if letter == ")" and not depth:
        found.append(rest[start:i])
        break
      depth -= 1
    elif letter == "," and not depth:
      found.append(rest[start:i])
      start = i + 1
  return [o.strip() for o in found if o.strip()]


def _operands(rest):
  return [o.split()[-1].removeprefix("%") for o in _raw_operands(rest)]


def _operand_dimensions(text, computation):
  arrays = _arrays(text)
  if arrays:
    return arrays[0][1]
  return _arrays(computation[text.removeprefix("%")][0])[0][1]


def _arrays(shape):
  return [(dtype, _dimensions(sizes))
          for dtype, sizes in _ARRAY.findall(shape) if dtype in _BYTES]


def _array_bytes(array):
  return _BYTES[array[0]] * math.prod(array[1])


def _size_bytes(shape):
  return sum(map(_array_bytes, _arrays(shape)))


def _dimensions(sizes):
  return tuple(int(s) for s in sizes.split(",") if s)
