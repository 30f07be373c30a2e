"""Every config and size builds; every key is read, commented and in README."""

import ast
import importlib
import re

import jax
import pytest

from configs import base
from configs import demo
from configs import finetune
from configs import modern
from configs import paper
from configs import speedrun
from latemask.config import keys
from latemask.config import spec
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.model import architecture
from latemask.runtime import mesh as mesh_lib
from latemask.runtime import workdir
from latemask.train import schedule
from latemask.train import step as step_lib
from tests import conftest

ROOT = conftest.ROOT
SIZED = ("base", "paper", "cross", "modern", "lean", "vanilla", "fast")
# Each with the keys that are commented there; the others are base plus a
# delta, and glue, which has some keys of its own, is finetune plus a delta.
WHOLE = {"base": "## Every key", "finetune": "## Keys of fine-tuning",
         "glue": "### Keys of GLUE"}


def _config(name, size):
  module = importlib.import_module(f"configs.{name}")
  return module.get_config(size) if size else module.get_config()


def _commented(name):
  """Returns {dotted key: value} of the keys that a file of `WHOLE` says."""
  found = keys.flat(_config(name, None).to_dict())
  other = keys.flat(finetune.get_config()) if name == "glue" else {}
  return {key: value for key, value in found.items() if key not in other}


ALL = [(n, s) for n in SIZED for s in base.SIZES] + [
    (n, None) for n in ("demo", "laptop")] + [
    ("speedrun", track) for track in speedrun.TRACKS]


def test_every_file_is_listed():
  files = {p.stem for p in (ROOT / "configs").glob("*.py")} - {"__init__"}
  # continue needs a folder: hub/published_test.py.
  assert files == {name for name, _ in ALL} | {"finetune", "glue", "continue"}


@pytest.mark.parametrize("name, size", ALL)
def test_config_builds(name, size):
  config = _config(name, size).lock()
  mesh = jax.make_mesh((2, 2, 1), mesh_lib.AXES, devices=jax.devices()[:4],
                       axis_types=(jax.sharding.AxisType.Auto,) * 3)
  program = step_lib.build(config, specials.trained(config.data.vocab_size), mesh=mesh)
  assert program.state_shapes.step.shape == ()
  base_keys = set(spec.flatten(base.get_config().to_dict()))
  assert set(spec.flatten(config.to_dict())) == base_keys


@pytest.mark.parametrize("name, size, kept, targets, layers, insertion", [
    ("base", "base", 64, 64, 14, 12), ("base", "large", 64, 64, 26, 24),
    # Of 64 targets 6 are random and 6 the same: 52 of 128, 40 %, leave.
    ("paper", "base", 76, 64, 14, 12), ("cross", "base", 64, 64, 14, 12),
    ("vanilla", "base", 113, 19, 12, 0), ("demo", None, 45, 19, 5, 4)])
def test_recipes(name, size, kept, targets, layers, insertion):
  config = _config(name, size)
  program = step_lib.build(config, specials.trained(config.data.vocab_size))
  assert (program.plan.num_kept, program.plan.num_targets) == (kept, targets)
  assert (config.model.layers, config.model.insertion_layer) == (
      layers, insertion)


def test_base_is_the_recipe_of_the_paper():
  config = base.get_config()
  assert (config.masking.rate, config.data.length, config.train.batch_size,
          config.optimizer.learning_rate, config.train.num_steps) == (
              0.5, 128, 4096, 2e-3, 23_000)
  program = step_lib.build(config, specials.trained(config.data.vocab_size))
  count = sum(x.size for x in jax.tree.leaves(program.state_shapes.params))
  # RoBERTa-base has 125 M, less its positions and biases of 0.5 M; two more
  # layers of 7.1 M.
  assert 138e6 < count < 139e6


def test_a_layer_costs_what_roberta_s_does():
  """Three matrices of an MLP as two of 4 D, to the nearest 128."""
  for size, (width, _, mlp, *_) in base.SIZES.items():
    assert mlp % 128 == 0
    assert abs(3 * mlp - 2 * 4 * width) <= 3 * 128 / 2, size


def test_paper_keeps_the_layers_of_roberta():
  for size, (width, *_) in base.SIZES.items():
    m = paper.get_config(size).model
    assert (m.architecture, m.mlp) == ("roberta_prenorm", 4 * width)


