"""Eight host devices, explicit broadcasting, and a corpus of a few pages."""

import copy
import gc
from importlib import metadata
import io
import os
import pathlib
import queue

# Before jax. The tests compile much and run little: what makes code fast to run
# is off, which halves their time. XLA ends a process over a flag that it does
# not know, so what may not stay is for the version that has it.
os.environ["JAX_PLATFORMS"] = "cpu"
ONE_DEVICE = (os.environ.get("XLA_FLAGS", "")
              + " --xla_backend_optimization_level=0"
              + " --xla_cpu_parallel_codegen_split_count=1"
              + " --xla_llvm_disable_expensive_passes=true")
# 0.11 has no such flag: a tiny step compiles in 8 s there, in 2.5 s here.
if metadata.version("jaxlib").startswith("0.10."):
  ONE_DEVICE += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = (
    ONE_DEVICE + " --xla_force_host_platform_device_count=8")

ROOT = pathlib.Path(__file__).parent.parent

import jax
import numpy as np
import pytest
import sentencepiece

from configs import base
from latemask.data import prepare as prepare_lib
from latemask.data.sources import table as sources_lib
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask.data.tokenizers import specials
from latemask.model import encoder as encoder_lib
from latemask.runtime import mesh as mesh_lib
from latemask.train import run as run_lib
from latemask.train import step as step_lib

jax.config.update("jax_numpy_rank_promotion", "raise")
# As in main.py: two programs at once on many host devices can lock up.
jax.config.update("jax_cpu_enable_async_dispatch", False)
# Tracing makes many objects and hardly any circles: looking for them took 4 %.
gc.set_threshold(50_000, 20, 20)


def pytest_addoption(parser):
  parser.addoption("--long", action="store_true",
                   help="run the tests that take minutes, too")
  parser.addoption("--quick", action="store_true",
                   help="leave out the tests that take more than a few seconds")


def pytest_configure(config):
  for line in ("long: takes minutes; only with --long",
               "ci: takes minutes, and .ci/run runs it",
               "slow: takes more than about 4 s of a core; not with --quick"):
    config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(config, items):
  left_out = {"long": not config.getoption("--long"),
              "slow": config.getoption("--quick")}
  for item in items:
    for name, is_left_out in left_out.items():
      if is_left_out and item.get_closest_marker(name):
        item.add_marker(pytest.mark.skip(reason=f"marked {name}"))


