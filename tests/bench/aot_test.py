"""The train step compiled for TPUs that are not there; needs libtpu."""

import concurrent.futures
import json
import math
import multiprocessing
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import base
from configs import modern
from latemask.bench import aot
from latemask.bench import hlo
from latemask.data.tokenizers import specials
from latemask.model import flops
from latemask.runtime import mesh as mesh_lib
from latemask.train import step as step_lib

ROWS = 32


@pytest.fixture(autouse=True)
def no_flags(monkeypatch):
  """libtpu reads them too, and ends a process over those of a CPU."""
  monkeypatch.setenv("XLA_FLAGS", "")


def _compile(config, topology, step="train", rows=ROWS):
  """Returns (what the tool prints, compiled text, XLA's count of FLOPs).

  In a process of its own: libtpu stays loaded, and has crashed a process that
  went on to save checkpoints.
  """
  pytest.importorskip("libtpu")
  with concurrent.futures.ProcessPoolExecutor(
      1, multiprocessing.get_context("spawn")) as pool:
    return pool.submit(_compile_here, config, topology, step, rows).result()


def _compile_here(config, topology, step, rows):
  program, compiled, secs = aot.compile_step(
      config, aot.devices_of(topology), rows, step)
  return (aot.describe(program, compiled, secs, step), compiled.as_text(),
          compiled.cost_analysis()["flops"])


def _assert_no_logits(program, text):
  """No array holds the logits of all targets of a chip."""
  c, targets = program.model.config, ROWS * program.plan.num_targets
  for dtype, shape in hlo.shapes(text):
    for vocab in (c.vocab_size, c.padded_vocab_size):
      if vocab in shape:
        assert math.prod(shape) // vocab < targets, (dtype, shape)


def _tiny():
  config = base.get_config("tiny")
  # Wide enough that no other axis is as long as the vocabulary.
  config.data.vocab_size = 1900
  return config


@pytest.mark.ci
@pytest.mark.long
def test_tiny_compiles():
  found, text, xla_flops = _compile(_tiny(), "v5e:2x2")
  program = step_lib.build(_tiny(), specials.trained(1900))
  _assert_no_logits(program, text)
  with pytest.raises(AssertionError):
    _assert_no_logits(program, f"f32[{ROWS},64,1920]")
  json.dumps(found)
  assert found["chip"] == "TPU v5 lite"
  assert found["chips"] == 4
  assert found["mesh"] == {"data": 4, "fsdp": 1, "tensor": 1}
  assert found["rows_per_chip"] == ROWS
  # Attention's products run twice; at this width they are a large share.
  assert 1 <= found["flops_per_chip"] / found[
      "closed_form_flops_per_chip"] < 1.1
  # Loops counted once, XLA agrees, but for what is no product.
  assert 1 < xla_flops / hlo.matmul_flops(text, count_loops=False) < 1.5
  # Every gradient is reduced: kernels of layers as bfloat16, others whole.
  params = program.state_shapes.params
  size = 2 * sum(flops.parameters(params).values())
  assert size <= found["collectives"]["all-reduce"]["bytes"] < 2.5 * size
  assert found["hbm"]["total"] < found["hbm"]["capacity"]


# Topology, mesh.data and mesh.fsdp and mesh.tensor.
MESHES = [("v5e-8", (8, 1, 1)), ("v6e-16", (2, 8, 1)), ("v6e-16", (8, 2, 1)),
          ("v4-128", (32, 1, 2)), ("v4-128", (8, 4, 2)),
          ("2xv5e-16", (32, 1, 1)), ("2xv5e-16", (1, 32, 1)),
          ("2xv5e-16", (4, 2, 4)), ("4xv5e-8", (2, 16, 1))]


def _meshes():
  """Returns, of each, the slices of the devices along each axis."""
  found = []
  for topology, sizes in MESHES:
    config = _tiny()
    config.mesh.update(dict(zip(mesh_lib.AXES, sizes)))
    devices = mesh_lib.make_mesh(config, aot.devices_of(topology)).devices
    assert devices.shape == sizes
    slice_of = np.vectorize(
        lambda device: getattr(device, "slice_index", 0) or 0)(devices)
    assert len(set(devices.flat)) == devices.size
    found.append(slice_of.tolist())
  return found


