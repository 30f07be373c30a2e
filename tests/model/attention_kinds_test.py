"""Every row of the table: one function, and no neighbour is seen."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from latemask.bench import hlo
from latemask.checkpoint import checkpoints
from latemask.data import loader as loader_lib
from latemask.data import packed_set
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.model import architecture
from latemask.model import attention_kinds
from latemask.model import chunked
from latemask.model import cudnn
from latemask.model import encoder
from latemask.model import flops
from latemask.model import parts
from latemask.model import splash
from latemask.runtime import mesh as mesh_lib
from latemask.runtime import rng
from latemask.runtime import workdir
from latemask.train import check as check_lib
from latemask.train import run as run_lib
from latemask.train import step as step_lib
from tests import conftest

ROWS, HEADS, SIZE = 2, 2, 8
NO_DROP = parts.Drop(0.0, None)
KINDS = attention_kinds.KINDS
# How those for other platforms are computed on a CPU.
STAND_INS = {
    "splash": KINDS["splash_interpret"].attend,
    "cudnn": lambda *args: cudnn.attend(*args[:-1], implementation="xla")}
OTHERS = ["chunked", "splash", "cudnn", "auto"]
# Splash, interpreted, takes seconds to compile: where others have more cases
# it has fewer.
LENGTHS = [(kind, lengths) for lengths in ((37, 53), (64, 37))
           for kind in OTHERS if kind != "splash"] + [("splash", (150, 37))]


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
  """So that short rows have several, the last one not full."""
  monkeypatch.setattr(chunked, "_QUERIES", 16)
  monkeypatch.setattr(attention_kinds, "_CHUNKED", 0)
  monkeypatch.setattr(splash, "_BLOCKS", (128,))


def _attend(kind, *args):
  return STAND_INS.get(kind, KINDS[kind].attend)(*args)


def _inputs(queries, keys, seed=0, dtype=np.float32):
  """Returns (q, k, v, segments of both); three documents, then padding."""
  r = np.random.default_rng(seed)
  draw = lambda length: r.normal(size=(ROWS, length, HEADS, SIZE)).astype(dtype)
  def segments(length):
    return np.tile(np.where(np.arange(length) < length - 3, 1 + np.arange(
        length) * 3 // length, 0), (ROWS, 1)).astype(np.int32)
  return (draw(queries), draw(keys), draw(keys), segments(queries),
          segments(keys))


def _run(kind, inputs, drop=NO_DROP):
  """Returns (mixed, gradients to q, k and v) of a kind."""
  *qkv, query_segment, key_segment = inputs

  @jax.jit
  def run(qkv):
    def total(qkv):
      mixed = _attend(kind, *qkv, query_segment, key_segment, drop)
      # Of padding nobody reads what it mixes.
      real = (query_segment > 0)[..., None, None]
      weights = jnp.cos(jnp.arange(mixed.size)).reshape(mixed.shape)
      return jnp.sum(jnp.where(real, mixed * weights, 0)), mixed * real
    (_, mixed), grads = jax.value_and_grad(total, has_aux=True)(qkv)
    return mixed, *grads
  return jax.device_get(run(qkv))


@pytest.mark.parametrize("kind, lengths", LENGTHS)
def test_values_and_gradients_are_those_of_xla(kind, lengths):
  """As many queries as keys, fewer, and more; no multiples of any block."""
  inputs = _inputs(*lengths)
  for expected, found in zip(_run("xla", inputs), _run(kind, inputs)):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_of_queries_that_see_nothing_chunked_says_what_xla_says():
  """The mean of all values, and no gradient to scores."""
  *qkv, query_segment, key_segment = _inputs(37, 24)
  inputs = (*qkv, query_segment, np.where(key_segment == 2, 1, key_segment))
  found = _run("chunked", inputs)
  for expected, other in zip(_run("xla", inputs), found):
    np.testing.assert_allclose(other, expected, atol=2e-5)
  assert not found[1][query_segment == 2].any()


def test_cudnn_is_asked_as_jax_says(monkeypatch):
  """The call that a GPU would be given: even lengths, a mask, no scale."""
  asked = []
  def call(q, k, v, **options):
    asked.append((q.shape, k.shape, v.shape, options))
    return q
  monkeypatch.setattr(jax.nn, "dot_product_attention", call)
  mixed = KINDS["cudnn"].attend(*_inputs(37, 53), NO_DROP)
  (q, k, v, options), = asked
  assert mixed.shape == (ROWS, 37, HEADS, SIZE)
  assert (q, k, v) == ((ROWS, 40, HEADS, SIZE), *[(ROWS, 56, HEADS, SIZE)] * 2)
  assert options["implementation"] == "cudnn" and options["scale"] == 1
  assert set(options) == {"mask", "scale", "implementation"}
  assert options["mask"].shape == (ROWS, 1, 40, 56)
  assert options["mask"].dtype == bool
  # Real queries see no filler.
  assert not options["mask"][:, :, :37, 53:].any()


def test_xla_is_attention():
  """Against softmax by NumPy, query for query."""
  q, k, v, query_segment, key_segment = inputs = _inputs(7, 11)
  mixed = _run("xla", inputs)[0]
  for row, query, head in np.ndindex(ROWS, 7, HEADS):
    sees = key_segment[row] == query_segment[row, query]
    weights = np.exp(k[row, sees, head] @ q[row, query, head])
    expected = weights @ v[row, sees, head] / weights.sum()
    if query_segment[row, query]:
      np.testing.assert_allclose(mixed[row, query, head], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["xla", *OTHERS])
def test_no_document_sees_its_neighbours(kind):
  """Others of everything in document 2 change nothing in 1 and 3, no bit."""
  inputs, other = _inputs(50, 40), _inputs(50, 40, seed=1)
  changed = [np.where((segment == 2)[..., None, None], new, old)
             for old, new, segment in zip(
                 inputs, other, (inputs[3], inputs[4], inputs[4]))]
  found = _run(kind, inputs)
  found_changed = _run(kind, (*changed, *inputs[3:]))
  for one, two, segment in zip(
      found, found_changed, (inputs[3], inputs[3], inputs[4], inputs[4])):
    np.testing.assert_array_equal(one[segment != 2], two[segment != 2])
    assert np.any(one[segment == 2] != two[segment == 2])


def test_chunked_drops_what_xla_drops():
  """To the bit: with weights that are all alike, and values that name keys."""
  queries, keys = 37, 24
  drop = parts.Drop(0.3, jax.random.key(0, impl=rng.KINDS["hash"]))
  q = np.zeros((ROWS, queries, HEADS, keys), np.float32)
  v = np.tile(np.eye(keys, dtype=np.float32)[None, :, None], (
      ROWS, 1, HEADS, 1))
  segments = [np.ones((ROWS, n), np.int32) for n in (queries, keys)]
  found = [_run(kind, (q, v, v, *segments), drop) for kind in (
      "xla", "chunked")]
  np.testing.assert_array_equal(found[0][0] > 0, found[1][0] > 0)
  assert 0.6 < (found[0][0] > 0).mean() < 0.8
  inputs = _inputs(queries, keys)
  for expected, found in zip(_run("xla", inputs, drop),
                             _run("chunked", inputs, drop)):
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_chunked_drops_with_any_generator():
  """Then not the same weights, but as many."""
  drop = parts.Drop(0.3, jax.random.key(0))
  q = np.zeros((ROWS, 64, HEADS, 24), np.float32)
  v = np.tile(np.eye(24, dtype=np.float32)[None, :, None], (ROWS, 1, HEADS, 1))
  segments = [np.ones((ROWS, n), np.int32) for n in (64, 24)]
  kept = _run("chunked", (q, v, v, *segments), drop)[0] > 0
  assert abs(kept.mean() - 0.7) < 5 * (0.3 * 0.7 / kept.size)**0.5
  assert not np.array_equal(kept[:, :16], kept[:, 16:32])


def test_gradients_of_chunks_are_summed_in_float32():
  """Of 64 blocks in bfloat16: each is rounded once more, not their sums.

  Summed in bfloat16, the errors are 2.5 times those of xla.
  """
  inputs = _inputs(1024, 16, dtype=jnp.bfloat16)
  exact = _run("xla", (*(np.asarray(x, np.float32) for x in inputs[:3]),
                       *inputs[3:]))
  errors_of = {kind: [
      np.sqrt(np.mean(np.square(found.astype(np.float32) - expected)))
      for expected, found in zip(exact[2:], _run(kind, inputs)[2:])]
               for kind in ("xla", "chunked")}
  assert np.all(np.array(errors_of["chunked"]) < 1.8 * np.array(
      errors_of["xla"])), errors_of


def test_no_array_holds_all_scores():
  """Of 512 queries and 256 keys, neither forward nor backward.

  What splash holds is looked at where it is compiled, bench/aot_test.py.
  """
  def holds(kind):
    inputs = _inputs(512, 256)
    return "512x256x" in jax.jit(jax.grad(lambda q: _attend(
        kind, q, *inputs[1:], NO_DROP).sum())).lower(inputs[0]).as_text()
  assert holds("xla") and holds("cudnn")  # See cudnn.py.
  assert not holds("chunked") and not holds("auto")


def test_memory_of_chunked_is_linear_in_a_loop_over_layers(monkeypatch):
  """Nothing of all blocks is kept: not who sees whom, and no random bits."""
  monkeypatch.setattr(chunked, "_QUERIES", 64)
  drop = parts.Drop(0.3, jax.random.key(0, impl=rng.KINDS["hash"]))

  def temporaries(length):
    inputs = _inputs(length, length)
    def total(q):
      def layer(q, key):
        mixed = chunked.attend(q, *inputs[1:], parts.Drop(drop.rate, key))
        return mixed, None
      return jax.lax.scan(layer, q, jax.random.split(drop.key, 3))[0].sum()
    return jax.jit(jax.grad(total)).lower(
        inputs[0]).compile().memory_analysis().temp_size_in_bytes
  assert temporaries(2048) < 2.2 * temporaries(1024)


@pytest.mark.parametrize("kind", OTHERS)
def test_devices_change_nothing(kind):
  """Rows split over (data, fsdp), heads over tensor: nothing moves, nor back.
  """
  mesh = jax.make_mesh((1, 2, 2), mesh_lib.AXES, devices=jax.devices()[:4],
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)
  inputs = _inputs(40, 40)

  def mix(*inputs):
    def total(qkv):
      mixed = _attend(kind, *qkv, *inputs[3:], NO_DROP)
      return jnp.sum(jnp.sin(mixed)), mixed
    grads, mixed = jax.grad(total, has_aux=True)(inputs[:3])
    return mixed, *grads

  with jax.set_mesh(mesh):
    split = [jax.device_put(x, NamedSharding(mesh, P(
        mesh_lib.BATCH_AXES, None, "tensor") if x.ndim == 4 else P(
            mesh_lib.BATCH_AXES))) for x in inputs]
    compiled = jax.jit(mix).lower(*split).compile()
    found = compiled(*split)
  assert not hlo.collectives(compiled.as_text())
  for one, two in zip(found, jax.jit(mix)(*inputs)):
    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("case, kind", [
    (("tpu", 512, 512, jnp.bfloat16, False), "splash"),
    (("tpu", 511, 512, jnp.bfloat16, False), "xla"),
    (("tpu", 512, 512, jnp.bfloat16, True), "xla"),
    (("tpu", 1024, 1024, jnp.float32, False), "chunked"),
    (("tpu", 8192, 8192, jnp.bfloat16, True), "chunked"),
    (("cpu", 512, 2048, jnp.bfloat16, False), "chunked"),
    (("cpu", 512, 2047, jnp.float32, True), "xla"),
    (("gpu", 8192, 8192, jnp.bfloat16, False), "chunked")])
def test_auto(monkeypatch, case, kind):
  monkeypatch.undo()
  assert attention_kinds.choose(*case) == kind


@pytest.mark.parametrize("kind, wasted", [
    ("xla", []), ("chunked", []),
    ("splash", [((64, 4096), (128, 4096), 0.5),
                ((64, 64), (128, 128), 0.75),
                ((4097, 4097), (4224, 4224), 1 - 4097**2 / 4224**2)]),
    ("cudnn", [((4097, 4097), (4104, 4104), 1 - 4097**2 / 4104**2)])])
def test_waste_of_padding(tiny, kind, wasted):
  tiny.model.attention = kind
  config = encoder.make_model(tiny, 320).config
  assert list(attention_kinds.wasted(
      config, [(64, 4096), (64, 64), (4096, 4096), (4097, 4097)],
      KINDS[kind].platform)) == wasted


def test_a_run_says_what_padding_costs(tiny_run, capsys):
  tiny_run.model.attention = "splash_interpret"
  program = step_lib.build(tiny_run, specials.trained(320), mesh=jax.make_mesh(
      (1, 1, 1), mesh_lib.AXES, devices=jax.devices()[:1]))
  loader = loader_lib.Loader(
      packed_set.load(tiny_run, tiny_run.data.dir), tiny_run)
  run_lib.introduce(program, loader, checkpoints.Progress(
      step_lib.TrainState(0, {}, ())))
  lines = capsys.readouterr().out.splitlines()
  # Early layers, and the late one, which computes targets alone.
  assert [line for line in lines if "attention pads" in line] == [
      f"attention pads {size} tokens to 128 x 128: {share} of the scores are "
      "computed for nothing" for size, share in (
          ("16 x 16", 0.98), ("16 x 32", 0.97))]


def test_what_is_wasted_with_auto(tiny):
  """As if on a TPU: short rows are xla's, whole blocks waste nothing."""
  tiny.model.update(attention="auto", dtype="bfloat16")
  config = encoder.make_model(tiny, 320).config
  sizes = [(n, n) for n in (600, 64, 1024)]
  assert list(attention_kinds.wasted(config, sizes, "tpu")) == [
      ((600, 600), (640, 640), 1 - 600**2 / 640**2)]
  assert not list(attention_kinds.wasted(config, sizes, "cpu"))