def test_a_run_of_base_as_it_was_is_refused(tmp_path):
  """Its layers were RoBERTa's; given as keys, it goes on."""
  config = base.get_config("tiny")
  config.model.update(architecture="roberta_prenorm", mlp=256)
  workdir.write_config(config, tmp_path)
  with pytest.raises(errors.InputError) as refused:
    workdir.compare_config(base.get_config("tiny"), tmp_path)
  assert str(refused.value) == (
      f"{tmp_path} was begun with model.architecture 'roberta_prenorm' (now "
      "'modern'), model.mlp 256 (now 128); give the same config, or another "
      "--workdir")
  workdir.compare_config(config, tmp_path)


def test_warm_up_is_that_of_6_percent():
  """As many steps as before it was a share; a shorter run needs no flag."""
  for size, steps in (("tiny", 12), ("small", 1200), ("base", 1380),
                      ("large", 1380)):
    assert schedule.warmup_steps(base.get_config(size)) == steps
  config = demo.get_config()
  assert schedule.warmup_steps(config) == 30
  config.train.num_steps = 20
  assert schedule.warmup_steps(config) == 1
  step_lib.build(config)


def test_modern_has_the_shape_of_modernbert():
  """Warner et al., table 3; a stack of any size ends with a global layer."""
  for size, (layers, mlp, *_) in modern.SIZES.items():
    config = modern.get_config(size)
    m = config.model
    assert (m.layers, m.insertion_layer) == (layers + 2, layers)
    local = architecture.local_layers(m)
    assert local == tuple(i % 3 > 0 for i in range(layers)) + (False,) * 2
    assert not local[layers - 1]
    assert (m.width, m.heads) == base.SIZES[size][:2]
    assert config.train.batch_size * config.data.length >= (
        base.get_config(size).train.batch_size * 128)
    if size in ("base", "large"):
      assert (layers, m.width, mlp) == {
          "base": (22, 768, 1152), "large": (28, 1024, 2624)}[size]


@pytest.mark.parametrize("name", WHOLE)
def test_every_key_is_read(name):
  """A key is read where it stands as an attribute or an index."""
  read = set()
  for path in (ROOT / "latemask").rglob("*.py"):
    if path.name == "keys.py":  # It names them all.
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute):
        read.add(node.attr)
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        read.add(node.value)
  unread = [key for key in spec.flatten(_config(name, None).to_dict())
            if key.split(".")[-1] not in read
            and not key.startswith("mesh.")]
  assert not unread


def _comments(name):
  """Returns {dotted key: its comment}; one may serve a few keys of a kind."""
  lines = (ROOT / "configs" / f"{name}.py").read_text().splitlines()
  groups, comments, comment, is_open = {"config": ""}, {}, [], False
  first = next(number for number, line in enumerate(lines)
               if line.startswith("  config = "))
  for line in lines[first:]:
    if group := re.match(r"  config\.(\w+) = (\w+) = ", line):
      groups[group[2]] = f"{group[1]}."
    elif key := re.match(r"  (\w+)\.(\w+) = ", line):
      comments[groups[key[1]] + key[2]] = " ".join(comment)
    elif line.startswith("  # "):
      comment = (comment if is_open else []) + [line.removeprefix("  # ")]
    is_open = line.startswith("  # ")
  return {key: comments.get(key) for key in _commented(name)}


@pytest.mark.parametrize("name", WHOLE)
def test_every_key_has_one_comment(name):
  assert all(_comments(name).values())


@pytest.mark.parametrize("name, heading", WHOLE.items())
def test_readme_has_the_table_of_keys(name, heading):
  """Value, domain and comment of each; where it fails, it shows the table."""
  readme = (ROOT / "configs" / "README.md").read_text().split(
      f"{heading}\n")[1]
  found = re.findall(r"^\| `.*$", readme.split("\n#")[0], re.MULTILINE)
  rows, comments = keys.table(_config(name, None)), _comments(name)
  assert "\n".join(found) == "\n".join(
      f"| `{key}` | `{value}` | {rows[key].domain.says} | {comments[key]} |"
      for key, value in _commented(name).items())
