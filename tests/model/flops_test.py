"""The closed form against two oracles: the traced step, and XLA."""

import math

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from configs import base
from configs import lean
from configs import modern
from configs import vanilla
from latemask.data.tokenizers import specials
from latemask.masking import plan as plan_lib
from latemask.model import encoder
from latemask.model import flops
from latemask.runtime import mesh as mesh_lib
from latemask.train import step as step_lib

VOCAB = 320
OPTIONS = [
    dict(insertion_layer=0),
    dict(architecture="modern", insertion="scatter"),
    dict(decoder="cross", insertion_layer=2),
    dict(decoder="cross", insertion_layer=2, decoder_queries="all"),
    # Local layers: 16 kept tokens in blocks of 4; 32 in five of 7, late; the
    # last one of all.
    dict(architecture="modern", global_every=3, local_window=8),
    dict(architecture="modern", global_every=3, local_window=14, layers=7,
         insertion_layer=4, insertion="scatter"),
    dict(architecture="modern", global_every=2, local_window=8,
         insertion_layer=0, insertion="scatter"),
]


def _count(jaxpr, batched=False):
  """FLOPs of all dot_generals of a jaxpr, loops counted out.

  Args:
    batched: of those alone that multiply many pairs of matrices.
  """
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), (batch, _) = equation.params["dimension_numbers"]
      lhs = equation.invars[0].aval.shape
      total += (len(batch) > 1 or not batched) * 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(
          lhs[i] for i in contracted)
    times = equation.params.get("length", 1) if (
        equation.primitive.name == "scan") else 1
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      total += times * _count(inner, batched)
  return total


def _program(config, changes):
  config.model.update(changes)
  config.model.remat = None  # Else attention's two products run twice.
  config.masking.predict_rate = 0.25
  mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"),
                       devices=jax.devices()[:1],
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)
  return step_lib.build(config, specials.trained(VOCAB), mesh=mesh)


@pytest.mark.parametrize("changes", OPTIONS)
def test_every_matrix_product_is_counted(tiny, changes):
  program = _program(tiny, changes)
  ids = jax.ShapeDtypeStruct((16, 32), jnp.int32)
  with jax.set_mesh(program.mesh):
    traced = jax.make_jaxpr(program._train_step, static_argnums=0)(
        program.plan, program.state_shapes, ids)
  closed = flops.train_step_flops(program.model.config, program.plan)
  assert _count(traced.jaxpr) == 16 * sum(closed.values())
  # Attention's have rows and heads.
  assert _count(traced.jaxpr, batched=True) == 16 * flops.attention_flops(
      program.model.config, program.plan)


@pytest.mark.slow
def test_xla_agrees_on_the_unrolled_step(tiny):
  """Up to the elementwise terms, which wide layers make small."""
  tiny.model.update(dict(width=256, mlp=1024, heads=2, unroll=4))
  program = _program(tiny, {})
  ids = jax.ShapeDtypeStruct((16, 32), jnp.int32)
  cost = program.train_step.lower(
      program.state_shapes, ids).compile().cost_analysis()
  closed = 16 * sum(flops.train_step_flops(
      program.model.config, program.plan).values())
  assert 1 < cost["flops"] / closed < 1.08


def _ratio(changes, pruned=True):
  """FLOPs of base.py changed, to those of an unpruned vanilla step."""
  def cost(config, pruned):
    program = step_lib.build(config, specials.trained(50_265), mesh=mesh_lib.make_mesh(
        config, jax.devices()[:1]))
    return sum(flops.train_step_flops(
        program.model.config, program.plan, pruned).values())

  config = base.get_config()
  config.update_from_flattened_dict(changes)
  return cost(config, pruned) / cost(vanilla.get_config(), False)


@pytest.mark.parametrize("changes, pruned, ratio", [
    ({"model.layers": 12, "model.insertion_layer": 0}, False, 1.147),
    ({}, False, 0.829),
    ({}, True, 0.796),
    ({"model.decoder": "cross"}, False, 0.776),
    ({"model.layers": 12, "model.insertion_layer": 10}, True, 0.719)])
def test_known_ratios(changes, pruned, ratio):
  """What XLA for TPU counted: V 50,265, L 128, 50 % to vanilla 15 %."""
  assert abs(_ratio(changes, pruned) - ratio) < 0.01


def test_lean_reaches_its_bounds():
  """0.70 and 0.62 of this project's own vanilla, the cheaper one."""
  for size, bound, kept_layers in (("base", 0.70, 12), ("large", 0.62, 24)):
    ours, plain = (
        step_lib.build(c, specials.trained(50_265), mesh=mesh_lib.make_mesh(
            c, jax.devices()[:1]))
        for c in (lean.get_config(size), vanilla.get_config(size)))
    assert ours.model.config.insertion_layer == kept_layers
    assert ours.config.masking.rate == 0.5
    costs = [sum(flops.train_step_flops(p.model.config, p.plan).values())
             for p in (ours, plain)]
    assert costs[0] / costs[1] <= bound


def _modern_cost(size, length, changes):
  """Returns the FLOPs of a row of modern.py changed."""
  config = modern.get_config(size)
  config.update_from_flattened_dict({"data.length": length} | changes)
  plan = plan_lib.make_plan(config, specials.trained(50_265))
  return sum(flops.train_step_flops(
      encoder.make_model(config, 50_265).config, plan).values())


@pytest.mark.parametrize("length, bound, predicting_fewer", [
    (1024, 0.71, 0.66), (8192, 0.63, 0.58)])
def test_modern_reaches_its_bounds(length, bound, predicting_fewer):
  """Late masks to 15 % at the input, both with ModernBERT's layers."""
  for size, (layers, *_) in modern.SIZES.items():
    if size not in ("base", "large"):
      continue
    plain = _modern_cost(size, length, {
        "model.layers": layers, "model.insertion_layer": 0,
        "model.insertion": "scatter", "masking.rate": 0.15})
    assert _modern_cost(size, length, {}) / plain <= bound
    assert _modern_cost(size, length, {
        "masking.predict_rate": 0.375}) / plain <= predicting_fewer


@pytest.mark.parametrize("decoder", ["self", "cross"])
def test_predicting_fewer_costs_in_proportion(tiny, decoder):
  tiny.data.length = tiny.model.max_length = 64
  tiny.model.update(dict(decoder=decoder, loss_tokens=8))
  tiny.masking.rate = 0.5

  def cost(predict_rate):
    tiny.masking.predict_rate = predict_rate
    program = step_lib.build(tiny, specials.trained(VOCAB), mesh=mesh_lib.make_mesh(
        tiny, jax.devices()[:1]))
    return flops.train_step_flops(program.model.config, program.plan)

  whole, half = cost(None), cost(0.25)
  assert half["head"] * 2 == whole["head"]
  assert half["early"] == whole["early"]
  if decoder == "cross":
    # All but the keys and values of the encoder's output.
    d, kept = tiny.model.width, 32
    memory = 3 * 2 * d * d * 2 * kept
    assert (half["late"] - memory) * 2 <= whole["late"] - memory


def test_parameters_are_all_counted(tiny):
  program = _program(tiny, {})
  counts = flops.parameters(program.state_shapes.params)
  assert sum(counts.values()) == sum(
      x.size for x in jax.tree.leaves(program.state_shapes.params))
  assert counts["early"] == 3 * counts["late"] - 3 * (
      2 * 16 + 16)  # Late: one layer, final norm, mask vector.
