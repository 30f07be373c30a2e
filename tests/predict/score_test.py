"""Pseudo-log-likelihoods against a loop of one mask at a time, and stock."""

import dataclasses
import functools
import io
import json
import sys

import jax
import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.masking import masked as masked_lib
from latemask.model import encoder as encoder_lib
from latemask.predict import score as score_lib
from latemask.predict import texts
from latemask.tools import score as score_tool

TEXTS = ["the man was there", "he", "it was great to be there when they came "
         "out in their time", "xyz the  man", "he <mask> there", "he"]


@pytest.fixture(scope="module")
def loaded(run):
  """The run, with larger random parameters: what it learned is little."""
  found = pretrained.load(run[0])
  rng = np.random.default_rng(0)
  return dataclasses.replace(found, params=jax.tree.map(
      lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32),
      found.params))


@functools.partial(jax.jit, static_argnums=0)
def _apply(config, params, masked):
  return encoder_lib.LateMaskModel(config).apply({"params": params}, masked)


def _by_loop(loaded, ids_S, hidden):
  """Returns log p of the first hidden place, all in one unpadded row."""
  row_S = ids_S.copy()
  row_S[hidden] = specials.TRAINED.mask
  hidden_TxD = _apply(loaded.config, loaded.params, masked_lib.with_masks(
      row_S, specials.TRAINED, len(ids_S) - len(hidden), len(hidden)))[0]
  logits_V = (np.asarray(hidden_TxD[0]) @ loaded.params["embedding"].T
              + loaded.params["output_bias"])[:loaded.tokenizer.vocab_size]
  logits_V = logits_V.astype(np.float64)
  return logits_V[ids_S[hidden[0]]] - np.log(np.exp(logits_V).sum())


def test_scores_are_those_of_a_loop(loaded):
  scorer = score_lib.Scorer(loaded)
  ids = [scorer.ids(text) for text in TEXTS]
  # No special token of the text itself, and two shapes of batches.
  assert specials.TRAINED.mask not in np.concatenate(ids)
  scored = scorer.score(ids, batch_size=7)
  for ids_S, found in list(zip(ids, scored))[2:3]:
    wanted = [_by_loop(loaded, ids_S, [place])
              for place in range(1, len(ids_S) - 1)]
    assert np.std(wanted) > 0.1 and len(wanted) > 7
    np.testing.assert_allclose(found.log_probabilities_S, wanted, atol=1e-4)
    assert np.isclose(found.score, sum(wanted), atol=1e-3)
    np.testing.assert_array_equal(found.ids_S, ids_S[1:-1])
  assert scored[1].score == scored[5].score


@pytest.mark.slow
def test_within_word_hides_what_follows(loaded):
  scorer = score_lib.Scorer(loaded, within_word=True)
  ids_S = scorer.ids("xyz the")
  found, = scorer.score([ids_S], batch_size=8)
  starts_V = loaded.tokenizer.word_start_V("spaces")
  ends = [next(end for end in range(place + 1, len(ids_S))
               if starts_V[ids_S[end]]) for place in range(1, len(ids_S) - 1)]
  assert ends[0] - 1 > 2
  np.testing.assert_allclose(found.log_probabilities_S[[0, -1]], [
      _by_loop(loaded, ids_S, list(range(place, ends[place - 1])))
      for place in (1, len(ends))], atol=1e-4)


