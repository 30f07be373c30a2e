"""Exports that guess words in transformers, and their model cards.

The oracle is our own forward pass, with random norms and biases everywhere.
"""

import json
import logging
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.data.tokenizers import kinds
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.masking import plan as plan_lib
from latemask.masking import selection
from latemask.model import encoder as encoder_lib
from latemask.predict import fill_mask as fill_mask_lib
from latemask.runtime import files
from latemask.tools import export as export_tool
from tests.hub import export_test

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = ["It is in <mask>.", "(<mask>) the", "un<mask>able", "<mask> was",
         "the <mask> man <mask>"]


@pytest.fixture(scope="module")
def tokenizer(packed_dir):
  return kinds.load(packed_dir / "tokenizer.model")


def _load(folder, **options):
  """Returns the model with its code; it lacks nothing and leaves nothing."""
  model, found = transformers.AutoModelForMaskedLM.from_pretrained(
      folder, trust_remote_code=True, output_loading_info=True, **options)
  assert not any(found.values()), found
  return model.eval()


def _as_written(masked, length):
  """Returns the ids that a stock class is given, and the labels, [B, S]."""
  kept = masked.kept_ids_BxK.shape[1]
  places_BxS = np.asarray(masked.place_BxL)[:, :length]
  read_BxP = np.full((len(places_BxS), kept + 10_000), specials.TRAINED.pad)
  read_BxP[:, :kept] = masked.kept_ids_BxK
  read_BxP[:, kept:kept + masked.slot_position_BxQ.shape[1]] = (
      specials.TRAINED.mask)
  ids_BxS = np.take_along_axis(read_BxP, places_BxS, axis=1)
  labels_BxS = np.full_like(ids_BxS, -100)
  for labels_S, index_T, ids_T, weights_T in zip(
      labels_BxS, masked.target_index_BxT, masked.target_ids_BxT,
      np.asarray(masked.target_weights_BxT)):
    real = weights_T > 0
    labels_S[np.asarray(index_T)[real]] = np.asarray(ids_T)[real]
  return ids_BxS, labels_BxS


@pytest.mark.parametrize("architecture, keys", [
    ("roberta_prenorm", {"insertion": "scatter"}),
    ("modern", {"decoder": "cross", "insertion_layer": 2}),
    ("bert", {"tied_output": False}),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [
        ("xlm_roberta", {}), ("camembert", {}),
        ("roberta", {"decoder": "cross"}),
        ("modern", {"insertion_layer": 1}),
        ("roberta_prenorm", {"decoder": "cross", "decoder_queries": "all"})])])
def test_logits_of_late_masks(tiny, tokenizer, tmp_path, architecture, keys):
  """Of all targets: masks, random and same ids, in padded rows."""
  config, params = export_test._pretrained(
      tiny, tokenizer, architecture, **keys)
  hub_folder.export(
      config, params, tokenizer, tmp_path / "out", with_code=True)
  tiny.data.length = export_test.LENGTH
  tiny.masking.update(random_rate=0.2, same_rate=0.2)
  masked = jax.jit(lambda: selection.mask_batch(
      plan_lib.make_plan(tiny, specials.trained(config.vocab_size)),
      jax.random.key(1),
      jnp.arange(5), jnp.asarray(export_test._rows(config.vocab_size))))()
  hidden_BxTxD = jax.jit(lambda p: encoder_lib.LateMaskModel(config).apply(
      {"params": p}, masked))(params)
  wanted_BxTxV = np.asarray(fill_mask_lib.logits(
      params, hidden_BxTxD, config.vocab_size))
  ids_BxS, labels_BxS = _as_written(masked, export_test.LENGTH)
  model = _load(tmp_path / "out")
  found = model(torch.tensor(ids_BxS), labels=torch.tensor(labels_BxS))
  found_BxTxV = np.take_along_axis(
      found.logits.detach().numpy(),
      np.asarray(masked.target_index_BxT)[..., None], axis=1)
  real_BxT = np.asarray(masked.target_weights_BxT) > 0
  corrupted_BxT = real_BxT[:, masked.slot_position_BxQ.shape[1]:]
  assert corrupted_BxT.sum() > 3 and wanted_BxTxV[real_BxT].std() > 0.3
  np.testing.assert_allclose(
      found_BxTxV[real_BxT], wanted_BxTxV[real_BxT], atol=1e-4)
  loss = -np.take_along_axis(
      np.asarray(jax.nn.log_softmax(wanted_BxTxV)),
      np.asarray(masked.target_ids_BxT)[..., None], axis=2)[..., 0][real_BxT]
  assert np.isclose(found.loss.item(), loss.mean(), atol=1e-4)
  # It can be trained on.
  found.loss.backward()
  assert all(torch.isfinite(p.grad).all() for p in model.parameters()
             if p.grad is not None)