@pytest.mark.slow
def test_every_mesh_that_multiplies_is_there():
  """On slices of other shapes; and tensor never crosses two slices."""
  pytest.importorskip("libtpu")
  with concurrent.futures.ProcessPoolExecutor(
      1, multiprocessing.get_context("spawn")) as pool:
    found = pool.submit(_meshes).result()
  for (topology, _), slice_of in zip(MESHES, found):
    slice_of = np.array(slice_of)
    assert (slice_of == slice_of[..., :1]).all()
    each = np.bincount(slice_of.flat)
    assert len(each) == int(topology[0] if topology[0] != "v" else 1)
    assert (each == each[0]).all()
    # A slice is one block along the axes that it is split over.
    if topology == "2xv5e-16" and slice_of.shape[0] > 1:
      assert (np.diff(slice_of[:, 0, 0]) >= 0).all()


@pytest.mark.long
def test_two_slices_compile():
  found, _, _ = _compile(_tiny(), "2xv5e:2x2")
  assert found["chips"] == 8 and found["mesh"]["data"] == 8


@pytest.mark.long
def test_eval_step_compiles_on_another_chip():
  found, _, _ = _compile(_tiny(), "v4-8", "eval")
  assert found["chip"] == "TPU v4"
  assert found["chips"] == 4
  # A third of a train step, less the gradient of the head's bias.
  assert 0.99 < found["flops_per_chip"] / found[
      "closed_form_flops_per_chip"] < 1.02


def _assert_no_scores(text, length=4096):
  """No array holds the scores of `length` queries among as many keys."""
  for dtype, shape in hlo.shapes(text):
    assert len(shape) < 2 or min(shape[-2:]) < length, (dtype, shape)


@pytest.mark.long
@pytest.mark.parametrize("attention", ["chunked", "splash"])
def test_long_rows_hold_no_scores(attention):
  """8,192 tokens a chip, half of them kept: one row of the train step."""
  config = _tiny()
  config.data.length = config.model.max_length = 8192
  config.model.update(attention=attention, attention_dropout=0.0)
  found, text, _ = _compile(config, "v5e:2x2", rows=1)
  _assert_no_scores(text)
  with pytest.raises(AssertionError):
    _assert_no_scores("f32[1,2,4096,8192]")
  # Forward, and backward to queries and to keys, of the loop and two late
  # layers: none runs twice.
  assert text.count('custom_call_target="tpu_custom_call"') == (
      9 if attention == "splash" else 0)
  if attention == "chunked":  # One product of six is computed once more.
    program = step_lib.build(config, specials.trained(1900))
    again = flops.attention_flops(program.model.config, program.plan) / 6
    assert found["flops_per_chip"] == pytest.approx(
        found["closed_form_flops_per_chip"] + again, rel=2e-3)
  assert found["hbm"]["temporaries"] < 2**30


@pytest.mark.long
@pytest.mark.parametrize("size", [
    pytest.param("tiny", marks=pytest.mark.ci), "base"])
def test_modern_at_8192_holds_no_scores(size):
  """Local layers and splash: nor more memory than short rows take."""
  config = modern.get_config(size)
  config.data.length = 8192
  found, text, _ = _compile(config, "v5e:2x2", rows=1)
  _assert_no_scores(text)
  assert 'custom_call_target="tpu_custom_call"' in text
  if size == "base":
    config.data.length = 128
    short, _, _ = _compile(config, "v5e:2x2", rows=64)
    assert 1 < short["flops_per_chip"] / short[
        "closed_form_flops_per_chip"] < 1.03
    assert found["hbm"]["temporaries"] < 1.3 * short["hbm"]["temporaries"]


@pytest.mark.long
@pytest.mark.parametrize("size, changes, rows, temporaries_gib", [
    # A gated MLP keeps 1,024 numbers more of each token: 1.095 GiB, where
    # RoBERTa's layers take 1.01.
    ("base", {}, 32, 1.10),
    ("base", {"architecture": "roberta_prenorm", "mlp": 3072}, 32, 1.02),
    ("large", {}, 64, None)], ids=["base", "base_of_roberta", "large"])