@pytest.fixture(scope="session", autouse=True)
def commands(tmp_path_factory):
  """Processes that are started have one device, and no TensorFlow.

  Its import takes most of a start; without, they write no TensorBoard events.
  """
  jax.devices()  # This process has its eight.
  os.environ.pop("LATEMASK_LAUNCHER", None)  # What is printed is the same.
  os.environ["XLA_FLAGS"] = ONE_DEVICE
  folder = tmp_path_factory.mktemp("no_tensorflow")
  (folder / "tensorflow.py").write_text("raise ImportError('hidden')\n")
  os.environ["PYTHONPATH"] = os.pathsep.join(
      filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
  """Compiles what tests share only once, in all processes of the suite."""
  base = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    base = base.parent  # The workers'.
  directory = str(base / "xla")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = directory
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
  jax.config.update("jax_compilation_cache_dir", directory)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

_WORDS = ("the a of to and in that he was it his with as had for is at her but "
          "not they on be him she you which from said all were by this there "
          "when one so out up would them what been into who their could then "
          "more some will now very time about little over after down before "
          "other old great these must such only never").split()


def make_text(num_documents, seed=0):
  """Returns documents of 5 to 60 words, a line each."""
  rng = np.random.default_rng(seed)
  return "\n".join(
      " ".join(rng.choice(_WORDS, rng.integers(5, 60)))
      for _ in range(num_documents)) + "\n"


def tiny_config(source="builtin"):
  """Returns a config that compiles fast: 3 + 1 layers of width 16, rows 32."""
  config = base.get_config("tiny")
  config.data.source = source
  config.data.vocab_size = 320
  config.data.length = 32
  config.data.shards = 3
  config.data.workers = 1
  config.data.eval_fraction = 0.1
  # It has every kind of parameter: biases, and a table of positions.
  config.model.architecture = "roberta_prenorm"
  config.model.width = 16
  config.model.heads = 2
  config.model.mlp = 32
  config.model.layers = 4
  config.model.insertion_layer = 3
  config.model.max_length = 64
  config.model.dropout = 0.0
  config.model.attention_dropout = 0.0
  config.model.dtype = "float32"
  config.train.batch_size = 16
  config.train.num_steps = 20
  config.optimizer.warmup_fraction = 0.1
  config.eval.every_steps = 10
  config.eval.rates = ()
  config.checkpoint.every_steps = 10
  config.metrics.every_steps = 1
  return config


# Changes of it: rows of 1,024 tokens, packed anew, and local layers, early and
# late, in blocks of 32.
LONG_ROWS = {
    "data.dir": None, "data.length": 1024, "data.shards": 1,
    "train.batch_size": 8, "model.architecture": "modern",
    "model.max_length": 1024, "model.global_every": 3,
    "model.local_window": 64, "model.layers": 7, "model.insertion_layer": 3,
    "model.insertion": "scatter"}


@pytest.fixture
def tiny():
  """The config of `tiny_config`, free to change."""
  return tiny_config()


@pytest.fixture
def heard(monkeypatch):
  """Returns a function that waits until a module prints a text.

  pytest empties what it has captured in two steps: a line that another thread
  prints between them is lost, and whoever polls for it waits for ever.
  """
  def listen(module):
    lines = queue.Queue()
    def tell(*values, **options):
      print(*values, **options)
      lines.put(" ".join(map(str, values)))
    monkeypatch.setattr(module, "print", tell, raising=False)
    def wait(text):
      while text not in (line := lines.get(timeout=60)):
        pass
      return line
    return wait
  return listen


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
  """A folder with corpus.txt."""
  folder = tmp_path_factory.mktemp("corpus")
  (folder / "corpus.txt").write_text(make_text(400))
  return folder


@pytest.fixture(scope="session")
def packed_dir(tmp_path_factory, corpus):
  """A folder of rows packed from the corpus with `tiny_config`."""
  directory = tmp_path_factory.mktemp("packed")
  prepare_lib.prepare(tiny_config(f"text:{corpus}/*.txt"), directory)
  return directory


@pytest.fixture
def tiny_run(packed_dir, corpus):
  """A config that trains on the packed corpus."""
  config = tiny_config(f"text:{corpus}/*.txt")
  config.data.dir = str(packed_dir)
  return config


def _on_two_devices(patch):
  only_devices(patch, jax.devices()[:2])


def only_devices(patch, devices):
  """Lets meshes know of some devices alone."""
  make = mesh_lib.make_mesh
  patch.setattr(jax, "device_count", lambda: len(devices))
  patch.setattr(mesh_lib, "make_mesh", lambda config, found=None: make(
      config, found or devices))


def model_config(architecture="modern", max_length=64):
  """Returns the `ModelConfig` of a tiny model."""
  config = tiny_config()
  config.model.architecture = architecture
  config.model.max_length = max_length
  return encoder_lib.make_model(config, 320).config


def read_source(source, num_shards=1, bound=0):
  """Returns ({place: document} of a source in shards, its `BadDocuments`)."""
  bad = sources_lib.BadDocuments(bound)
  found = [pair for shard in range(num_shards)
           for pair in source.documents(shard, num_shards, bad)]
  assert len(dict(found)) == len(found)  # Each place once.
  return dict(found), bad


_programs = {}


def _build(config, vocabulary=None, mesh=None, build=step_lib.build):
  key = (config.to_json(), mesh, vocabulary and (
      vocabulary.size, vocabulary.specials, vocabulary.special_N.tobytes(),
      vocabulary.word_start_V.tobytes()))
  if key not in _programs:
    _programs[key] = build(copy.deepcopy(config), vocabulary, mesh)
  return _programs[key]


@pytest.fixture
def few_devices(monkeypatch):
  """Two of the eight devices: on two cores many of them take turns.

  And what trains again with the same config does not trace it again; that
  another process does the same is of the tests that start some.
  """
  _on_two_devices(monkeypatch)
  monkeypatch.setattr(step_lib, "build", _build)


@pytest.fixture(scope="session")
def run(packed_dir, corpus, tmp_path_factory):
  """A finished run of four steps, (workdir, state)."""
  config = tiny_config(f"text:{corpus}/*.txt")
  config.data.dir = str(packed_dir)
  config.train.num_steps = 4
  workdir = tmp_path_factory.mktemp("run")
  with pytest.MonkeyPatch.context() as patch:
    _on_two_devices(patch)
    state, _ = run_lib.train(config, workdir)
  return workdir, jax.device_get(state)


def spm(lines, **options):
  """Returns a tokenizer as spm_train makes it, with our special tokens."""
  model, names = io.BytesIO(), specials.NAMES
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines), model_writer=model,
      hard_vocab_limit=False, bos_id=0, pad_id=1, eos_id=2, unk_id=3,
      bos_piece=names[0], pad_piece=names[1], eos_piece=names[2],
      unk_piece=names[3], minloglevel=2, **{
          "control_symbols": [names[4]], "vocab_size": 340,
          "byte_fallback": True, "normalization_rule_name": "identity"}
      | options)
  return tokenizer_lib.Tokenizer(model.getvalue())


def random_rows(num_rows, length, vocab_size=320, seed=0):
  """Returns ids: whole rows, rows of two documents, short rows, an empty."""
  rng = np.random.default_rng(seed)
  ids_BxL = rng.integers(5, vocab_size, (num_rows, length)).astype(np.int32)
  ids_BxL[:, 0], ids_BxL[:, -1] = 0, 2
  for row in range(0, num_rows, 4):
    cut = int(rng.integers(10, length - 10))
    ids_BxL[row, cut], ids_BxL[row, cut + 1] = 2, 0
  for row in range(1, num_rows, 4):
    cut = int(rng.integers(10, length - 1))
    ids_BxL[row, cut], ids_BxL[row, cut + 1:] = 2, 1
  ids_BxL[num_rows - 1] = 1
  return ids_BxL
