"""Which token is computed at which layer, against brute force; the command."""

import io
import json
import types

import jax
from matplotlib import colors
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.model import encoder
from latemask.report import token_layers as token_layers_lib
from latemask.tools import token_layers
from tests import conftest

_RULES = {
    "all masked": {},
    "noise": {"random_rate": 0.3, "same_rate": 0.2},
    "some predicted": {"predict_rate": 0.2},
    "noise, some predicted": {"random_rate": 0.2, "predict_rate": 0.2},
}


@pytest.mark.slow
@pytest.mark.parametrize("rule", _RULES)
@pytest.mark.parametrize("insertion_layer, decoder, queries, is_local", [
    (0, "self", "targets", False), (3, "self", "targets", False),
    (2, "cross", "targets", False), (2, "cross", "all", False),
    (0, "self", "targets", True)])
def test_every_state_is_accounted_for(
    rule, insertion_layer, decoder, queries, is_local):
  config = conftest.tiny_config()
  config.masking.update(_RULES[rule])
  ids_L = conftest.random_rows(4, 32)[2]
  plan = plan_lib.make_plan(config, specials.trained(320))
  masked = jax.device_get(selection.mask_batch(
      plan, jax.random.key(3), np.zeros(1, np.int32), ids_L[None]))
  model = types.SimpleNamespace(
      layers=5, insertion_layer=insertion_layer, decoder=decoder,
      decoder_queries=queries, local_layers=(False,) * 4 + (is_local,))
  state_NxL = token_layers_lib.computed(model, masked)
  kept_L = masked.place_BxL[0] < plan.num_kept
  slot_L = ~kept_L & (masked.place_BxL[0] < plan.num_kept + plan.num_slots)
  targets = {int(i) for i, w in zip(
      masked.target_index_BxT[0], masked.target_weights_BxT[0]) if w}
  assert set(np.flatnonzero(slot_L)) <= targets
  for layer in range(5):
    computed = set(np.flatnonzero(state_NxL[layer] == 2))
    seen = set(np.flatnonzero(state_NxL[layer]))
    if layer < insertion_layer:
      assert computed == seen == set(np.flatnonzero(kept_L))
    elif (layer == 4 and not is_local
          or (decoder, queries) == ("cross", "targets")):
      assert computed == targets
    else:
      assert computed == set(np.flatnonzero(kept_L | slot_L))
    assert seen == set(np.flatnonzero(kept_L)) | computed
  # Hidden and not predicted: in no layer. Noise is in all of the first ones.
  for place, kind in enumerate(token_layers_lib.kinds(masked)):
    assert (kind is None) == (not state_NxL[:, place].any())
    assert (kind == token_layers_lib._SLOT) == slot_L[place]
    assert (kind == token_layers_lib._NOISE) == (
        kept_L[place] and place in targets)


def test_layers_are_counted_as_the_key_counts_them():
  """From 0, in the ticks, at the dashed line and in the title."""
  tiny = conftest.tiny_config()
  config = encoder.make_model(tiny, 320).config
  masked = jax.device_get(selection.mask_batch(
      plan_lib.make_plan(tiny, specials.trained(320)), jax.random.key(3), np.zeros(1, np.int32),
      conftest.random_rows(4, 32)[2:3]))
  # What looks like a formula is a token, too.
  figure = token_layers_lib.draw(config, masked, ["$$", "$_$"] * 16, {})
  figure.savefig(io.BytesIO())
  ax, = figure.axes
  first = tiny.model.insertion_layer
  assert [label.get_text() for label in ax.get_yticklabels()] == [
      str(layer) for layer in range(tiny.model.layers)]
  assert ax.lines[0].get_ydata()[0] == first - 0.5
  slots = [box.get_y() for box in ax.patches
           if box.get_facecolor()[:3] == colors.to_rgb(
               token_layers_lib._COLORS[token_layers_lib._SLOT])]
  assert slots and min(slots) > first - 0.5
  told = f"before layer {first} of layers 0 to {tiny.model.layers - 1}"
  assert told in figure.get_suptitle()


def _run(monkeypatch, *arguments):
  monkeypatch.setattr("sys.argv", ["token_layers", *map(str, arguments)])
  token_layers.main()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.png", "new/a.svg"])
def test_draws(run, tmp_path, monkeypatch, capsys, name):
  _run(monkeypatch, "--workdir", run[0], "--out", tmp_path / name,
       "the other man was here before the old one")
  assert capsys.readouterr().out == (
      f"the picture lies in {tmp_path / name}; masks join before layer 3 of "
      "layers 0 to 3\n")
  start = (tmp_path / name).read_bytes()[:60]
  assert start.startswith(b"\x89PNG") or b"<?xml" in start


@pytest.mark.slow
def test_draws_the_same_of_a_folder(run, tmp_path, monkeypatch, capsys):
  """An export keeps the rule; one that was written before hides a half."""
  folder, rules = tmp_path / "folder", []
  loaded = pretrained.load(run[0])
  hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, folder,
                    masking=loaded.masking)
  real = token_layers_lib.mask
  def mask(rule, *args):
    rules.append(rule)
    return real(rule, *args)
  monkeypatch.setattr(token_layers_lib, "mask", mask)
  pictures = []
  for workdir in (run[0], run[0] / "checkpoints" / "4", folder, "old"):
    if workdir == "old":
      about = json.loads((folder / "latemask.json").read_text())
      del about["masking"]
      (folder / "latemask.json").write_text(json.dumps(about))
      workdir = folder
    _run(monkeypatch, "--workdir", workdir, "--out", tmp_path / "a.png",
         "the other man was here")
    pictures.append((tmp_path / "a.png").read_bytes())
  assert rules[0] == rules[1] == rules[2] and rules[3] is None
  assert pictures[0] == pictures[1] == pictures[2] == pictures[3]


@pytest.mark.parametrize("workdir, out, text, message", [
    ("nowhere", "a.png", "the man", "nowhere is no run"),
    ("RUN", "a.jpeg", "the man", "must end in .png"),
    ("RUN", "a.png", "man " * 60, "too long to be drawn"),
    ("RUN", "a.png", "the " * 32, "trained on rows of at most 32"),
    ("RUN", "a.png", "", "must be hidden"),
    ("RUN", "FILE/a.png", "the man", "is a file")])
def test_bad_commands(
    run, tmp_path, monkeypatch, capsys, workdir, out, text, message):
  (tmp_path / "FILE").write_text("")
  with pytest.raises(SystemExit) as ended:
    _run(monkeypatch, "--workdir", run[0] if workdir == "RUN" else workdir,
         "--out", tmp_path / out, text)
  assert ended.value.code == errors.InputError.code
  told = capsys.readouterr().err.splitlines()
  assert len(told) == 1 and message in told[0]
  assert [p.name for p in tmp_path.iterdir()] == ["FILE"]
