"""The model: what may see what, and what must be the same function."""

import itertools
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.masking import masked as masked_lib
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.model import encoder
from latemask.model import heads
from latemask.model import layers
from latemask.model import loss
from latemask.model import parts as parts_lib
from latemask.model import word_embedding
from tests import conftest

VOCAB, LENGTH, ROWS = 320, 32, 8
ARCHITECTURES = ("roberta", "roberta_prenorm", "modern")


# Standard deviation and mean of each parameter as initialised, by its path, at
# width 192 (0.554 / sqrt(192) = 0.04) and with MLPs of 300 (0.032).
INITIAL = {
    r"(early|late)/layers/(cross_)?attention/qkv_kernel": (0.04, 0),
    r"(early|late)/layers/(cross_)?attention/out_kernel": (0.04, 0),
    r"(early|late)/layers/mlp/in_kernel": (0.04, 0),
    r"(early|late)/layers/mlp/out_kernel": (0.032, 0),
    r"head/kernel": (0.04, 0),
    r"class_head/(dense|out)_kernel": (0.04, 0),
    r"class_head/head/kernel": (0.04, 0),
    r"embedding|positions|mask_vector": (0.02, 0),
    r"(.*/)?\w*bias": (0, 0),
    r"(.*/)?\w*norm/scale": (0, 1),
}


def _build(config, seed=0):
  """Returns the model, random parameters and a masked batch.

  Norms, biases and tables are random as well: at their initial values much
  could go wrong unseen.
  """
  model = encoder.make_model(config, VOCAB)
  plan = plan_lib.make_plan(config, specials.trained(VOCAB))
  ids_BxL = jnp.asarray(conftest.random_rows(ROWS, LENGTH))
  masked = jax.jit(lambda: selection.mask_batch(
      plan, jax.random.key(seed), jnp.arange(ROWS), ids_BxL))()
  shapes = jax.eval_shape(model.init, jax.random.key(0), masked)["params"]
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
      lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype), shapes)
  return model, params, ids_BxL, masked


def _targets(model, params, masked):
  """Hidden states of the real targets by (row, place in the row)."""
  hidden_BxTxD = jax.jit(lambda p, m: model.apply({"params": p}, m))(
      params, masked)
  return np.where(np.asarray(masked.target_weights_BxT)[..., None] > 0,
                  hidden_BxTxD, 0)


def _all_options():
  for architecture, insertion, insertion_layer in itertools.product(
      ARCHITECTURES, ("append", "scatter"), (0, 2)):
    yield architecture, insertion, insertion_layer, "self", "targets"
    if insertion_layer:
      for queries in ("targets", "all"):
        yield architecture, insertion, insertion_layer, "cross", queries


def _configure(config, architecture, insertion, insertion_layer, decoder,
               queries):
  config.masking.same_rate = config.masking.random_rate = 0.1
  config.model.update(dict(
      architecture=architecture, insertion=insertion, decoder=decoder,
      insertion_layer=insertion_layer, decoder_queries=queries))


