"""Runs that begin with the parameters of another; fill_mask on both ends."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import types

import flax.traverse_util
import jax
import numpy as np
import pytest

from latemask.checkpoint import checkpoints as checkpoints_lib
from latemask.checkpoint import record
from latemask.config import keys
from latemask.data import packed_set
from latemask.data.tokenizers import kinds
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.model import architecture as architecture_lib
from latemask.model import encoder
from latemask.predict import fill_mask as fill_mask_lib
from latemask.train import check as check_lib
from latemask.train import init_from
from latemask.train import run as run_lib
from latemask.train import step as step_lib
from tests import conftest

pytestmark = pytest.mark.usefixtures("few_devices")

TEXTS = ["the man <mask> was", "he <mask> to <mask> in <mask>.",
         "<mask>", "un<mask> " * 10]


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
  """The run, exported."""
  loaded = pretrained.load(run[0])
  path = tmp_path_factory.mktemp("out") / "folder"
  hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, path,
                    trained_length=loaded.trained_length)
  return path


def _flat(params):
  return flax.traverse_util.flatten_dict(jax.device_get(params), sep="/")


@pytest.mark.slow
def test_loads_what_was_trained(run, folder, caplog):
  """Without a word: what Orbax thinks of its files is no one's concern."""
  workdir, state = run
  for path in (workdir, workdir / "checkpoints" / "4", folder):
    loaded = pretrained.load(path)
    assert loaded.config.layers == 4
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state.params)
  assert not caplog.records


@pytest.mark.slow
@pytest.mark.parametrize("keys, fresh", [
    ({}, ()),
    # Two late layers more than there are, and another place for the masks.
    ({"layers": 6}, {"late[1:]"}),
    ({"layers": 7, "init_late": "copy"}, ()),
    ({"insertion_layer": 2}, ()),
    ({"insertion_layer": 0}, ()),
    ({"decoder": "cross", "insertion_layer": 4, "layers": 5},
     {"late", "decoder_norm"}),
])
def test_begins_with_it(tiny_run, run, keys, fresh, capsys):
  workdir, state = run
  keys = dict(keys)
  tiny_run.train.init_late = keys.pop("init_late", "fresh")
  tiny_run.model.update(keys)
  tokenizer = pretrained.load(workdir).tokenizer
  program = step_lib.build(tiny_run, specials.trained(tokenizer.vocab_size))
  begun = init_from.begin(
      pretrained.load(workdir), program.model.config, tokenizer,
      program.init_state().params, tiny_run.train.init_late)
  said = capsys.readouterr().out.split("as initialised: ")[1].strip()
  names = {("[" in n and n[:4] + n[n.index("["):]) or n.split("/")[0]
           for n in said.split(", ")} - {"none"}
  assert names == set(fresh)
  there, here = _flat(state.params), _flat(begun)
  for path, array in here.items():
    stack, _, inside = path.partition("/layers/")
    if not inside:
      if path in there:
        np.testing.assert_array_equal(array, there[path], path)
      continue
    if stack == "late" and program.model.config.decoder == "cross":
      continue
    source = np.concatenate([there[f"{s}/layers/{inside}"]
                             for s in ("early", "late")])
    first = program.model.config.insertion_layer if stack == "late" else 0
    if tiny_run.train.init_late == "copy":  # Layers 4 to 6 are 1 to 3 again.
      source = np.concatenate([source, source[1:]])
      assert len(source) == 7
    source = source[first:first + len(array)]
    np.testing.assert_array_equal(array[:len(source)], source, path)


def test_a_resumed_run_too_goes_back_to_it(tiny_run, folder, tmp_path):
  """Rolled back to before its checkpoints, which is all that it has read."""
  tiny_run.train.init_from = str(folder)
  program, beginning = check_lib.check(tiny_run, tmp_path)
  none = types.SimpleNamespace(restore=lambda shapes: None)
  first, again = (run_lib._begin(program, beginning.tokenizer, none, read)
                  for read in (beginning, None))
  jax.tree.map(np.testing.assert_array_equal, first.state, again.state)
  assert first.trained_length == again.trained_length


