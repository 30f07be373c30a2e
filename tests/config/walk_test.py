"""Every key through values that hardly anyone means.

Each value is refused in one line, or meant: then it is built as far as the
shapes of the state, and runs a step. A check alone misses what fails later.
"""

import contextlib
import copy
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune
from configs import glue
from latemask.config import keys
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.finetune import run as finetune_run
from latemask.finetune import step as finetune_step
from latemask.masking import masked
from latemask.model import cut
from latemask.model import encoder as encoder_lib
from latemask.train import check as check_lib
from latemask.train import loop
from latemask.train import run as run_lib
from tests import conftest

NAN, INF = math.nan, math.inf
VALUES = (NAN, INF, -INF, -1, 0, 2**31, 2**63, 1e30, "", "seven", b"x", True,
          None, ())
VALUES += tuple((value,) for value in VALUES)

# What is let through, and why.
MEANT = {
    # Nothing of it, or from the very first one on.
    0: {"seed", "data.max_bad_documents", "masking.random_rate",
        "masking.same_rate", "model.insertion_layer", "model.dropout",
        "model.attention_dropout", "model.norm_eps", "train.max_rollbacks",
        "optimizer.warmup_fraction", "optimizer.final_learning_rate",
        "optimizer.weight_decay", "optimizer.b1", "optimizer.b2",
        "optimizer.momentum", "checkpoint.max_failed_saves",
        "metrics.profile_step"},
    # A seed has 32 bits; the others are compared with what there is: more of
    # them than steps, rows, layers, targets or failures means all, or never.
    2**31: {"seed", "data.tokenizer_sample_bytes", "data.max_bad_documents",
            "data.workers", "model.unroll", "model.loss_tokens",
            "train.max_rollbacks", "eval.every_steps", "eval.max_rows",
            "checkpoint.every_steps", "checkpoint.keep",
            "checkpoint.max_failed_saves", "metrics.every_steps",
            "metrics.profile_steps"},
    # Numbers without a largest one: what is too much depends on the model, and
    # a run that diverges ends with a line of its own, exit code 3.
    1e30: {"masking.span_length", "model.rotary_theta",
           "model.local_rotary_theta", "optimizer.learning_rate",
           "optimizer.final_learning_rate", "optimizer.weight_decay",
           "optimizer.clip_norm", "train.init_scale", "train.total_flops"},
    "seven": {"data.source", "data.dir", "data.cache_dir", "data.tfds_dir",
              "data.tokenizer", "data.add_tokens", "data.eval_source",
              "train.init_from"},
    ("seven",): {"data.text_fields"},
    True: {"data.add_mask_token", "model.tied_output"},
    # Left out; what then holds stands in the comment of the key.
    None: {"data.dir", "data.cache_dir", "data.tfds_dir", "data.tokenizer",
           "data.add_tokens", "data.shards", "data.workers", "data.eval_source",
           "masking.predict_rate", "model.vocab_size", "model.remat",
           "train.init_from", "train.total_flops", "train.average_share",
           "optimizer.clip_norm",
           "eval.batch_size", "metrics.profile_step", "mesh.data",
           "mesh.fsdp", "mesh.tensor"},
    # No other rate, and no phases.
    (): {"eval.rates", "masking.phases"},
}
for large in (2**31, 2**63):
  MEANT[large] = MEANT.get(large, set()) | MEANT[1e30]
MEANT_OF_FINETUNING = {
    0: {"dropout", "optimizer.warmup_fraction", "optimizer.weight_decay",
        "optimizer.b1", "optimizer.b2", "adapter.dropout"},
    (0,): {"grid.seeds"},
    (2**31,): {"grid.learning_rates", "grid.seeds"},
    (2**63,): {"grid.learning_rates"},
    (1e30,): {"grid.learning_rates"},
    2**31: {"optimizer.weight_decay", "optimizer.clip_norm",
            "adapter.alpha"},
    2**63: {"optimizer.weight_decay", "optimizer.clip_norm",
            "adapter.alpha"},
    1e30: {"optimizer.weight_decay", "optimizer.clip_norm",
            "adapter.alpha"},
    "seven": {"init_from", "data_dir", "tfds_dir"},
    True: {"from_scratch", "predict_test", "export"},
    None: {"init_from", "data_dir", "tfds_dir", "keep_layers", "max_length",
           "grid.num_epochs", "optimizer.clip_norm"},
}
MEANT_OF_OWN = {value: there - {"data_dir", "tfds_dir"}
                for value, there in MEANT_OF_FINETUNING.items()} | {
    ("seven",): {"data.text", "data.labels"}, (): {"data.labels"}}
for value, there in {
    0: {"data.stride"},
    "seven": {"data.train", "data.dev", "data.test", "data.label",
              "data.label_separator"},
    None: {"data.train", "data.dev", "data.test", "data.stride"}}.items():
  MEANT_OF_OWN[value] = MEANT_OF_OWN[value] | there
KINDS = [(keys.PRETRAINING, MEANT, 95), (keys.GLUE, MEANT_OF_FINETUNING, 27),
         (keys.OWN, MEANT_OF_OWN, 34)]


# What runs a step together, each key with the last of its values here. The
# others are built; with --long every value has a step of its own.
ROUNDS = [(None, (), ("seven",), "seven", 0), (2**31, 1e30)]
ROUNDS_OF_FINETUNING = [(0, (0,), True), (1e30, (1e30,), None, "seven")]
LONG = pytest.mark.long