@pytest.mark.parametrize("name, changes, sizes", [
    ("base", {}, [(64, 64), (64, 128), (128, 128)]),
    # Its late layer reads the kept tokens and the slots of the targets.
    ("lean", {"data.length": 1280, "model.max_length": 2048},
     [(480, 1120), (640, 640)]),
    ("cross", {"data.length": 1000, "model.max_length": 1024,
               "masking.predict_rate": 0.375},
     [(375, 375), (375, 500), (500, 500)])])
def test_sizes_are_those_that_layers_read(name, changes, sizes):
  config = importlib.import_module(f"configs.{name}").get_config("base")
  config.update_from_flattened_dict(changes)
  model = encoder.make_model(config, 320)
  plan = plan_lib.make_plan(config, specials.trained(320))
  assert flops.global_attentions(model.config, plan) == sizes


@pytest.mark.parametrize("changes, platform, message", [
    (dict(attention="splash"), "cpu",
     "model.attention splash runs on a TPU, and there is a CPU here; take auto "
     "(or, for a test, splash_interpret)"),
    (dict(attention="cudnn"), "tpu",
     "model.attention cudnn runs on a GPU, and there is a TPU here; take auto"),
    (dict(attention="splash", attention_dropout=0.1), "tpu",
     "model.attention splash cannot drop attention weights: set "
     "model.attention_dropout 0.1 to 0, or take chunked"),
    (dict(attention="splash_interpret", attention_dropout=0.1), "cpu",
     "model.attention splash_interpret cannot drop"),
    (dict(attention="cudnn", attention_dropout=0.1), "gpu",
     "model.attention cudnn cannot drop"),
    (dict(attention="splash"), "tpu",
     "model.attention splash multiplies in bfloat16, and model.dtype is "
     "float32; take chunked, or bfloat16"),
    (dict(attention="cudnn", dtype="bfloat16", width=24), "gpu",
     "model.width 24 / model.heads 2 is 12; model.attention cudnn takes heads "
     "of a multiple of 8, at most 128"),
])
def test_what_cannot_be_is_refused(tiny, changes, platform, message):
  tiny.model.update(changes)
  config = encoder.make_model(tiny, 320).config
  with pytest.raises(errors.InputError) as refused:
    attention_kinds.check(config, platform)
  assert message in str(refused.value) and "\n" not in str(refused.value)
  # What is advised instead can be.
  for attention in ("xla", "chunked", "auto"):
    tiny.model.attention = attention
    attention_kinds.check(encoder.make_model(tiny, 320).config, platform)