# Compiling is what costs: every architecture, insertion and decoder twice or
# more, not their whole product.
SOME_OPTIONS = [
    ("roberta", "append", 0, "self", "targets"),
    ("roberta_prenorm", "scatter", 2, "self", "targets"),
    ("modern", "append", 2, "cross", "targets"),
    ("roberta", "scatter", 2, "cross", "all"),
    ("roberta_prenorm", "append", 2, "cross", "all"),
    ("modern", "scatter", 0, "self", "targets"),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", SOME_OPTIONS)
def test_every_parameter_is_used_and_no_hidden_id_leaks(tiny, options):
  """Gradients to all parameters, and none to what is hidden.

  Ids of the upper half stand at hidden places only, so their embeddings must
  get exactly no gradient through the inputs (the head is cut off here).
  """
  _configure(tiny, *options)
  tiny.masking.random_rate = 0.0  # Random ids come from the upper half too.
  tiny.masking.same_rate = 0.0
  model, params, ids_BxL, masked = _build(tiny)
  plan = plan_lib.make_plan(tiny, specials.trained(VOCAB))
  hidden = np.zeros((ROWS, LENGTH), bool)
  for row in range(ROWS):
    index = masked.target_index_BxT[row]
    hidden[row, index[masked.target_weights_BxT[row] > 0]] = True
  lower_BxL = jnp.where(ids_BxL < 5, ids_BxL, 5 + ids_BxL % 100)
  upper_BxL = jnp.where(hidden, 200 + ids_BxL % 100, lower_BxL)

  @jax.jit
  def run(ids_BxL):
    masked = selection.mask_batch(
        plan, jax.random.key(0), jnp.arange(ROWS), ids_BxL)
    def total(params):
      out = model.apply({"params": params}, masked)
      weights = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
      return jnp.sum(out * weights * masked.target_weights_BxT[..., None]), out
    return jax.grad(total, has_aux=True)(params)

  grads, out = run(lower_BxL)
  grads_upper, out_upper = run(upper_BxL)
  np.testing.assert_array_equal(out, out_upper)
  np.testing.assert_array_equal(grads_upper["embedding"][200:], 0)
  jax.tree.map(np.testing.assert_array_equal, grads, grads_upper)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    if "output_bias" not in str(path):
      assert np.any(grad), path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encoder_never_meets_the_mask(tiny, architecture):
  """The encoder's output has no gradient to the mask vector, nor to slots."""
  tiny.model.architecture = architecture
  model, params, _, masked = _build(tiny)
  grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(
      {"params": p}, masked, method="encode")))))(params)
  np.testing.assert_array_equal(grads["mask_vector"], 0)
  assert all(not np.any(g) for g in jax.tree.leaves(grads["late"]))
  assert all(np.any(g) for g in jax.tree.leaves(grads["early"]))


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    (a, i, 2, d, "all") for a, i, d in zip(
        ARCHITECTURES, ("append",) * 3, ("self", "cross", "self"))])