@pytest.mark.long
def test_a_run_begins_with_a_folder(tiny_run, folder, run, tmp_path):
  """Its first loss is where the other run stood, not where it began."""
  tiny_run.train.init_from = str(folder)
  tiny_run.data.tokenizer = str(folder / "tokenizer.model")
  tiny_run.data.dir = str(tmp_path / "data")
  tiny_run.train.num_steps = 1
  tiny_run.optimizer.warmup_fraction = 0.0
  run_lib.train(tiny_run, tmp_path / "next")

  def first_eval(workdir):
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["eval/loss"] for line in lines
            if "eval/loss" in line]
  losses = first_eval(run[0])
  assert losses[0] - losses[-1] > 0.001
  assert abs(first_eval(tmp_path / "next")[0] - losses[-1]) < (
      losses[0] - losses[-1]) / 2


@pytest.mark.parametrize("change, message", [
    (lambda c: c.model.update(dict(width=32)), "model.width is 32"),
    (lambda c: c.model.update(dict(architecture="modern")),
     "model.architecture is modern"),
    (lambda c: c.model.update(dict(max_length=65)), "model.max_length is 65"),
    (lambda c: c.model.update(dict(norm_eps=1e-12)), "model.norm_eps is 1e-12"),
    (lambda c: c.model.update(dict(layers=3, insertion_layer=2)),
     "4 layers, more than the 3"),
    (lambda c: c.train.update(dict(init_from="nowhere")), "nowhere is no run"),
])
def test_what_cannot_begin(tiny_run, run, tmp_path, change, message):
  tiny_run.train.init_from = str(run[0])
  change(tiny_run)
  with pytest.raises(errors.InputError, match=message):
    run_lib.train(tiny_run, tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_tokenizer_of_another(tiny_run, run, tmp_path):
  """Refused before anything is written; left out, that of init_from."""
  workdir, _ = run
  other = tokenizer_lib.train([conftest.make_text(300, seed=5)], 330)
  (tmp_path / "other.model").write_bytes(other.proto)
  tiny_run.train.init_from = str(workdir)
  tiny_run.train.num_steps = 1
  tiny_run.optimizer.warmup_fraction = 0.0
  tiny_run.data.dir = None
  tiny_run.data.tokenizer = str(tmp_path / "other.model")
  with pytest.raises(errors.InputError, match="not that of train.init_from"):
    run_lib.train(tiny_run, tmp_path / "out")
  assert not (tmp_path / "out").exists()
  tiny_run.data.tokenizer = None
  for _ in range(2):  # Then from its checkpoint.
    run_lib.train(tiny_run, tmp_path / "out")
  theirs = pretrained.load(workdir).tokenizer
  assert kinds.load(
      tmp_path / "out" / "data" / "tokenizer.model").proto == theirs.proto
  # The rows of init_from itself, whose tokenizer was trained on them.
  tiny_run.data.dir = str(_rows_of(workdir))
  run_lib.train(tiny_run, tmp_path / "shared")


@pytest.mark.slow
def test_rows_of_a_run_that_went_on_can_be_packed_again(
    tiny_run, run, tmp_path):
  """A shard of them or all, with its tokenizer, as the message says."""
  tiny_run.train.init_from = str(run[0])
  tiny_run.data.tokenizer, tiny_run.data.dir = None, None
  tiny_run.data.vocab_size = 400  # Of a tokenizer that none may train.
  tiny_run.train.num_steps = tiny_run.checkpoint.every_steps = 2
  run_lib.train(tiny_run, tmp_path / "out")
  data = tmp_path / "out/data"
  manifest = json.loads((data / "manifest.json").read_text())
  tiny_run.train.init_from = str(tmp_path / "moved_away")
  for path in (tmp_path / "out/config.json",):
    path.write_text(path.read_text().replace(
        json.dumps(str(run[0])), json.dumps(tiny_run.train.init_from)))
  for name in ("rows-00000-of-0000*", "*"):
    for path in data.glob(name):
      path.unlink()
    run_lib.train(tiny_run, tmp_path / "out")
    assert json.loads((data / "manifest.json").read_text()) == manifest


def _rows_of(workdir):
  """Returns the data.dir of a run."""
  return json.loads((workdir / "config.json").read_text())["data"]["dir"]


def test_every_field_that_changes_the_function_is_compared():
  fields = {f.name for f in dataclasses.fields(architecture_lib.ModelConfig)}
  compared, free = set(init_from._COMPARED), set(pretrained.FREE_FIELDS)
  assert compared | free == fields and not compared & free


def test_what_is_older_than_a_key(run, monkeypatch):
  """As before where the table says so; else a line that names the key."""
  config = pretrained.load(run[0]).config
  fields = dataclasses.asdict(config)
  old = {k: v for k, v in fields.items() if k != "remat"}
  with pytest.raises(errors.InputError, match="here says nothing of model.r"):
    architecture_lib.config_of(old, "here")
  monkeypatch.setitem(keys.BEFORE, "model.remat", "layer")
  assert architecture_lib.config_of(old, "here") == dataclasses.replace(
      config, remat="layer")
  with pytest.raises(errors.InputError, match="model.new.* later version"):
    architecture_lib.config_of(fields | {"new": 1}, "here")
  with pytest.raises(errors.InputError, match="format 2"):
    record.check_format({"format": 2}, "here")


def test_another_rotary_theta_is_another_function(tiny):
  """It matters where positions are rotated, and nowhere else."""
  for architecture, matters in (("modern", True), ("roberta", False)):
    tiny.model.architecture = architecture
    ours = encoder.make_model(tiny, 320).config
    loaded = pretrained.Pretrained(
        "there", dataclasses.replace(ours, rotary_theta=160_000.0),
        {"late": {"layers": {"mlp_norm": {"scale": np.ones(4)}}}},
        tokenizer_lib.Tokenizer(b""), None, 64)
    with pytest.raises(errors.InputError, match="model.rotary_theta is 10000"
                       ) if matters else contextlib.nullcontext():
      init_from.check(loaded, ours, loaded.tokenizer)


@pytest.mark.parametrize("ours, layers, message", [
    ({"insertion_layer": 2}, (4, 2), "has 4 layers, more than the 2"),
    ({"decoder": "self", "layers": 3, "insertion_layer": 1}, (4, 2),
     "has 4 layers, more than the 3"),
    ({"insertion_layer": 5}, (4, 2), "has 2 late layers, more than the 1"),
    ({}, (4, 2), None)])
def test_no_layer_of_a_cross_decoder_is_dropped(tiny, ours, layers, message):
  tiny.model.update(dict(decoder="cross", layers=6, insertion_layer=4))
  theirs = encoder.make_model(tiny, 320).config
  loaded = pretrained.Pretrained("there", theirs, {
      stack: {"layers": {"mlp_norm": {"scale": np.ones(count)}}}
      for stack, count in zip(("early", "late"), layers)},
                                 tokenizer_lib.Tokenizer(b""), None, 64)
  with pytest.raises(errors.InputError, match=message
                     ) if message else contextlib.nullcontext():
    init_from.check(loaded, dataclasses.replace(theirs, **ours),
                    loaded.tokenizer)


def test_positions_beyond_the_rows_learn_nothing(run):
  """32 of 64: no gradient ever came to the others."""
  _, state = run
  moments = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(
      state.opt_state) if "positions" in jax.tree_util.keystr(path)]
  assert len(moments) == 2
  for moment_LxD in moments:
    assert moment_LxD.shape == (64, 16)
    assert np.all(moment_LxD[32:] == 0) and np.all(moment_LxD[:32].any(1))


