"""Phases: the state goes on, and nothing random of a phase is met again."""

import dataclasses
import importlib
import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from configs import phases
from latemask.data import order as order_lib
from latemask.data import packed_set
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.masking import selection
from latemask.model import stack
from latemask.model import architecture
from latemask.model import partition
from latemask.runtime import rng
from latemask.runtime import signals as signals_lib
from latemask.train import check as check_lib
from latemask.train import init_state
from latemask.train import run as run_lib
from latemask.train import step as step_lib
from tests import conftest
from tests.train import run_test

pytestmark = pytest.mark.usefixtures("few_devices")
_STEPS = 50
_PHASES = (1, 2, 3)
# Of size tiny, what makes it compile fast; its second layer is local.
_SMALL = {"width": 16, "heads": 2, "mlp": 32, "layers": 3, "insertion_layer": 2,
          "local_window": 16, "dtype": "float32", "remat": None}


def _programs(config):
  """Yields the program of each phase."""
  program = step_lib.build(config, specials.trained(320))
  for phase in _PHASES:
    config = config.copy_and_resolve_references()
    config.train.phase = phase
    yield dataclasses.replace(program, config=config)


def _apart(found):
  """Asserts that nothing of one list is in another."""
  for one, two in itertools.combinations(found, 2):
    assert not set(one) & set(two)


def test_no_mask_is_met_again(tiny):
  """The same rows at all steps of three phases, with room for other masks."""
  tiny.data.length = tiny.model.max_length = 64
  ids_BxL = jnp.tile(jnp.arange(5, 69, dtype=jnp.int32)[None], (8, 1))
  found = []
  for program in _programs(tiny):
    masks = jax.jit(jax.vmap(lambda step: selection.mask_batch(
        program.plan, program.keys_at(step)[0], jnp.arange(8),
        ids_BxL).kept_ids_BxK))(jnp.arange(_STEPS))
    found.append([np.sort(row).tobytes() for row in np.asarray(
        masks).reshape(-1, masks.shape[-1])])
    assert len(set(found[-1])) == 8 * _STEPS
  _apart(found)


@pytest.mark.parametrize("kind", rng.KINDS)
def test_no_dropout_is_met_again(tiny, kind):
  """Nor that of a micro-batch, or of a layer, which fold in numbers."""
  tiny.train.dropout_rng = kind
  found = []
  for program in _programs(tiny):
    def of_step(step, program=program):
      key = program.keys_at(step)[1]
      def parts(keys, salt):
        return jax.vmap(lambda key: jax.vmap(
            rng.fold_in, (None, 0, None))(key, jnp.arange(4), salt))(
                keys).ravel()
      micro_batches = parts(key[None], step_lib._MICRO_BATCH)
      return jax.random.key_data(jnp.concatenate([
          key[None], micro_batches, parts(micro_batches, stack._LAYER)]))
    keys = np.concatenate(jax.jit(jax.vmap(of_step))(jnp.arange(_STEPS)))
    found.append([key.tobytes() for key in keys])
    assert len(set(found[-1])) == (1 + 4 + 16) * _STEPS
  _apart(found)


def test_no_order_of_rows_is_met_again(tiny_run, packed_dir):
  packed = packed_set.load(tiny_run, packed_dir)
  orders = []
  for phase in _PHASES:
    tiny_run.train.phase = phase
    order = order_lib.of(packed, tiny_run)
    count = order.num_train_rows
    rows = np.array([order.train_row(i) for i in range(4 * count)])
    for epoch in rows.reshape(4, count):
      assert len(set(epoch)) == count
      orders.append(epoch)
  # Of two random orders about one row is at its place, and about one comes
  # behind the same other.
  for one, two in itertools.combinations(orders, 2):
    assert np.count_nonzero(one == two) <= 8
    pairs = [set(zip(x, x[1:])) for x in (one, two)]
    assert len(pairs[0] & pairs[1]) <= 8