def test_append_equals_scatter(tiny, options):
  _configure(tiny, *options)
  model, params, _, masked = _build(tiny)
  appended = _targets(model, params, masked)
  tiny.model.insertion = "scatter"
  scattered = _targets(encoder.make_model(tiny, VOCAB), params, masked)
  assert np.std(appended) > 0.1
  np.testing.assert_allclose(appended, scattered, atol=2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_insertion_at_the_input_is_ordinary_masking(tiny, architecture):
  """Against the plain encoder over rows in which <mask> is written."""
  _configure(tiny, architecture, "append", 0, "self", "targets")
  model, params, ids_BxL, masked = _build(tiny)
  params["mask_vector"] = params["embedding"][specials.TRAINED.mask]
  late = _targets(model, params, masked)

  rows = np.asarray(ids_BxL).copy()
  num_slots = masked.slot_position_BxQ.shape[1]
  for row in range(ROWS):
    real = masked.target_weights_BxT[row] > 0
    index = masked.target_index_BxT[row]
    rows[row, index[:num_slots][real[:num_slots]]] = specials.TRAINED.mask
    noise = masked.corrupted_BxC[row][real[num_slots:]]
    rows[row, index[num_slots:][real[num_slots:]]] = (
        masked.kept_ids_BxK[row][noise])
  @jax.jit
  def plain(params):
    hidden = model.apply({"params": params}, masked_lib.unmasked(rows, specials.TRAINED),
                         method="encode")
    return model.apply({"params": params}, hidden, method="predict")
  expected = np.take_along_axis(
      np.asarray(plain(params)),
      np.asarray(masked.target_index_BxT)[..., None], axis=1)
  expected = np.where(masked.target_weights_BxT[..., None] > 0, expected, 0)
  np.testing.assert_allclose(late, expected, atol=2e-5)


def test_nothing_hidden_is_the_fine_tuning_forward(tiny):
  """Kept tokens of a row without slots: the same encoder, bit for bit."""
  model, params, ids_BxL, _ = _build(tiny)
  whole = masked_lib.unmasked(ids_BxL, specials.TRAINED)
  kept = jnp.array([0, 1, 2, 5, 7, 11])
  part = whole.replace(
      kept_ids_BxK=ids_BxL[:, kept],
      kept_position_BxK=whole.kept_position_BxK[:, kept],
      kept_segment_BxK=whole.kept_segment_BxK[:, kept])
  encode = jax.jit(lambda m: model.apply({"params": params}, m,
                                         method="encode"))
  # A token's state depends on which others are kept...
  assert not np.allclose(encode(part)[0], encode(whole)[0, kept], atol=1e-3)
  # ... but not on where in the arrays they stand.
  order = jnp.asarray(np.random.default_rng(0).permutation(LENGTH))
  shuffled = whole.replace(
      kept_ids_BxK=ids_BxL[:, order],
      kept_position_BxK=whole.kept_position_BxK[:, order],
      kept_segment_BxK=whole.kept_segment_BxK[:, order])
  real = np.asarray(whole.kept_segment_BxK > 0)[..., None]
  np.testing.assert_allclose(
      np.where(real, encode(whole), 0)[:, order],
      np.where(real[:, order], encode(shuffled), 0), atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", SOME_OPTIONS[1:4])
def test_foreign_documents_and_padding_change_nothing(tiny, options):
  _configure(tiny, *options)
  tiny.masking.random_rate = 0.0
  model, params, _, _ = _build(tiny)
  plan = plan_lib.make_plan(tiny, specials.trained(VOCAB))
  rng = np.random.default_rng(3)
  ids_BxL = rng.integers(5, VOCAB, (4, LENGTH)).astype(np.int32)
  ids_BxL[:, 0], ids_BxL[:, 19], ids_BxL[:, 20] = 0, 2, 0
  other_BxL = ids_BxL.copy()
  other_BxL[:, 21:] = rng.integers(5, VOCAB, (4, LENGTH - 21))

  @jax.jit
  def apply(masked):
    return model.apply({"params": params}, masked)

  masked, masked_other = (
      selection.mask_batch(plan, jax.random.key(0), jnp.arange(4), ids)
      for ids in (ids_BxL, other_BxL))
  out, other = apply(masked), apply(masked_other)
  first = np.asarray(masked.target_index_BxT < 20)
  assert 0 < first.sum() < first.size
  np.testing.assert_array_equal(out[first], other[first])
  assert not np.any(np.all(out[~first] == other[~first], axis=-1))
  # What stands in unused places is not read.
  filled = masked.replace(kept_ids_BxK=jnp.where(
      masked.kept_segment_BxK > 0, masked.kept_ids_BxK, 77))
  np.testing.assert_array_equal(out, apply(filled))


@pytest.mark.slow
def test_unused_noise_is_no_query(tiny):
  """Fillers of the cross decoder must not pass for tokens of document 1."""
  _configure(tiny, "roberta_prenorm", "append", 2, "cross", "targets")
  tiny.masking.random_rate, tiny.masking.same_rate = 0.0, 0.25
  model, params, ids_BxL, masked = _build(tiny)
  num_slots = masked.slot_position_BxQ.shape[1]
  unused = masked.target_weights_BxT[:, num_slots:] == 0
  assert 0 < unused.sum() < unused.size
  other = masked.replace(corrupted_BxC=jnp.where(
      unused, 3, masked.corrupted_BxC))
  np.testing.assert_array_equal(_targets(model, params, masked),
                                _targets(model, params, other))


@pytest.mark.slow
def test_every_layer_drops_on_its_own(tiny, monkeypatch):
  tiny.model.dropout = 0.5
  tiny.model.remat = None  # Its layers are traced, their keys no numbers.
  model, params, _, masked = _build(tiny)
  keys = []
  apply = layers.Layer.apply
  def record(self, *args, **options):
    keys.append(tuple(jax.random.key_data(
        options["rngs"]["dropout"]).tolist()))
    return apply(self, *args, **options)
  monkeypatch.setattr(layers.Layer, "apply", record)
  with jax.disable_jit():
    model.apply({"params": params}, masked, True,
                rngs={"dropout": jax.random.key(0)})
  assert len(keys) == len(set(keys)) == tiny.model.layers


@pytest.mark.slow
def test_unroll_and_remat_change_nothing(tiny):
  tiny.model.insertion_layer = 1
  model, params, _, masked = _build(tiny)

  def grads(**changes):
    tiny.model.update(changes)
    model = encoder.make_model(tiny, VOCAB)
    return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(
        {"params": p}, masked, True)))))(params)

  plain = grads(unroll=1, remat=None)
  for changes in (dict(unroll=4, remat="layer"),
                  dict(unroll=1, remat="dots")):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, atol=3e-4, rtol=1e-4), plain, grads(**changes))