@pytest.mark.slow
def test_scores_are_those_of_stock(loaded, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  # Masks at the input: the layers of both stacks, one behind the other.
  params = dict(loaded.params)
  params["late"] = jax.tree.map(
      lambda a, b: np.concatenate([a, b]), params.pop("early"), params["late"])
  loaded = dataclasses.replace(loaded, params=params, config=dataclasses.replace(
      loaded.config, insertion_layer=0))
  hub_folder.export(loaded.config, params, loaded.tokenizer, tmp_path / "out")
  model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  scorer = score_lib.Scorer(loaded)
  texts = TEXTS[:3]
  for text, found in zip(texts, scorer.score(
      [scorer.ids(text) for text in texts], batch_size=16)):
    ids_1xS = tokenizer(text, return_tensors="pt")["input_ids"]
    wanted = 0
    for place in range(1, ids_1xS.shape[1] - 1):
      hidden_1xS = ids_1xS.clone()
      hidden_1xS[0, place] = tokenizer.mask_token_id
      with torch.no_grad():
        wanted += model(hidden_1xS).logits[0, place].log_softmax(
            -1)[ids_1xS[0, place]].item()
    assert np.isclose(found.score, wanted, atol=1e-3)


def test_share_of_pairs():
  def scored(*scores):
    return [score_lib.Scored(np.arange(1), np.array([s])) for s in scores]
  share, error, ties = score_lib.share_of_pairs(
      scored(-1, -2, -3, -4), scored(-2, -1, -3, -5))
  assert (share, ties) == (0.5, 1)
  assert np.isclose(error, 0.25)


def _call(monkeypatch, *argv, stdin=b""):
  monkeypatch.setattr(sys, "argv", ["score", *map(str, argv)])
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
  score_tool.main()


@pytest.mark.slow
def test_the_command(run, tmp_path, monkeypatch, capsys):
  scorer = score_lib.Scorer(pretrained.load(run[0]))
  wanted = [one.score for one in scorer.score(
      [scorer.ids(text) for text in TEXTS])]
  _call(monkeypatch, "--workdir", run[0],
        stdin=("\ufeff" + "\r\n".join(TEXTS)).encode())
  lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
  np.testing.assert_allclose([float(l[0]) for l in lines], wanted, atol=1e-4)
  assert [l[2] for l in lines] == TEXTS
  (tmp_path / "good").write_text("\n".join(TEXTS[:3]))
  (tmp_path / "bad").write_text("\n".join(TEXTS[3:]))
  _call(monkeypatch, "--workdir", run[0], "--pairs", tmp_path / "good",
        tmp_path / "bad", "--json", "--out", tmp_path / "out" / "pairs")
  told = json.loads(capsys.readouterr().out)
  wins = [good > bad for good, bad in zip(wanted[:3], wanted[3:])]
  assert told["pairs"] == 3 and np.isclose(told["share"], np.mean(wins), 1e-5)
  rows = [json.loads(line) for line in
          (tmp_path / "out" / "pairs").read_text().splitlines()]
  assert [row["bad"] for row in rows] == TEXTS[3:]
  (tmp_path / "pairs").write_text("the man\tman the\nhe\the\n")
  _call(monkeypatch, "--workdir", run[0], "--pairs", tmp_path / "pairs")
  assert "of 2 pairs; in 1 both score equally" in capsys.readouterr().out


@pytest.mark.parametrize("stdin, argv, says", [
    (b"the\n\nman", [], "standard input, line 2: there is no text"),
    (b"", [], "standard input has no line"),
    (b"the\n\xff", [], "standard input, line 2: 'utf-8'"),
    (b"the\n" + b"the " * 40, [], "line 2: a text of 42 tokens is too long"),
    (b"the", ["--max_length", "65"], "the model has 64 positions"),
    (b"the", ["--max_length", "2"],
     "argument --max_length: '2' is no whole number of at least 3"),
    (b"the", ["--batch_size", "0"], "argument --batch_size: '0'"),
    (b"the", ["no_such_file"], "no_such_file cannot be read (No such file"),
    (b"", ["--pairs", "pairs"], "pairs, line 2 has 1 columns"),
    (b"", ["--pairs", "pairs", "one"], "pairs has 2 lines and one has 1"),
    (b"", ["--pairs", "one", "one", "one"], "one file or two, not 3"),
    (b"", ["one", "--pairs", "one"], "not both"),
    (b"the", ["--out", "one"], "--out one exists")])
def test_bad_input(run, tmp_path, monkeypatch, capsys, stdin, argv, says):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "pairs").write_text("the\tman\nthe man\n")
  (tmp_path / "one").write_text("the man\n")
  with pytest.raises(SystemExit) as ended:
    _call(monkeypatch, "--workdir", run[0], *argv, stdin=stdin)
  assert ended.value.code == 2
  line, = capsys.readouterr().err.splitlines()
  assert says in line
  assert (tmp_path / "one").read_text() == "the man\n"


def test_standard_input_that_is_closed(monkeypatch):
  monkeypatch.setattr("sys.stdin", None)
  with pytest.raises(errors.InputError, match="standard input is closed"):
    list(texts.lines())


def test_what_is_left_of_a_text_must_be_scored(loaded, monkeypatch):
  scorer = score_lib.Scorer(loaded, max_length=4)
  ids, = loaded.tokenizer.encode(["he the man"])
  monkeypatch.setattr(scorer, "_ordinary", lambda ids_S: np.flatnonzero(
      np.asarray(ids_S) == ids[-1]))
  with pytest.raises(errors.InputError, match="'he the man', cut to 4 tokens"):
    scorer.ids("he the man", truncate=True)


def test_an_encoder_alone_scores_nothing(loaded):
  params = {k: v for k, v in loaded.params.items() if k != "head"}
  with pytest.raises(errors.InputError, match="no head"):
    score_lib.Scorer(dataclasses.replace(loaded, params=params))


def test_the_perplexity_of_a_model_that_diverged(capsys):
  found = score_lib.Scored(np.array([1]), np.array([-1e30]))
  score_tool._tell_perplexity([found])
  assert "pseudo-perplexity inf" in capsys.readouterr().err