def _gradient(tiny, kind, shape):
  """Returns (loss sum, gradient) of the step on a mesh of a shape."""
  tiny.model.attention = kind
  devices = jax.devices()[:int(np.prod(shape))]
  mesh = jax.make_mesh(shape, mesh_lib.AXES, devices=devices, axis_types=(
      jax.sharding.AxisType.Auto,) * 3)
  program = step_lib.build(tiny, specials.trained(320), mesh=mesh)
  state = jax.tree.map(lambda s: np.random.default_rng(0).normal(
      size=s.shape).astype(s.dtype) * 0.1, program.state_shapes.params)

  def gradient(params, ids_BxL):
    masked = selection.mask_batch(
        program.plan, jax.random.key(0), jnp.arange(len(ids_BxL)), ids_BxL)
    return program.gradient(params, masked, jax.random.key(
        1, impl=rng.KINDS["hash"]))
  with jax.set_mesh(mesh):
    grads, sums = jax.jit(gradient, in_shardings=(
        program.state_shardings.params, program.batch_sharding))(
            state, conftest.random_rows(4, 32))
  return jax.device_get((sums, grads))


@pytest.mark.slow
@pytest.mark.parametrize("kind, changes", [
    ("chunked", dict(attention_dropout=0.2)),
    ("splash_interpret", dict(decoder="cross"))])
