"""The mean of a run's parameters over its last steps, exponentially weighted.

Its window is a share of the run. A decay that is the same for every run keeps
much of the initial parameters where the run is short; here, the weights of the
parameters after each step sum to one from the first step on (as Adam's moments
are corrected: Kingma and Ba, arXiv 1412.6980).
"""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Average:
  """What a run carries.

  Fields:
    params: sum of the parameters after each step times its weight; like them.
    weight: sum of these weights, float32 scalar; 0 before the first step.
  """

  params: dict
  weight: jax.Array


def begin(params):
  """Returns the `Average` before the first step."""
  return Average(jax.tree.map(jnp.zeros_like, params),
                 jnp.zeros((), jnp.float32))


def update(average, params, window_steps):
  """Returns the `Average` with the parameters after one more step.

  Args:
    window_steps: those of which the newest have 63 % of the weight, at least 1.
  """
  new = 1 / window_steps
  return Average(
      jax.tree.map(lambda old, x: (1 - new) * old + new * x,
                   average.params, params),
      (1 - new) * average.weight + new)


def mean(average):
  """Returns the mean; not a number before the first step."""
  return jax.tree.map(lambda x: x / average.weight, average.params)
