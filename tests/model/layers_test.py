"""What layers.py computes on its own: GELU and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.model import parts
from latemask.runtime import rng


def test_gelu_is_exact():
  x = jnp.linspace(-8, 8, 2001)
  np.testing.assert_allclose(
      parts.gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)
  np.testing.assert_allclose(
      jax.vmap(jax.grad(parts.gelu))(x),
      jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False)))(x),
      atol=1e-6)
  assert parts.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("kind", rng.KINDS)
def test_dropout(kind):
  x = jnp.ones((64, 256))
  drop = parts.Dropout(0.25)
  key = jax.random.key(0, impl=rng.KINDS[kind])
  out = drop.apply({}, x, True, rngs={"dropout": key})
  # A share of 0.25, give or take five standard deviations; others scaled up.
  assert abs(float((out == 0).mean()) - 0.25) < 5 * (0.25 * 0.75 / x.size)**.5
  np.testing.assert_allclose(out[out != 0], 1 / 0.75, rtol=1e-6)
  np.testing.assert_array_equal(drop.apply({}, x, False), x)