@pytest.mark.slow
def test_all_keys_of_a_run_are_of_its_phase(tiny, monkeypatch):
  """Whatever draws a number; but for masks that are the same for all runs."""
  real, drawn = rng.stream, []
  def stream(seed, number, kind="threefry2x32"):
    drawn.append((seed, number))
    return real(seed, number, kind)
  monkeypatch.setattr(rng, "stream", stream)
  tiny.seed = 7
  tiny.model.dropout = 0.1
  tiny.model.layers, tiny.model.insertion_layer = 2, 1
  ids = jax.ShapeDtypeStruct((16, 32), jnp.int32)
  rows = jax.ShapeDtypeStruct((16,), jnp.int32)
  numbers = []
  for program in itertools.islice(_programs(tiny), 2):
    drawn.clear()
    # Traced anew, whatever has been built before.
    with jax.set_mesh(program.mesh):
      shapes = jax.eval_shape(lambda: program._init())
      jax.eval_shape(lambda s, i: program._train_step(program.plan, s, i),
                     shapes, ids)
      for masks, others in (("seeded", set()), ("fixed", {(0, 3)})):
        program.config.eval.masks = masks
        jax.eval_shape(lambda p, r, i: program._eval_step(
            program.plan, p, r, i), shapes.params, rows, ids)
        assert {pair for pair in drawn if pair[0] != 7} == others
    numbers.append({number for seed, number in drawn if seed == 7})
  assert numbers == [set(range(4)), set(range(2**31 + 8, 2**31 + 12))]


def _texts(folder):
  """A file of documents, each longer than a row of 128 tokens."""
  path = folder / "long.txt"
  path.write_text("\n".join(
      " ".join(conftest.make_text(12, seed).split())
      for seed in range(40)) + "\n")
  return f"text:{path}"


def _phase(number, source, length, out):
  """Returns a phase of configs/phases at size tiny, with shorter rows."""
  config = importlib.import_module(
      f"configs.phases.modern_{number}").get_config("tiny")
  config.data.source, config.data.vocab_size = source, 320
  config.data.length, config.data.workers = length, 1
  config.data.eval_fraction = 0.1
  config.model.update(_SMALL)
  config.train.batch_size = 512 // length
  config.train.num_steps = 4
  config.metrics.every_steps = 1
  config.eval.rates = ()
  if number > 1:
    config.train.init_from = str(out / f"{number - 1}")
  assert architecture.local_layers(config.model) == (False, True, False)
  return config


@pytest.mark.slow
def test_three_phases_at_size_tiny(tmp_path, monkeypatch, capsys):
  """Each begins where the last one stood, and counts anew."""
  begun, source = [], _texts(tmp_path)
  real = run_lib.introduce
  monkeypatch.setattr(run_lib, "introduce", lambda program, loader, progress: (
      begun.append(jax.device_get(progress.state)),
      real(program, loader, progress)))
  last = None
  for number, length in ((1, 32), (2, 128), (3, 128)):
    config = _phase(number, source, length, tmp_path)
    if number == 3:
      config.data.dir = str(tmp_path / "2" / "data")
    ended, evaluation = run_lib.train(config, tmp_path / str(number))
    ended = jax.device_get(ended)
    assert int(ended.step) == 4 and np.isfinite(evaluation["eval/loss"])
    state = begun[-1]
    assert int(state.step) == 0
    if last:
      jax.tree.map(np.testing.assert_array_equal, state.params, last.params)
      jax.tree.map(np.testing.assert_array_equal, state.opt_state[:-1],
                   last.opt_state[:-1])
      assert int(state.opt_state[-1].count) == 0
      # The moments are warm: Adam's correction counts all of their steps.
      assert int(state.opt_state[1].count) == 4 * (number - 1)
      assert max(np.abs(x).max() for x in jax.tree.leaves(
          state.opt_state[1].mu)) > 0
      assert f"phase {number}: the optimizer's state of " in (
          capsys.readouterr().out)
    assert len(begun) == number
    last = ended
  # The rate of the third falls, from the first step on.
  rates = [line["learning_rate"] for line in run_test._lines(tmp_path / "3")
           if "learning_rate" in line]
  assert rates == sorted(rates, reverse=True) and rates[-1] < rates[0] / 3


@pytest.fixture
def second(tiny_run, run):
  """The config of a second phase of `run`."""
  tiny_run.train.init_from = str(run[0])
  tiny_run.train.init_state, tiny_run.train.phase = "all", 2
  return tiny_run


@pytest.mark.long
def test_a_stopped_phase_goes_on_without_the_one_before(
    second, run, tmp_path, monkeypatch):
  """And to the bits of one that was not stopped."""
  shutil.copytree(run[0], tmp_path / "1")
  second.train.init_from = str(tmp_path / "1")
  second.train.num_steps = 6
  unbroken, _ = run_lib.train(second, tmp_path / "unbroken")
  with monkeypatch.context() as patch:
    run_test._stop_at(patch, 2)
    with pytest.raises(signals_lib.Stopped):
      run_lib.train(second, tmp_path / "broken")
  shutil.rmtree(tmp_path / "1")
  resumed, _ = run_lib.train(second, tmp_path / "broken")
  assert int(resumed.step) == 6
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(unbroken),
               jax.device_get(resumed))