@pytest.mark.slow
def test_the_trained_length_is_on_record(tiny_run, run, folder, tmp_path):
  workdir, state = run
  for path in (workdir, folder):
    assert pretrained.load(path).trained_length == 32
  stock = json.loads((folder / "tokenizer_config.json").read_text())
  assert stock["model_max_length"] == 32
  # Of before there was a record: all positions, as then.
  old = tmp_path / "old"
  shutil.copytree(folder, old)
  about = json.loads((old / "latemask.json").read_text())
  del about["trained_length"]
  (old / "latemask.json").write_text(json.dumps(about))
  assert pretrained.load(old).trained_length == 64
  # The next run of a chain keeps what its positions have learned.
  for length, max_length, found in ((16, 64, 32), (48, 64, 48), (16, 24, 24)):
    tiny_run.data.length, tiny_run.model.max_length = length, max_length
    assert pretrained.trained_length(
        pretrained.load(workdir), tiny_run) == found
  packed = packed_set.load(conftest.tiny_config(tiny_run.data.source),
                           tiny_run.data.dir)
  checkpoints = checkpoints_lib.Checkpoints(tmp_path / "next", tiny_run, packed)
  checkpoints.save(4, checkpoints_lib.Progress(state, trained_length=48))
  checkpoints.wait()
  shapes = jax.tree.map(np.asarray, state)
  assert checkpoints.restore(shapes).trained_length == 48
  checkpoints.close()
  assert pretrained.load(tmp_path / "next").trained_length == 48