def _rounds(rounds, meant):
  return rounds + [pytest.param((value,), marks=LONG) for value in meant]


def _config(rows, changes):
  config = (glue.get_config() if rows is keys.GLUE else
            finetune.get_config() if rows is keys.OWN else
            conftest.tiny_config())
  if rows is keys.PRETRAINING:
    # With all that keys have an effect on.
    config.masking.unit = "span"
    config.model.architecture = "modern"
    config.model.layers, config.model.insertion_layer = 2, 1
  with config.ignore_type():
    config.update_from_flattened_dict(changes)
  return config


def _same(one, two):
  return type(one) is type(two) and one == two


@pytest.mark.parametrize("rows, meant, num_keys", KINDS)
def test_refused_in_one_line_or_meant(rows, meant, num_keys):
  num_tried, good = 0, _config(rows, {}).to_dict()
  for key in keys.flat(good):
    for value in VALUES:
      num_tried += 1
      *group, name = key.split(".")
      config = copy.deepcopy(good)
      (config[group[0]] if group else config)[name] = value
      if any(_same(value, v) and key in meant[v] for v in meant):
        keys.check(config)
        continue
      with pytest.raises(errors.InputError) as refused:
        keys.check(config)
        pytest.fail(f"{key} {value!r} is accepted")
      message = str(refused.value)
      assert message.startswith(f"{key} is ") and "it must be " in message
      assert "\n" not in message and len(message) < 200
  assert num_tried == num_keys * len(VALUES)


def _checked(check, rows, changes):
  """Returns the config with those changes that others do not forbid.

  What several keys forbid together is one line, too, with one of the keys.
  """
  changes = dict(changes)
  while True:
    config = _config(rows, changes)
    try:
      return config, check(config)
    except errors.InputError as error:
      message = str(error)
      assert "\n" not in message
      key = next((key for key, value in changes.items() if key in message
                  or f"{value} is no run" in message), None)
      assert key, message
      del changes[key]


def _of(meant, values):
  """Returns {key: value} of a round."""
  return {key: value for value in values for key in sorted(meant[value])}


@pytest.mark.parametrize("value", MEANT, ids=str)
def test_what_is_meant_is_built(value, tmp_path):
  _, (program, _) = _checked(
      lambda config: check_lib.check(config, tmp_path), keys.PRETRAINING,
      _of(MEANT, [value]))
  assert program.state_shapes.step.shape == ()


@pytest.mark.slow
@pytest.mark.usefixtures("few_devices")
@pytest.mark.parametrize("values", _rounds(ROUNDS, MEANT), ids=str)
def test_what_is_meant_runs_a_step(values, tmp_path):
  config, (program, _) = _checked(
      lambda config: check_lib.check(config, tmp_path), keys.PRETRAINING,
      _of(MEANT, values))
  assert sum(leaf.size * leaf.dtype.itemsize for leaf in
             jax.tree.leaves(program.state_shapes)) < 1 << 30
  state = jax.tree.map(  # Quicker than the right initial values.
      lambda leaf: jax.device_put(
          np.full(leaf.shape, 0.02).astype(leaf.dtype), leaf.sharding),
      program.state_shapes)
  state, metrics = program.train_step(state, jax.device_put(
      conftest.random_rows(config.train.batch_size, config.data.length),
      program.batch_sharding))
  assert int(state.step) == 1 and metrics.sums.weight > 0


@LONG
@pytest.mark.usefixtures("few_devices")
@pytest.mark.parametrize("values", ROUNDS, ids=str)
def test_what_is_meant_trains(values, tiny_run, tmp_path):
  """With saves, evaluations and lines; on rows that are there already."""
  config, _ = _checked(
      lambda config: check_lib.check(config, tmp_path), keys.PRETRAINING,
      _of(MEANT, values))
  config.data.update(tiny_run.data.to_dict())
  config.train.num_steps = 2
  with contextlib.suppress(loop.NonFiniteError):
    run_lib.train(config, tmp_path)
  assert (tmp_path / "metrics.jsonl").exists()


@pytest.fixture(scope="module")
def encoder():
  """Returns (ModelConfig, parameters) of an encoder to fine-tune."""
  config = encoder_lib.make_model(conftest.tiny_config(), 320).config
  params = encoder_lib.LateMaskModel(config).init(
      jax.random.key(0), masked.unmasked(
          jnp.zeros((1, 8), jnp.int32), specials.TRAINED))
  return cut.cut(config, params["params"])


@pytest.mark.slow
@pytest.mark.parametrize("values", _rounds(
    ROUNDS_OF_FINETUNING, MEANT_OF_FINETUNING), ids=str)
def test_what_is_meant_runs_a_step_of_finetuning(values, encoder):
  changes = _of(MEANT_OF_FINETUNING, values) | {"init_from": "somewhere"}
  config, _ = _checked(finetune_run.check, keys.GLUE, changes)
  model, params = encoder
  program = finetune_step.make_program(
      config, dataclasses.replace(model, dropout=config.dropout),
      {"encoder": params, "head": {}}, specials.TRAINED, "classes", 2)
  seed = np.uint32(config.grid.seeds[0])
  rate = (finetune_step.schedule(config, 3) * config.grid.learning_rates[0])[1]
  state, _ = program.train_step(
      program.init_state(seed),
      ((np.full((4, 8), 7), np.zeros((4, 8), bool)), np.zeros(4, np.int32),
       np.ones(4)), rate, seed)
  assert int(state.step) == 1
