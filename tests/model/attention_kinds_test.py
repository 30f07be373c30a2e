"""Every row of the table: one function, and no neighbour is seen."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from latemask.model import attention_kinds
from latemask.model import parts
from latemask.runtime import rng

ROWS, HEADS, SIZE = 2, 2, 8
NO_DROP = parts.Drop(0.0, None)
# Those that run on a CPU, with what equal to rounding means of each.
HERE = {name: 2e-6 for name in attention_kinds.KINDS}
OTHERS = [name for name in HERE if name != "xla"]


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
  """So that short rows have several, the last one not full."""
  monkeypatch.setattr(attention_kinds, "_QUERIES", 16)
  monkeypatch.setattr(attention_kinds, "_CHUNKED", 0)


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
      mixed = attention_kinds.KINDS[kind].attend(
          *qkv, query_segment, key_segment, drop)
      # Of padding nobody reads what it mixes.
      real = (query_segment > 0)[..., None, None]
      weights = jnp.cos(jnp.arange(mixed.size)).reshape(mixed.shape)
      return jnp.sum(jnp.where(real, mixed * weights, 0)), mixed * real
    (_, mixed), grads = jax.value_and_grad(total, has_aux=True)(qkv)
    return mixed, *grads
  return jax.device_get(run(qkv))


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("queries, keys", [(64, 64), (37, 53), (53, 37)])
def test_values_and_gradients_are_those_of_xla(kind, queries, keys):
  inputs = _inputs(queries, keys)
  for expected, found in zip(_run("xla", inputs), _run(kind, inputs)):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=HERE[kind] * 10)


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


@pytest.mark.parametrize("kind", HERE)
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


@pytest.mark.parametrize("queries", [64, 37])
def test_chunked_drops_what_xla_drops(queries):
  """To the bit: with weights that are all alike, and values that name keys."""
  keys = 24
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
  """Of 64 blocks in bfloat16, not the rounding of 64 sums."""
  inputs = _inputs(1024, 16, dtype=jnp.bfloat16)
  exact = _run("xla", _as(inputs, np.float32))
  for kind in ("xla", "chunked"):
    for expected, found in zip(exact, _run(kind, inputs)):
      error = np.abs(found.astype(np.float32) - expected).max()
      assert error < 0.02 * np.abs(expected).max(), kind


def _as(inputs, dtype):
  return *(np.asarray(x, dtype) for x in inputs[:3]), *inputs[3:]


@pytest.mark.parametrize("kind", [name for name in HERE if name != "xla"])
def test_no_array_holds_all_scores(kind):
  """Of 512 queries and 256 keys, neither forward nor backward."""
  def arrays(kind):
    inputs = _inputs(512, 256)
    text = jax.jit(jax.grad(lambda q: attention_kinds.KINDS[kind].attend(
        q, *inputs[1:], NO_DROP).sum())).lower(inputs[0]).as_text()
    return "512x256x" in text
  assert arrays("xla")
  assert not arrays(kind)


@pytest.mark.parametrize("kind", OTHERS)
def test_devices_change_nothing(kind):
  """Rows split over (data, fsdp), heads over tensor."""
  mesh = jax.make_mesh((1, 2, 2), ("data", "fsdp", "tensor"),
                       devices=jax.devices()[:4],
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)
  inputs = _inputs(40, 40)
  run = jax.jit(lambda *inputs: attention_kinds.KINDS[kind].attend(
      *inputs, NO_DROP))
  whole = run(*inputs)
  spec = P(("data", "fsdp"), None, "tensor")
  with jax.set_mesh(mesh):
    split = jax.jit(run.__wrapped__)(*(
        jax.device_put(x, NamedSharding(mesh, spec if x.ndim == 4 else P(
            ("data", "fsdp")))) for x in inputs))
  np.testing.assert_allclose(split, whole, atol=1e-6)