def test_fill_mask_takes_as_much_as_was_trained_on(run):
  loaded = pretrained.load(run[0])
  text = "it " * 40 + "<mask>"
  with pytest.raises(errors.InputError, match="at most 32"):
    fill_mask_lib.Filler(loaded).ids(text)
  assert len(fill_mask_lib.Filler(loaded, 64).ids(text)) > 32
  with pytest.raises(errors.InputError, match="64 positions"):
    fill_mask_lib.Filler(loaded, 65)


def test_damaged_checkpoint(run, tmp_path):
  step = tmp_path / "4"
  (step / "state").mkdir(parents=True)
  (step / "run").mkdir()
  with pytest.raises(errors.InputError, match="no whole checkpoint"):
    pretrained.load(step)
  (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
  with pytest.raises(errors.InputError, match="without a checkpoint"):
    pretrained.load(tmp_path / "empty")


@pytest.mark.slow
def test_fill_mask_is_the_same_from_run_and_folder(run, folder):
  one, two = (fill_mask_lib.Filler(pretrained.load(p), 64)
              for p in (run[0], folder))
  for text in TEXTS:
    best = one.fill(text)
    assert best == two.fill(text)
    assert len(best) == text.count("<mask>")
    for words in best:
      assert len(words) == 5
      probabilities = [p for _, p in words]
      assert probabilities == sorted(probabilities, reverse=True)
      assert 0 < sum(probabilities) < 1


def test_fill_mask_is_the_model_in_training(run):
  """The masks of a real step, by hand: the same probabilities."""
  loaded = pretrained.load(run[0])
  filler = fill_mask_lib.Filler(loaded)
  ids = filler.ids("he was <mask> the <mask> of it")
  whole = list(map(int, loaded.tokenizer.encode(
      ["he was it the it of it"])[0]))
  it = int(loaded.tokenizer.encode(["it"])[0][0])
  assert [i for i in ids if i != specials.TRAINED.mask] == [0] + [
      i for n, i in enumerate(whole) if n not in [
          k for k, w in enumerate(whole) if w == it][:2]] + [2]
  # Padding to another length changes nothing.
  first = filler.fill("he was <mask> the <mask> of it")
  old = fill_mask_lib._LENGTH_MULTIPLE, fill_mask_lib._MASKS_MULTIPLE
  fill_mask_lib._LENGTH_MULTIPLE, fill_mask_lib._MASKS_MULTIPLE = 48, 2
  second = filler.fill("he was <mask> the <mask> of it")
  fill_mask_lib._LENGTH_MULTIPLE, fill_mask_lib._MASKS_MULTIPLE = old
  for a, b in zip(first, second):
    assert [w for w, _ in a] == [w for w, _ in b]
    np.testing.assert_allclose(
        [p for _, p in a], [p for _, p in b], rtol=1e-5)


def test_masks_keep_the_text_around_them(run):
  """What stands around a mask is cut up as in running text."""
  filler = fill_mask_lib.Filler(pretrained.load(run[0]))
  tokenizer = pretrained.load(run[0]).tokenizer
  pieces = tokenizer.processor.id_to_piece(
      [int(i) for i in filler.ids("it <mask>s un<mask> <mask>")])
  assert pieces[-1] == "</s>"
  text = "".join(pieces[1:-1])
  assert text == "\u2581it<mask>s\u2581un<mask><mask>"


def test_an_export_replaces_exports_alone(run, folder):
  """The run that it is made of, above all, stays."""
  loaded = pretrained.load(run[0])
  before = {p: p.read_bytes() for p in run[0].rglob("*") if p.is_file()}
  with pytest.raises(errors.InputError, match="holds something else"):
    hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, run[0],
                      overwrite=True)
  assert {p: p.read_bytes() for p in run[0].rglob("*")
          if p.is_file()} == before
  made = (folder / "model.safetensors").stat().st_mtime_ns
  hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, folder,
                    overwrite=True)
  assert (folder / "model.safetensors").stat().st_mtime_ns > made
  assert [p.name for p in folder.parent.iterdir()] == [folder.name]
  assert {p.name for p in folder.iterdir()} == {
      "README.md", "config.json", "latemask.json", "latemask.safetensors",
      "model.safetensors", "tokenizer.json", "tokenizer.model",
      "tokenizer_config.json"} <= set(hub_folder._FILES)


