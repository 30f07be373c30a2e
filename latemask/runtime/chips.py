"""What is known of a chip: FLOP/s, memory, slices by name."""

import jax

from latemask import errors

# HBM of a chip in GiB, and what XLA lets a program have of it.
_HBM_GIB = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}
_RESERVED_GIB = 0.25

# Slices by the names under which they are rented: generation, number ->
# topology. The number counts cores for v4 and v5p, two a chip, else chips.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8",
         128: "8x16", 256: "16x16"}
_CUBIC = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4",
          256: "4x4x8", 512: "4x8x8"}
SLICES = {"v4": _CUBIC, "v5p": _CUBIC, "v5e": _FLAT, "v6e": _FLAT}
# Two cores of a chip as one device, as jax sees them on the chip.
OPTIONS = {"v4": {"chip_config_name": "megacore"}, "v5e": {},
           "v5p": {"chip_config_name": "megacore"}, "v6e": {}}


def capacity_bytes(kind):
  """Returns the memory that a program may fill, of a chip by its kind."""
  gib = errors.choose(_HBM_GIB, kind, "device kind")
  return int((gib - _RESERVED_GIB) * 2**30)

# Dense bfloat16 FLOP/s of one device by jax's device_kind; vendors' data
# sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}

# What a device draws at most; data sheets, and of TPU v4 what was measured
# (Jouppi et al., arXiv 2304.01433). Of other TPUs nothing is published.
WATTS = {
    "TPU v4": 192,
    "NVIDIA A100-SXM4-80GB": 400,
    "NVIDIA H100 80GB HBM3": 700,
    "NVIDIA H200": 700,
}


def peak_flops():
  """Returns the FLOP/s of all devices; None where the chip is not known."""
  return _of_all(PEAK_FLOPS)


def watts():
  """Returns what all devices draw at most; None where it is not known."""
  return _of_all(WATTS)


def _of_all(table):
  """Returns what a table has of a device, times the devices, or None."""
  one = table.get(jax.devices()[0].device_kind)
  return one and one * jax.device_count()
