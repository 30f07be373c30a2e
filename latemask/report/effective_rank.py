"""Effective rank of token representations by layer, with and without [MASK].

MAE-LM (arXiv 2302.02060) holds that [MASK] at the input takes up dimensions
that real tokens then lack. What is computed here, with a measure of its own:

  effective rank  exp(entropy of s / sum(s)), where s are the singular values
    of the tokens-by-width matrix of hidden states, not centred; from 1 to
    min(tokens, width). Source: Roy and Vetterli, EUSIPCO 2007.
  tokens  a fixed random half (50 %, `_RATE`) of the ordinary tokens of
    held-out rows is chosen to be hidden; the OTHER half, special tokens left
    out, are the rows of the matrix. They are the same tokens in both cases:
  unmasked  nothing is hidden: the whole rows go through all layers;
  masked  the first half is hidden, and its slots come in where the model was
    trained to meet them: before layer `insertion_layer`. Early layers of a
    late-mask model then see the real tokens alone, and with insertion_layer 0
    every layer sees [MASK];
  slots  the hidden states of the [MASK] slots themselves, from there on;
  both  real tokens and slots in one matrix.

Layer 0 is the embeddings' output; hidden states are what a layer hands on,
before any final norm. Cross decoders have no real tokens in their late
layers: they are measured up to the insertion layer.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from latemask.data import loader as loader_lib
from latemask.data import mixture
from latemask.data import packed_set
from latemask import errors
from latemask.hub import pretrained
from latemask.masking import masked as masked_lib
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.model import encoder
from latemask.model import layers
from latemask.model import parts
from latemask.runtime import workdir as workdir_lib

_RATE = 0.5
_KEY = 2302_02060
# Rows, and tokens, that are measured at once: the states of all layers.
_BATCH_ROWS, _BATCH_TOKENS = 16, 16 * 1024


@dataclasses.dataclass(frozen=True)
class Ranks:
  """Effective ranks of a model of N layers.

  Fields:
    unmasked, masked, slots, both: [N + 1] by layer, see above; NaN where
      there is nothing to measure.
    num_tokens: real tokens, rows of the matrix.
    width: D, columns of it.
  """

  unmasked: np.ndarray
  masked: np.ndarray
  slots: np.ndarray
  both: np.ndarray
  num_tokens: int
  width: int


def mean(found):
  """Returns the mean of the `Ranks` of some seeds."""
  return Ranks(*(sum(getattr(ranks, field.name) for ranks in found) / len(found)
                 for field in dataclasses.fields(Ranks)))


def effective_rank(matrix_NxD):
  """Returns exp of the entropy of the normalised singular values.

  0 of a matrix of zeros.
  """
  values = np.linalg.svd(_triangle(matrix_NxD), compute_uv=False)
  if not values.sum() > 0:
    return 0.0
  share = values / values.sum()
  share = share[share > 0]
  return float(np.exp(-np.sum(share * np.log(share))))


def measure(workdir, num_rows):
  """Measures the newest checkpoint of a run.

  Args:
    num_rows: held-out rows that are read at most.

  Returns:
    `Ranks`.

  Raises:
    InputError: there is no checkpoint, or its rows are not to be found.
  """
  loaded = pretrained.load(workdir)
  config = workdir_lib.read_config(workdir)
  config.eval.masks = "fixed"  # Single tokens, without noise.
  ids_NxL = held_out(workdir, config, num_rows)
  plan = plan_lib.make_plan(
      config, loaded.tokenizer.vocabulary(config.masking.word_starts), _RATE)
  return measure_rows(loaded.config, loaded.params, plan, ids_NxL)


def held_out(workdir, config, num_rows):
  """Returns held-out rows of a run, ids [N, L].

  Raises:
    InputError: the run's rows are not where its config says.
  """
  directory = packed_set.directory_of(config, workdir)
  packed = mixture.load(config, directory)
  if packed is None:
    raise errors.InputError(
        f"{directory} holds no packed rows, which the rank of {workdir} is "
        "measured on")
  loader = loader_lib.Loader(packed, config)
  return loader.read([loader.eval_row(index) for index in range(
      min(num_rows, loader.num_eval_rows))])


def measure_rows(config, params, plan, ids_NxL):
  """Measures a model on rows.

  Args:
    config: its `architecture.ModelConfig`.
    params: its parameters.
    plan: the `masking.Plan` that hides a share of each row.
    ids_NxL: packed rows.
  """
  @jax.jit
  def mask(rows_B, ids_BxL):
    return selection.mask_batch(plan, jax.random.key(_KEY), rows_B, ids_BxL)

  @jax.jit
  def states(params, masked, ids_BxL):
    whole, _ = hidden_states(config, params, masked_lib.unmasked(
        ids_BxL, plan.vocabulary.specials))
    return whole, *hidden_states(config, params, masked)

  params = jax.tree.map(jnp.asarray, params)
  triangles = {"unmasked": [], "masked": [], "slots": []}
  num_tokens = 0
  size = max(1, min(_BATCH_ROWS, _BATCH_TOKENS // ids_NxL.shape[1]))
  for start in range(0, len(ids_NxL), size):
    ids_BxL = ids_NxL[start:start + size]
    short = size - len(ids_BxL)  # One shape, one compile.
    ids_BxL = np.pad(ids_BxL, ((0, short), (0, 0)),
                     constant_values=plan.vocabulary.specials.pad)
    rows_B = np.arange(start, start + size, dtype=np.int32)
    masked = mask(rows_B, ids_BxL)
    place_BxL = np.asarray(masked.place_BxL)
    row_R, column_R = np.nonzero((place_BxL < plan.num_kept) & (
        ~plan.vocabulary.is_special(ids_BxL)))
    kept_R = place_BxL[row_R, column_R]
    is_slot_BxQ = np.asarray(masked.slot_segment_BxQ) > 0
    whole, kept, slots = jax.device_get(states(params, masked, ids_BxL))
    num_tokens += len(row_R)
    for name, matrices in (
        ("unmasked", [x[row_R, column_R] for x in whole]),
        ("masked", [x[row_R, kept_R] for x in kept]),
        ("slots", [x[is_slot_BxQ] for x in slots])):
      triangles[name] = [_triangle(*pair) for pair in zip(
          matrices, triangles[name] or [x[:0] for x in matrices])]
  # Slots begin at the insertion layer: with what goes into it.
  first = config.insertion_layer
  both = [_triangle(*pair) for pair in zip(
      triangles["masked"][first:], triangles["slots"])]

  def ranks(matrices, start=0):
    found = np.full(config.layers + 1, np.nan)
    found[start:start + len(matrices)] = [effective_rank(m) for m in matrices]
    return found

  return Ranks(
      ranks(triangles["unmasked"]), ranks(triangles["masked"]),
      ranks(triangles["slots"], first), ranks(both, first), num_tokens,
      config.width)


def _triangle(*matrices):
  """Returns R of QR of rows on top of each other: the same singular values.

  Small, however many rows there are.
  """
  return np.linalg.qr(np.concatenate(matrices).astype(np.float64), mode="r")


def layer_outputs(config, call):
  """Runs a model, and returns what its layers hand on, in float32.

  Args:
    config: the `ModelConfig`.
    call: runs the model with the config that it is given, which loops over no
      layer and recomputes none: out of these no output can be taken.

  Returns:
    (states that the embedding's norm hands on, one a call of it; those that
    layers hand on, one a layer).
  """
  embedded, handed_on = [], []

  def watch(call, args, kwargs, context):
    out = call(*args, **kwargs)
    module = context.module
    if context.method_name == "__call__" and not module.is_initializing():
      if isinstance(module, layers.Layer):
        handed_on.append(out)
      elif module.name == "embedding_norm":
        embedded.append(out)
    return out

  with nn.intercept_methods(watch):
    call(dataclasses.replace(
        config, unroll=config.layers, remat=None, dtype="float32"))
  return embedded, handed_on


def hidden_states(config, params, masked):
  """Runs the model itself, and returns what its layers hand on.

  Returns:
    (kept [B, K, D] after layers 0..N, slots [B, Q, D] after layers
    insertion_layer..N); of a cross decoder kept after 0..insertion_layer, and
    no slots.
  """
  # In the order of the row, which local layers need. And as if every kept token
  # were a target, too: the last layer computes targets alone.
  config = dataclasses.replace(config, insertion="scatter")
  batch, num_kept = masked.kept_ids_BxK.shape
  num_slots = masked.slot_position_BxQ.shape[1]
  rows_Bx1, columns_1xL = np.ogrid[:batch, :masked.place_BxL.shape[1]]
  # Where each stands in the row; what stands nowhere is not read.
  index_BxS = jnp.zeros((batch, num_kept + num_slots), jnp.int32).at[
      rows_Bx1, masked.place_BxL].set(columns_1xL, mode="drop")
  kept_BxK, slot_BxQ = index_BxS[:, :num_kept], index_BxS[:, num_kept:]
  masked = masked.replace(
      target_index_BxT=jnp.concatenate([slot_BxQ, kept_BxK], axis=1))
  first = config.insertion_layer
  method = "encode" if config.decoder == "cross" else None
  embedded, handed_on = layer_outputs(
      config, lambda flat: encoder.LateMaskModel(flat).apply(
          {"params": params}, masked, method=method))
  if method:
    return [embedded[0], *handed_on[:first]], []
  kept, slots = embedded
  # The last layer's output stands in the order of targets: slots, then kept;
  # a local one computes all.
  *late, last = handed_on[first:]
  if config.local_layers[-1]:
    late, last = [*late, last], None
  outputs = [[parts.take(x, index) for x in late]
             for index in (kept_BxK, slot_BxQ)]
  if last is not None:
    outputs[0].append(last[:, num_slots:])
    outputs[1].append(last[:, :num_slots])
  return [kept, *handed_on[:first], *outputs[0]], [slots, *outputs[1]]