@pytest.mark.slow
@pytest.mark.parametrize("arguments, message", [
    (["--workdir", "nowhere", "a <mask>"], "nowhere is no run"),
    (["--workdir", "RUN", "no mask here"], "no <mask>"),
    (["--workdir", "RUN", "it " * 80 + "<mask>"], "--truncate"),
    (["--workdir", "RUN", "--truncate", "it " * 80 + "<mask>"],
     "cut every <mask>"),
    (["--workdir", "RUN", "--top", "0", "<mask>"], "--top"),
])
def test_bad_commands(run, arguments, message):
  done = subprocess.run(
      [sys.executable, "-m", "latemask.tools.fill_mask",
       *[str(run[0]) if a == "RUN" else a for a in arguments]],
      capture_output=True, text=True)
  assert done.returncode == 2
  assert message in done.stderr.splitlines()[-1]
  assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_commands(run, tmp_path):
  """export, then fill_mask of the folder from standard input."""
  out = tmp_path / "out"
  for code in (0, 2):  # The second finds the folder there.
    done = subprocess.run(
        [sys.executable, "-m", "latemask.tools.export", "--init_from",
         str(run[0]), "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    if not code:
      assert done.stdout.splitlines()[-2:] == [
          f"load it in Python: transformers.AutoModel.from_pretrained('{out}')",
          f"try it here: python -m latemask.tools.fill_mask --workdir {out} "
          "'It can <mask> used.'"]
  assert "exists" in done.stderr
  done = subprocess.run(
      [sys.executable, "-m", "latemask.tools.fill_mask", "--workdir",
       str(out), "--json", "--top", "2"],
      input=b"\xef\xbb\xbfit <mask>\nno mask\n\n<mask> a <mask>\n"
      + b"it " * 80 + b"<mask>\n\xff <mask>\n", capture_output=True)
  assert done.returncode == 1
  told = done.stderr.decode().splitlines()
  assert len(told) == 3
  assert told[0].startswith("latemask: line 2: no <mask> in 'no mask'")
  assert told[1].startswith("latemask: line 5: a text of ")
  assert told[2].startswith("latemask: line 6: 'utf-8' codec can't decode")
  one, two = map(json.loads, done.stdout.splitlines())
  assert one["text"] == "it <mask>"
  assert [len(m) for m in two["masks"]] == [2, 2]


@pytest.mark.slow
def test_a_run_whose_mask_is_a_row_begins_on_a_mesh(tiny_run, run, tmp_path):
  """Laid out as its steps want it, and with what the other has learned."""
  tiny_run.train.init_from = str(run[0])
  tiny_run.train.mask_vector = "embedding"
  tiny_run.mesh.data, tiny_run.mesh.fsdp = 1, 2
  tiny_run.train.num_steps, tiny_run.optimizer.learning_rate = 1, 1e-12
  state, _ = run_lib.train(tiny_run, tmp_path / "run")
  theirs, found = map(jax.device_get, (run[1].params, state.params))
  np.testing.assert_allclose(
      found["mask_vector"], theirs["mask_vector"], atol=1e-6)
  np.testing.assert_array_equal(
      found["mask_vector"], found["embedding"][specials.TRAINED.mask])