@pytest.mark.slow
def test_stock_pipeline_gives_the_words_of_fill_mask(
    tiny, tokenizer, tmp_path, caplog, monkeypatch):
  """Also of a model that has more ids than the tokenizer has words."""
  config, params = export_test._pretrained(
      tiny, tokenizer, "roberta_prenorm", vocab_size=420)
  params["output_bias"] = params["output_bias"].copy()
  params["output_bias"][tokenizer.vocab_size:] = 50.0
  hub_folder.export(
      config, params, tokenizer, tmp_path / "out", with_code=True)
  filler = fill_mask_lib.Filler(pretrained.load(tmp_path / "out"))
  monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
  stock = transformers.pipeline("fill-mask", str(tmp_path / "out"), top_k=400,
                                trust_remote_code=True)
  for found, text in zip(stock(TEXTS, batch_size=3), TEXTS):
    found = found if isinstance(found[0], list) else [found]
    for ours, theirs in zip(filler.fill(text, top=20), found, strict=True):
      words = {filler.word(best["token"]): best["score"] for best in theirs
               if best["token"] < tokenizer.vocab_size}
      np.testing.assert_allclose(
          [words[word] for word, _ in ours], [p for _, p in ours], atol=1e-5,
          rtol=1e-4)
      assert all(best["token"] < tokenizer.vocab_size or best["score"] == 0
                 for best in theirs)
  assert not caplog.records


def test_padding_and_texts_without_a_mask(tiny, tokenizer, tmp_path):
  config, params = export_test._pretrained(tiny, tokenizer, "roberta")
  out = tmp_path / "out"
  hub_folder.export(config, params, tokenizer, out, with_code=True)
  model, stock = _load(out), transformers.AutoTokenizer.from_pretrained(out)
  texts = [*TEXTS, "no mask", "<mask>"]
  for side in ("left", "right"):
    batch = stock(texts, padding=True, return_tensors="pt", padding_side=side)
    with torch.no_grad():
      together = model(**batch).logits
    for text, ids_S, logits_SxV in zip(texts, batch["input_ids"], together):
      with torch.no_grad():
        alone = model(**stock(text, return_tensors="pt")).logits[0]
      torch.testing.assert_close(
          logits_SxV[ids_S != specials.TRAINED.pad], alone, atol=1e-5, rtol=0)
  # Nothing but masks, not even <s>.
  assert torch.isfinite(model(torch.full((1, 3), specials.TRAINED.mask)).logits).all()


def test_trainer_divides_by_its_own_steps(tiny, tokenizer, tmp_path):
  """Else a loss would count once for each step that it accumulates."""
  pytest.importorskip("accelerate")
  ours = export_test._pretrained(tiny, tokenizer, "roberta")
  hub_folder.export(*ours, tokenizer, tmp_path / "out", with_code=True)
  trainer = transformers.Trainer(
      _load(tmp_path / "out"), transformers.TrainingArguments(
          str(tmp_path / "run"), report_to=[], use_cpu=True))
  assert not trainer.model_accepts_loss_kwargs


def test_it_is_saved_as_one_file_that_loads_again(tiny, tokenizer, tmp_path):
  """Also into the folder that it came from."""
  config, params = export_test._pretrained(tiny, tokenizer, "roberta")
  out = tmp_path / "out"
  hub_folder.export(config, params, tokenizer, out, with_code=True)
  model = _load(out)
  with torch.no_grad():
    model.late[0].mlp.out.weight += 0.1
  model.save_pretrained(out)
  ids = torch.tensor([[0, 20, specials.TRAINED.mask, 21, 2]])
  again = _load(out)
  assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize("architecture, tied", [
    ("bert", True), ("modern", True), ("modern", False)])