def test_real_sizes_compile(size, changes, rows, temporaries_gib):
  config = base.get_config(size)
  config.model.update(changes)
  found, text, _ = _compile(config, "v5e:2x2", rows=rows)
  _assert_no_logits(step_lib.build(config, specials.trained(config.data.vocab_size)), text)
  assert 1 <= found["flops_per_chip"] / found[
      "closed_form_flops_per_chip"] < 1.01
  assert found["hbm"]["total"] < found["hbm"]["capacity"]
  if temporaries_gib:
    assert found["hbm"]["temporaries"] < temporaries_gib * 2**30


def _update_here(topology, rows):
  """Compiles Muon's update at base size; returns (flops, whole, step, text)."""
  config = base.get_config("base")
  config.optimizer.name = "muon"
  devices = aot.devices_of(topology)
  config.train.batch_size = rows * len(devices)
  program = step_lib.build(config, mesh=mesh_lib.make_mesh(config, devices))
  state, shardings = program.state_shapes, program.state_shardings
  with jax.set_mesh(program.mesh):
    text = jax.jit(
        program.optimizer.update, out_shardings=(
            shardings.params, shardings.opt_state), donate_argnums=1).lower(
                state.params, state.opt_state, state.params
            ).compile().as_text()
  return (hlo.matmul_flops(text), program.update_flops,
          program.step_flops / len(devices), hlo.collectives(text))


@pytest.mark.long
@pytest.mark.parametrize("topology, most", [
    pytest.param("v5e-8", 0.10, marks=pytest.mark.ci), ("v5e-64", 0.03)])
def test_muon_does_not_repeat_itself(topology, most):
  """Each chip has its share; nothing moves but the two stacks, at the end."""
  pytest.importorskip("libtpu")
  with concurrent.futures.ProcessPoolExecutor(
      1, multiprocessing.get_context("spawn")) as pool:
    found, whole, step, collectives = pool.submit(
        _update_here, topology, 64).result()
  chips = int(topology.partition("-")[2])
  assert whole / chips <= found < 1.5 * whole / chips
  assert found < most * step
  assert collectives.keys() == {"all-gather"}
  assert collectives["all-gather"]["count"] == 2  # 768 x 768 and 768 x 2048.


@pytest.mark.slow
@pytest.mark.parametrize("arguments, message", [
    (["--config", "configs/base.py:huge", "--topology", "v5e:2x2"],
     "tiny, small, base, large"),
    (["--config", "configs/none.py", "--topology", "v5e:2x2"],
     "no config file"),
    (["--config", "configs/base.py", "--topology", "v9-8"], "v4, v5p, v5e"),
    (["--config", "configs/base.py", "--topology", "v5e-9"], "1, 4, 8, 16"),
    (["--config", "configs/base.py", "--topology", "v5e:2x2",
      "--rows_per_chip", "0"],
     "argument --rows_per_chip: '0' is no whole number of at least 1"),
])
def test_bad_commands(arguments, message):
  done = subprocess.run(
      [sys.executable, "-m", "latemask.bench.aot", *arguments],
      capture_output=True, text=True)
  assert done.returncode == 2
  assert message in done.stderr.splitlines()[-1]
  assert "Traceback" not in done.stderr


@pytest.mark.parametrize("topology", ["v5e:3x2", "v7", "nothing"])
def test_unknown_topologies(topology):
  pytest.importorskip("libtpu")
  test_bad_commands(
      ["--config", "configs/base.py", "--topology", topology], topology)


def test_next_rows_finds_the_capacity():
  """Fits below 200 rows: doubling, then the straight line, then neighbours."""
  sizes, too_many, rows, tries = {}, None, 32, 0
  while rows:
    tries += 1
    if rows <= 200:
      sizes[rows] = 1000 + 10 * rows
    else:
      too_many = rows
    rows = aot._next_rows(sizes, too_many, 3000)
  assert max(sizes) == 200
  assert too_many == 208
  assert tries < 8
