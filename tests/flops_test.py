"""The closed form against two oracles: the traced step, and XLA."""

import math

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from latemask import flops
from latemask import step as step_lib

VOCAB = 320
OPTIONS = [
    dict(insertion_layer=0),
    dict(architecture="modern", insertion="scatter"),
    dict(decoder="cross", insertion_layer=2),
    dict(decoder="cross", insertion_layer=2, decoder_queries="all"),
]


def _count(jaxpr):
  """FLOPs of all dot_generals of a jaxpr, loops counted out."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      lhs = equation.invars[0].aval.shape
      total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(
          lhs[i] for i in contracted)
    times = equation.params.get("length", 1) if (
        equation.primitive.name == "scan") else 1
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      total += times * _count(inner)
  return total


def _program(config, changes):
  config.model.update(changes)
  config.masking.predict_rate = 0.25
  mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"),
                       devices=jax.devices()[:1],
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)
  return step_lib.build(config, VOCAB, mesh=mesh)


@pytest.mark.parametrize("changes", OPTIONS)
def test_every_matrix_product_is_counted(tiny, changes):
  program = _program(tiny, changes)
  ids = jax.ShapeDtypeStruct((16, 32), jnp.int32)
  with jax.set_mesh(program.mesh):
    traced = jax.make_jaxpr(program._train_step)(program.state_shapes, ids)
  closed = flops.train_step_flops(program.model.config, program.plan)
  assert _count(traced.jaxpr) == 16 * sum(closed.values())


def test_xla_agrees_on_the_unrolled_step(tiny):
  """Up to the elementwise terms, which wide layers make small."""
  tiny.model.update(dict(width=256, mlp=1024, heads=2, unroll=4,
                         loss_chunk=32))
  program = _program(tiny, {})
  ids = jax.ShapeDtypeStruct((16, 32), jnp.int32)
  cost = program.train_step.lower(
      program.state_shapes, ids).compile().cost_analysis()
  closed = 16 * sum(flops.train_step_flops(
      program.model.config, program.plan).values())
  assert 1 < cost["flops"] / closed < 1.08