def test_words_may_be_added(tiny, tokenizer, tmp_path, architecture, tied):
  """By stock's own function; what it saves then loads again."""
  config, params = export_test._pretrained(
      tiny, tokenizer, architecture, tied_output=tied)
  # Then the encoder's row of <mask> is the mask vector.
  params["mask_vector"] = params["embedding"][specials.TRAINED.mask].copy()
  hub_folder.export(
      config, params, tokenizer, tmp_path / "out", with_code=True)
  model = _load(tmp_path / "out")
  ids = torch.tensor([[0, 20, specials.TRAINED.mask, 21, 2]])
  with torch.no_grad():
    before = model(ids).logits
    model.resize_token_embeddings(config.vocab_size + 5)
    after = model(ids).logits
  assert after.shape[-1] == config.vocab_size + 5
  assert torch.equal(after[..., :config.vocab_size], before)
  assert (model.output.weight is model.get_input_embeddings().weight) == tied
  ids[0, 1] = config.vocab_size + 4
  model(ids, labels=ids).loss.backward()
  model.save_pretrained(tmp_path / "more")
  assert torch.equal(_load(tmp_path / "more")(ids).logits, model(ids).logits)


@pytest.mark.parametrize("architecture", ["roberta_prenorm", "modern"])
def test_the_folder_stays_what_it_is(
    tiny, tokenizer, tmp_path, architecture):
  """AutoModel is the stock encoder, and the way back is bit-equal."""
  config, params = export_test._pretrained(tiny, tokenizer, architecture)
  for name, with_code in (("bare", False), ("code", True)):
    hub_folder.export(config, params, tokenizer, tmp_path / name,
                      with_code=with_code)
  bare, code = tmp_path / "bare", tmp_path / "code"
  for file in ("model.safetensors", "latemask.safetensors", "tokenizer.json"):
    assert (bare / file).read_bytes() == (code / file).read_bytes()
  for trust in (None, True):
    model, found = transformers.AutoModel.from_pretrained(
        code, output_loading_info=True, trust_remote_code=trust)
    assert type(model).__module__.startswith("transformers.models.")
    assert not found["unexpected_keys"] and not found["mismatched_keys"]
    assert all("pooler" in key for key in found["missing_keys"])
  back_config, back, *_ = hub_folder.load(code)
  assert back_config == config
  jax.tree.map(np.testing.assert_array_equal, back, params)


def test_masks_at_the_input_need_no_code(tiny, tokenizer, tmp_path):
  config, params = export_test._pretrained(
      tiny, tokenizer, "roberta", insertion_layer=0)
  out = tmp_path / "out"
  assert hub_folder.export(config, params, tokenizer, out, with_code=True
                           ) == "RobertaForMaskedLM"
  assert "auto_map" not in json.loads((out / "config.json").read_text())
  assert not (out / "modeling_latemask.py").exists()


def test_refusals(tiny, tokenizer, tmp_path):
  config, params = export_test._pretrained(tiny, tokenizer, "roberta")
  out = tmp_path / "out"
  with pytest.raises(errors.InputError, match="leave out --keep_layers 4"):
    hub_folder.export(config, params, tokenizer, out, 4, with_code=True)
  headless = {k: v for k, v in params.items() if k != "head"}
  with pytest.raises(errors.InputError, match="predicts no words"):
    hub_folder.export(config, headless, tokenizer, out, with_code=True)
  assert not out.exists()


def _card(folder):
  """Returns (front matter by line, text) of README.md."""
  _, front, text = (folder / "README.md").read_text().split("---\n", 2)
  return front.splitlines(), text


def test_the_card_says_what_it_is(run, tmp_path, monkeypatch):
  loaded = pretrained.load(run[0])
  assert loaded.steps == 4 and re.fullmatch("[0-9a-f]{64}", loaded.rows)
  said = dict(masking=loaded.masking, steps=loaded.steps, rows=loaded.rows,
              trained_length=loaded.trained_length)
  bare, code = tmp_path / "bare", tmp_path / "code"
  hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, bare,
                    **said)
  hub_folder.export(loaded.config, loaded.params, loaded.tokenizer, code,
                    with_code=True, sentence=True, **said)
  front, text = _card(bare)
  assert "pipeline_tag: feature-extraction" in front
  assert "**The head that guesses words is not in the stock class.**" in text
  assert loaded.rows in text and loaded.tokenizer.digest in text
  assert re.search(r"steps of its last training +\| 4 ", text)
  front, text = _card(code)
  assert {"pipeline_tag: fill-mask", "library_name: transformers",
          "- custom_code", "- sentence-transformers"} <= set(front)
  assert "not in the stock class" not in text
  assert pretrained.load(code).steps == 4
  assert pretrained.load(code).rows == loaded.rows
  monkeypatch.chdir(code)
  blocks = re.findall(r"```python\n(.*?)```", text, re.S)
  assert len(blocks) == 4
  for block in blocks:
    if "sentence_transformers" not in block:
      exec(block, {})