def test_configs_are_modern_in_long_rows():
  """As many tokens a step and in all as the size; shapes of one model."""
  for size in ("small", "base", "large"):
    whole = base.get_config(size)
    tokens = whole.train.batch_size * whole.data.length
    found = [importlib.import_module(f"configs.phases.modern_{number}")
             .get_config(size).lock() for number in _PHASES]
    for number, config in zip(_PHASES, found):
      assert config.train.phase == number
      assert config.train.batch_size * config.data.length == tokens
      assert config.model == found[0].model
      assert config.optimizer.name == found[0].optimizer.name
    assert [c.data.length for c in found] == [1024, 8192, 8192]
    assert [c.masking.rate for c in found] == [0.3, 0.3, 0.15]
    assert [c.train.init_state for c in found] == ["parameters", "all", "all"]
    assert sum(c.train.num_steps for c in found) == whole.train.num_steps
    assert found[0].model.max_length >= phases.LONGEST


def _names(tree):
  return {partition.path_name(path)
          for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_checkpoint_s_state_is_read_as_it_was_saved(second, run, tmp_path):
  """Onto another mesh, too; every leaf but the schedule's count."""
  second.mesh.fsdp = 2
  program, beginning = check_lib.check(second, tmp_path / "out")
  fresh = jax.tree.map(lambda shape: jax.device_put(
      np.zeros(shape.shape, shape.dtype), shape.sharding),
                       program.state_shapes)
  state = init_state.begin(beginning, program, fresh)
  theirs = run[1].opt_state
  assert _names(state.opt_state) == _names(theirs)
  jax.tree.map(np.testing.assert_array_equal,
               jax.device_get(state.opt_state[:-1]), theirs[:-1])
  assert int(theirs[-1].count) == 4 and int(state.opt_state[-1].count) == 0
  found = jax.tree.leaves(jax.tree.map(
      lambda leaf, shape: leaf.sharding == shape.sharding, state,
      program.state_shapes))
  assert all(found)


@pytest.mark.parametrize("change, message", [
    (lambda c, _: c.train.update(dict(init_from=None)),
     "train.init_state is all; name in train.init_from the run"),
    (lambda c, _: c.train.update(dict(phase=1)),
     "train.phase is 1; train.init_from is phase 1, and its masks"),
    (lambda c, _: c.optimizer.update(dict(name="muon")),
     "optimizer.name is muon; that of train.init_from is adamw"),
    (lambda c, _: c.model.update(dict(max_length=48)),
     r"positions is \(48, 16\); that of train.init_from is \(64, 16\)"),
    (lambda c, _: c.model.update(dict(layers=5, insertion_layer=4)),
     r"is \(4, .*\); that of train.init_from is \(3, .*\): the model must be"),
    (lambda c, folder: c.train.update(dict(init_from=str(folder / "hub"))),
     "hub has no optimizer's state; name a run, or a checkpoint"),
    (lambda c, folder: c.train.update(
        dict(init_from=str(folder / "4"))), "is no whole checkpoint: "),
])
def test_what_cannot_go_on(second, run, tmp_path, change, message):
  """One line, and nothing is written."""
  if "hub" in message:
    loaded = pretrained.load(run[0])
    hub_folder.export(loaded.config, loaded.params, loaded.tokenizer,
                      tmp_path / "hub")
  shutil.copytree(run[0] / "checkpoints" / "4", tmp_path / "4")
  for path in (tmp_path / "4" / "state").rglob("*"):
    if path.is_file() and path.parent.name == "d":
      path.write_bytes(b"")
  change(second, tmp_path)
  with pytest.raises(errors.InputError, match=message) as refused:
    run_lib.train(second, tmp_path / "out")
  assert "\n" not in str(refused.value)
  assert not (tmp_path / "out").exists()


def test_a_word_more_is_another_model(second, tmp_path):
  """Also where it needs no row more of the embedding."""
  (tmp_path / "words.txt").write_text("zyzzogeton\n")
  second.data.add_tokens = str(tmp_path / "words.txt")
  second.data.dir = None
  with pytest.raises(errors.InputError, match="has tokens that that of"):
    run_lib.train(second, tmp_path / "out")