def test_models_are_the_same_on_a_mesh(tiny, kind, changes):
  """Kept tokens, slots, last layers of targets alone, memories, fillers."""
  tiny.model.update(changes)
  tiny.masking.random_rate = tiny.masking.same_rate = 0.1
  tiny.train.batch_size = 4
  tiny.model.layers, tiny.model.insertion_layer = 2, 1
  expected = _gradient(tiny, "xla", (1, 1, 1))
  found = _gradient(tiny, kind, (1, 2, 2))
  assert all(np.any(g) for path, g in jax.tree_util.tree_leaves_with_path(
      expected[1]["late"]))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      b, a, atol=1e-4 * max(1, np.abs(a).max())), expected, found)


@pytest.mark.parametrize("decoder", ["self", "cross"])
def test_a_run_begins_on_several_shards(tiny, decoder):
  """Where rows are laid out by hand, making parameters needs one a shard."""
  tiny.model.attention, tiny.model.decoder = "splash_interpret", decoder
  program = step_lib.build(tiny, specials.trained(320), mesh=jax.make_mesh(
      (2, 2, 1), mesh_lib.AXES, devices=jax.devices()[:4],
      axis_types=(jax.sharding.AxisType.Auto,) * 3))
  with jax.set_mesh(program.mesh):
    begun = jax.eval_shape(program._init)
  assert jax.tree.map(jnp.shape, begun) == jax.tree.map(
      jnp.shape, program.state_shapes)


def test_what_cannot_be_is_refused_before_anything_is_written(tiny, tmp_path):
  tiny.model.attention = "splash"
  with pytest.raises(errors.InputError, match="splash runs on a TPU"):
    check_lib.check(tiny, tmp_path / "run")
  assert not list(tmp_path.iterdir())


def test_a_run_may_change_its_kind(tiny, tmp_path):
  """And what was learned with a kernel is used without it."""
  workdir.write_config(tiny, tmp_path)
  tiny.model.attention = "chunked"
  workdir.compare_config(tiny, tmp_path)
  fields = dataclasses.asdict(encoder.make_model(tiny, 320).config)
  fields["attention"] = "splash"
  assert architecture.config_of(fields, "a file").attention == "auto"
