"""The chunked head loss against a dense one: value and gradient."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.model import loss
from latemask.model import word_embedding

B, T, D, V, REAL = 8, 7, 16, 128, 100


def _inputs():
  rng = np.random.default_rng(0)
  return (jnp.asarray(rng.normal(size=(B, T, D)), jnp.float32),
          jnp.asarray(rng.normal(size=(V, D)), jnp.float32),
          jnp.asarray(rng.normal(size=V), jnp.float32),
          jnp.asarray(rng.integers(0, REAL, (B, T)), jnp.int32),
          jnp.asarray(rng.integers(0, 2, (B, T)), jnp.float32))


def _dense(hidden, embedding, bias, ids, weights):
  logits = (jnp.einsum("btd,vd->btv", hidden, embedding)
            + bias[None, None])[..., :REAL]
  picked = jnp.take_along_axis(
      jax.nn.log_softmax(logits), ids[..., None], -1)[..., 0]
  hits = jnp.argmax(logits, -1) == ids
  return -jnp.sum(picked * weights), jnp.sum(hits * weights)


def _head_loss(hidden, embedding, *args):
  return loss.head_loss(hidden, word_embedding.per_shard(embedding), *args)


# Targets of a shard, or of a row.
@pytest.mark.parametrize("tokens, chunk", [
    (1, None), (3, None), (7, None), (10, None), (100, None), (None, 1),
    (None, 3), (None, 7), (None, 100)])
def test_chunked_equals_dense(tokens, chunk):
  inputs = _inputs()

  def chunked(*args):
    sums = _head_loss(*args, REAL, tokens, chunk)
    return 3 * sums.loss, sums.correct

  (value, hits), grads = jax.value_and_grad(
      chunked, argnums=(0, 1, 2), has_aux=True)(*inputs)
  (expected, expected_hits), expected_grads = jax.value_and_grad(
      lambda *a: (3 * _dense(*a)[0], _dense(*a)[1]), argnums=(0, 1, 2),
      has_aux=True)(*inputs)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert hits == expected_hits
  for grad, expected_grad in zip(grads, expected_grads):
    np.testing.assert_allclose(grad, expected_grad, atol=2e-5)


def test_without_gradient_the_value_is_the_same():
  inputs = _inputs()
  sums = jax.jit(lambda *a: _head_loss(*a, REAL, 2))(*inputs)
  np.testing.assert_allclose(sums.loss, _dense(*inputs)[0], rtol=1e-6)
  assert sums.weight == inputs[-1].sum()


@pytest.mark.parametrize("chunks", [(3,), (None, 3)])
def test_split_over_devices(chunks):
  inputs = _inputs()
  mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"),
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)

  def value_and_grads(*args):
    return jax.value_and_grad(
        lambda *a: _head_loss(*a, REAL, *chunks).loss, (0, 1, 2))(*args)

  alone = value_and_grads(*inputs)
  with jax.set_mesh(mesh):
    together = jax.jit(value_and_grads)(*inputs)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5,
                                                       rtol=1e-5),
               alone, together)


def test_one_of_equal_logits_is_the_answer():
  """The first, as argmax has it; and none where one is no number."""
  hidden, embedding, bias, _, _ = (0 * x for x in _inputs())
  ids = jnp.tile(jnp.arange(B, dtype=jnp.int32)[:, None], (1, T))
  weights = jnp.ones((B, T))
  sums = _head_loss(hidden, embedding, bias, ids, weights, REAL, 3)
  assert sums.correct == T  # The rows whose target is 0.
  # Of the two largest the first, though not the first of all.
  bias = bias.at[jnp.array([3, 5])].set(1.0)
  sums = _head_loss(hidden, embedding, bias, ids, weights, REAL, 3)
  assert sums.correct == T == _dense(
      hidden, embedding, bias, ids, weights)[1]
  sums = _head_loss(
      hidden, embedding, bias.at[9].set(jnp.nan), ids, weights, REAL, 3)
  assert sums.correct == 0


def test_no_targets_is_no_loss():
  hidden, embedding, bias, ids, weights = _inputs()
  sums = _head_loss(hidden, embedding, bias, ids, weights * 0, REAL, 2)
  assert sums.means == {"loss": 0, "accuracy": 0}


def _rows_of_products(batch, targets, shards, tokens, chunk=None):
  """Returns the targets of a shard in each product with the embedding."""
  def shape(*sizes, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(sizes, dtype)
  found = []
  def look(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name == "dot_general":
        shapes = [v.aval.shape for v in (*equation.invars, *equation.outvars)]
        found.extend(s[1] for s in shapes if len(s) == 3 and s[1] != V)
      for inner in jax.extend.core.jaxprs_in_params(equation.params):
        look(inner)
  look(jax.make_jaxpr(jax.grad(lambda *a: loss.head_loss(
      *a, REAL, tokens, chunk).loss, allow_int=True))(
          shape(batch, targets, D), shape(shards, V, D), shape(V),
          shape(batch, targets, dtype=jnp.int32),
          shape(batch, targets, dtype=jnp.float32)).jaxpr)
  return set(found)


def test_products_have_as_many_rows_whatever_the_length():
  """8,192 tokens a chip, half of them targets, in 64 rows or in one."""
  for length in (128, 1024, 8192):
    rows = 8192 // length
    assert _rows_of_products(rows, length // 2, 1, 1024) == {1024}
    assert _rows_of_products(4 * rows, length // 2, 4, 1024) == {1024}
  # Even where they do not come out even.
  assert _rows_of_products(1, 4100, 1, 1024) == {820}
  # As it was, a row of 8,192 has products of 16 rows.
  assert _rows_of_products(1, 4096, 1, None, 16) == {16}


@pytest.mark.parametrize("targets, chunk, even", [
    (64, 16, 16), (19, 16, 10), (5, 16, 5), (7, 3, 3), (1, 1, 1)])
def test_chunks_are_even(targets, chunk, even):
  """A last chunk of a few targets would cost as much as a full one."""
  assert loss.chunk_targets(targets, chunk) == even