def test_the_card_of_an_encoder_with_late_layers(tiny, tokenizer, tmp_path):
  config, params = export_test._pretrained(tiny, tokenizer, "roberta")
  for keep, says in ((2, "met no mask there"), (4, "the last 1 did meet them.")):
    hub_folder.export(config, params, tokenizer, tmp_path / str(keep), keep)
    assert says in _card(tmp_path / str(keep))[1]


def test_a_card_that_was_edited_is_kept(tiny, tokenizer, tmp_path):
  config, params = export_test._pretrained(tiny, tokenizer, "roberta")
  out = tmp_path / "out"
  hub_folder.export(config, params, tokenizer, out, with_code=True,
                    sentence=True)
  hub_folder.export(config, params, tokenizer, out, overwrite=True)
  assert not (out / "1_Pooling").exists()
  (out / "README.md").write_text("My words.")
  with pytest.raises(errors.InputError, match="README.md is not as it was"):
    hub_folder.export(config, params, tokenizer, out, overwrite=True)
  assert (out / "README.md").read_text() == "My words."
  (out / "README.md").unlink()
  (out / "1_Pooling").mkdir()
  (out / "1_Pooling" / "mine").write_text("")
  with pytest.raises(errors.InputError, match="holds something else"):
    hub_folder.export(config, params, tokenizer, out, overwrite=True)


def test_an_upload_that_was_cut_off_is_written_anew(
    tiny, tokenizer, tmp_path, monkeypatch):
  """Its card has come, and what knows the card has not."""
  config, params = export_test._pretrained(tiny, tokenizer, "roberta")
  out = tmp_path / "out"
  hub_folder.export(config, params, tokenizer, out)
  (out / "latemask.json").unlink()
  with pytest.raises(errors.InputError, match="no latemask.json"):
    hub_folder.check_out(out, overwrite=True)
  monkeypatch.setattr(files, "is_remote", lambda path: True)
  hub_folder.check_out(out, overwrite=True)


def test_vectors_of_sentence_transformers(tiny, tokenizer, tmp_path):
  sentence_transformers = pytest.importorskip("sentence_transformers")
  config, params = export_test._pretrained(tiny, tokenizer, "modern")
  out = tmp_path / "out"
  hub_folder.export(config, params, tokenizer, out, sentence=True,
                    trained_length=20)
  texts = ["the man", "it was there " * 20, "he"]
  stock = transformers.AutoTokenizer.from_pretrained(out)
  batch = stock(texts, padding=True, truncation=True, return_tensors="pt")
  assert batch["input_ids"].shape[1] == 20
  with torch.no_grad():
    states = transformers.AutoModel.from_pretrained(
        out)(**batch).last_hidden_state
  real = batch["attention_mask"][..., None]
  wanted = (states * real).sum(1) / real.sum(1)
  model = sentence_transformers.SentenceTransformer(str(out), device="cpu")
  assert model.max_seq_length == 20
  np.testing.assert_allclose(model.encode(texts), wanted, atol=1e-5)


def test_the_command(run, tmp_path, monkeypatch, capsys):
  out = tmp_path / "out"
  monkeypatch.setattr(sys, "argv", [
      "export", "--init_from", str(run[0]), "--out", str(out), "--with_code",
      "--sentence"])
  export_tool.main()
  assert "trust_remote_code=True" in capsys.readouterr().out
  assert {path.name for path in out.iterdir()} >= {
      "1_Pooling", "README.md", "modeling_latemask.py", "modules.json"}
  again = pretrained.load(out)
  assert again.steps == 4 and again.masking == pretrained.load(run[0]).masking
