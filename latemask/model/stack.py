"""A stack of layers, run as a loop or one after the other.

Where local and global layers alternate, a step of the loop is a whole period of
them, and what is left over follows one by one. How much of a layer is kept for
the backward pass is `model.remat`'s choice.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from latemask.model import attention
from latemask.model import layers
from latemask.model import parts
from latemask.runtime import mesh
from latemask.runtime import rng

# To its dropout; a micro-batch is 1.
_LAYER = 2

# What of a layer is recomputed in the backward pass.
REMAT = {
    None: lambda f: f,
    "elementwise": lambda f: jax.checkpoint(
        f, policy=jax.checkpoint_policies.save_only_these_names(
            *layers.SAVED)),
    "dots": lambda f: jax.checkpoint(
        f, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
    "layer": jax.checkpoint,
}


class Stack(nn.Module):
  """`num_layers` layers whose parameters are stacked on a first axis.

  Always stacked, so the layout of a checkpoint depends on no flag; `unroll`
  says how many are compiled one after the other instead of as a loop. This
  module holds the parameters; `_run` runs the layers.
  """

  config: object  # A `ModelConfig`.
  num_layers: int
  first_layer: int
  cross: bool

  @nn.compact
  def __call__(self, hidden_BxSxD, place, target_BxT=None, memory_BxKxD=None,
               memory_place=None, train=False):
    """Applies the layers.

    Args:
      target_BxT: the tokens whose output is wanted, None for all. The last
        layer then computes queries and MLP of these only, if it is global:
        out of order a local one would miss what is near.

    Returns:
      [B, T, D]; without targets [B, S, D].
    """
    c = self.config
    is_local = c.local_layers[self.first_layer:][:self.num_layers]
    layer = {kind: layers.Layer(c.layer, self.cross, kind, parent=None)
             for kind in (False, True)}
    params = self.param("layers", lambda key: jax.vmap(
        lambda k: _init_layer(c, layer[False], k))(
            jax.random.split(key, self.num_layers)))
    # Without dropout there is no random number in the step.
    train = train and max(c.dropout, c.attention_dropout) > 0
    key_drop = self.make_rng("dropout") if train else None

    def of(kind):
      @REMAT[c.remat]
      def apply(layer_params, index, query, query_place, key=None):
        rngs = {
            "dropout": rng.fold_in(key_drop, index, _LAYER)} if train else {}
        return layer[kind].apply(
            {"params": layer_params}, query, query_place, key, place,
            memory_BxKxD, memory_place, index == 0, train, rngs=rngs)
      return apply

    apply = {kind: of(kind) for kind in layer}
    hidden_BxSxD = _run(
        [apply[kind] for kind in is_local],
        (_cast_kernels(params, c.layer.dtype),
         self.first_layer + jnp.arange(self.num_layers)),
        mesh.split_batch(hidden_BxSxD), place,
        None if is_local[-1] else target_BxT, c.unroll,
        c.global_every if any(is_local) else 1)
    if target_BxT is None or not is_local[-1]:
      return hidden_BxSxD
    return parts.take(hidden_BxSxD, target_BxT)


def _run(apply, stacked, hidden_BxSxD, place, target_BxT, unroll, period):
  """Runs stacked layers: in a loop, or up to `unroll` of them one by one.

  Args:
    apply: for each layer a function (parameters of a layer, its index, queries,
      their place, keys or None for the queries themselves) -> states of the
      queries.
    stacked: (parameters, index), each with the layers on its first axis.
    target_BxT: what the last layer computes; None for all.
    period: layers of a step of the loop, as long as they repeat the first ones.
  """
  def step(hidden, layers_of_step):
    singles = ([layers_of_step] if period == 1 else
               _split_layers(layers_of_step, 0)[1])
    for apply_one, layer in zip(apply, singles):
      hidden = mesh.split_batch(apply_one(*layer, hidden, place))
    return hidden, None

  whole = len(apply) - (target_BxT is not None)
  steps = 0 if whole <= unroll else _repeats(apply[:whole], period)
  loop, single = _split_layers(stacked, steps * period)
  if steps:
    if period > 1:
      loop = jax.tree.map(
          lambda x: x.reshape(steps, period, *x.shape[1:]), loop)
    hidden_BxSxD, _ = jax.lax.scan(
        step, hidden_BxSxD, loop, unroll=max(1, unroll // period))
  for apply_one, layer in zip(apply[steps * period:whole], single):
    hidden_BxSxD = mesh.split_batch(apply_one(*layer, hidden_BxSxD, place))
  if target_BxT is None:
    return hidden_BxSxD
  return apply[-1](*single[-1], parts.take(hidden_BxSxD, target_BxT),
                   place.take(target_BxT), hidden_BxSxD)


def _repeats(kinds, period):
  """Returns how often the first `period` of them come one after the other."""
  steps = 0
  while kinds[steps * period:][:period] == kinds[:period] and (
      (steps + 1) * period <= len(kinds)):
    steps += 1
  return steps if steps > 1 or period == 1 else 0


def _cast_kernels(params, dtype):
  """Returns the parameters with kernels in the dtype of the products.

  Cast here, not in the loop: so are the gradients that the loop stacks up,
  half as large and no less exact, since each comes out in that dtype.
  """
  return jax.tree_util.tree_map_with_path(
      lambda path, p: p.astype(dtype)
      if path[-1].key.endswith("kernel") else p, params)


def _split_layers(stacked, looped):
  """Returns the first `looped` layers, still stacked, and each other one.

  By one split, whose gradient is one concatenation; slices would each be
  padded to the whole stack and added up.
  """
  leaves, structure = jax.tree.flatten(stacked)
  sizes = [looped] * bool(looped) + [1] * (leaves[0].shape[0] - looped)
  pieces = [structure.unflatten(piece) for piece in zip(
      *(jax.lax.split(leaf, sizes) for leaf in leaves))]
  loop = pieces.pop(0) if looped else None
  return loop, [jax.tree.map(lambda x: x[0], piece) for piece in pieces]


def _init_layer(config, layer, key):
  """Returns the parameters of one layer."""
  hidden = jnp.zeros((1, 1, config.width), config.layer.dtype)
  one = jnp.ones((1, 1), jnp.int32)
  place = attention.place(layer.config, one, one, config.rotary_theta)
  return layer.init(
      key, hidden, place, memory_BxKxD=hidden, memory_place=place)["params"]