@pytest.mark.slow
def test_dropout_follows_its_key(tiny):
  tiny.model.dropout = tiny.model.attention_dropout = 0.2
  model, params, _, masked = _build(tiny)
  run = jax.jit(lambda key: model.apply(
      {"params": params}, masked, True, rngs={"dropout": key}))
  first, again, other = (np.asarray(run(jax.random.key(i))) for i in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)
  assert np.any(first != _targets(model, params, masked))


def test_without_dropout_there_is_no_random_number(tiny):
  model, params, _, masked = _build(tiny)
  assert "random" not in str(jax.make_jaxpr(lambda p: model.apply(
      {"params": p}, masked, True))(params))


@pytest.mark.slow
def test_loss_at_the_start_is_that_of_chance(tiny):
  model, _, _, masked = _build(tiny)
  params = jax.jit(model.init)(jax.random.key(0), masked)["params"]
  sums = loss.head_loss(
      model.apply({"params": params}, masked),
      word_embedding.per_shard(params["embedding"]), params["output_bias"],
      masked.target_ids_BxT,
      masked.target_weights_BxT, VOCAB, 4)
  assert abs(float(sums.means["loss"]) - np.log(VOCAB)) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initial_values(tiny, architecture):
  """Kernels by fan-in, to 3 %; in each layer and each part of merged ones."""
  _configure(tiny, architecture, "append", 2, "cross", "all")
  tiny.model.update(dict(width=192, heads=3, mlp=300))
  model = encoder.make_model(tiny, VOCAB)
  plan = plan_lib.make_plan(tiny, specials.trained(VOCAB))

  @jax.jit
  def init(key):
    masked = selection.mask_batch(
        plan, key, jnp.arange(1), jnp.zeros((1, LENGTH), jnp.int32))
    return model.init(key, masked)["params"] | {
        "class_head": heads.init(model.config, 180, key)}

  params = init(jax.random.key(0))
  unseen = set(INITIAL)
  for path, values in flax.traverse_util.flatten_dict(
      jax.device_get(params), sep="/").items():
    pattern, = (p for p in INITIAL if re.fullmatch(p, path))  # Covered, once.
    unseen.discard(pattern)
    deviation, mean = INITIAL[pattern]
    parts = values if "/layers/" in path else values[None]
    if path.endswith(("qkv_kernel", "in_kernel")):
      axis = 2 if path.endswith("qkv_kernel") else 1
      parts = np.moveaxis(parts, axis, 1).reshape(
          -1, *np.delete(parts.shape, (0, axis)))
    for part in parts:
      # Five standard errors, where those are more: the mask vector.
      margin = max(0.03, 5 / np.sqrt(2 * part.size)) * deviation
      assert abs(part.std() - deviation) <= margin, path
      assert abs(part.mean() - mean) <= margin, path
  assert unseen <= {r"class_head/head/kernel"}  # That of `modern` alone.


def test_kernels_of_base():
  """At BERT's width only the outputs of MLPs differ from BERT's 0.02."""
  for fan_in, deviation in ((768, 0.02), (2048, 0.0122), (3072, 0.01)):
    kernel = parts_lib.kernel_init(fan_in)(jax.random.key(0), (256, 256))
    assert abs(kernel.std() / deviation - 1) < 0.03


@pytest.mark.parametrize("options", list(_all_options()))
def test_every_combination_traces(tiny, options):
  _configure(tiny, *options)
  model = encoder.make_model(tiny, VOCAB)
  plan = plan_lib.make_plan(tiny, specials.trained(VOCAB))
  masked = jax.eval_shape(
      lambda: selection.mask_batch(plan, jax.random.key(0), jnp.arange(2),
                                   jnp.zeros((2, LENGTH), jnp.int32)))
  out = jax.eval_shape(lambda m: model.init_with_output(
      jax.random.key(0), m), masked)[0]
  assert out.shape == (2, plan.num_targets, tiny.model.width)


@pytest.mark.parametrize("changes, message", [
    (dict(heads=3), "heads 3 does not divide model.width 16"),
    (dict(heads=16, architecture="modern"), "even"),
    (dict(insertion_layer=4), "must be less than model.layers 4"),
    (dict(decoder="cross", insertion_layer=0), "at least 1"),
    (dict(max_length=16), "longer than model.max_length"),
    (dict(vocab_size=100), "smaller than the tokenizer's 320"),
])
def test_bad_models(tiny, changes, message):
  tiny.model.update(changes)
  with pytest.raises(errors.InputError, match=message):
    encoder.make_model(tiny, VOCAB)
