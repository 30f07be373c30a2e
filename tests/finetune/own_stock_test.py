"""Own files of every kind: trained, exported, served by stock, labelled here.

The encoder is a stock folder with random weights; what is asked is that both
say the same, and that what can be learned is.
"""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune
from latemask import errors
from latemask.bench import finetune as bench
from latemask.finetune import batches
from latemask.finetune import data as data_lib
from latemask.finetune import grid as grid_lib
from latemask.finetune import losses
from latemask.finetune import run as finetune_run
from latemask.finetune import step as finetune_step
from latemask.finetune.tasks import kinds
from latemask.model import heads
from latemask.predict import labels as labels_lib
from latemask.tools import predict
from tests.finetune import stock_test

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.usefixtures("few_devices"), pytest.mark.slow]


def _texts(num_rows, seed):
  """Returns texts of 6 to 12 words that begin with she or he."""
  rng = np.random.default_rng(seed)
  return [" ".join([rng.choice(["she", "he"]), *rng.choice(
      ["time", "old", "had", "on", "the", "others"], rng.integers(5, 11))])
          for _ in range(num_rows)]


def _is_she(text):
  return text.startswith("she")


def _span_row(text):
  first = "she" if _is_she(text) else "he"
  return {"question": "who had time ?", "context": f"the old {text}",
          "answers": [{"text": first, "answer_start": 8}]}


# Kind -> (columns of the texts, row of a text).
_ROWS = {
    "classes": (("text",), lambda text: {
        "text": text, "label": "yes" if _is_she(text) else "no"}),
    "multilabel": (("text",), lambda text: {
        "text": text, "label": ["she"] * _is_she(text) + ["old"] * (
            "old" in text)}),
    "number": (("text",), lambda text: {
        "text": text, "label": 100 + 50 * _is_she(text)}),
    "tokens": (("tokens",), lambda text: {
        "tokens": text.split(), "label": [
            {"she": "B-X", "he": "B-Y"}.get(word, "O")
            for word in text.split()]}),
    "span": (("question", "context"), _span_row),
}


def _config(folder, kind, num_rows=64, **changes):
  text, row = _ROWS[kind]
  config = finetune.get_config()
  config.task.kind, config.data.text = kind, text
  config.data.label = "answers" if kind == "span" else "label"
  for split, seed in (("train", 1), ("dev", 2), ("test", 3)):
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row(one)) + "\n" for one in _texts(
        num_rows if split == "train" else 16, seed)))
    config.data[split] = str(path)
  config.init_from, config.max_length = str(folder / "stock"), 24
  config.dropout, config.grid.batch_sizes = 0.0, (16,)
  config.grid.learning_rates, config.grid.num_epochs = (1e-2,), 20
  config.update_from_flattened_dict(changes)
  return config


def _stock(folder):
  """Returns (tokenizer, model) of a folder."""
  name, = json.loads((folder / "config.json").read_text())["architectures"]
  model = getattr(transformers, name).from_pretrained(folder).eval()
  return transformers.AutoTokenizer.from_pretrained(folder), model


def _stock_says(kind, folder, rows):
  """Returns what stock says of rows, as `labels.Labeller` puts it."""
  if kind in ("classes", "multilabel", "number"):
    pipe = transformers.pipeline("text-classification", model=str(folder))
    found = pipe([row["text"] for row in rows], top_k=None)
    key = {"number": "number"}.get(kind, "probabilities")
    return [{key: found[0]["score"] if kind == "number" else {
        one["label"]: one["score"] for one in found}} for found in found]
  tokenizer, model = _stock(folder)
  said = []
  for row in rows:
    if kind == "tokens":
      batch = tokenizer(row["tokens"], is_split_into_words=True,
                        return_tensors="pt")
      with torch.no_grad():
        tags = model(**batch).logits[0].argmax(-1).tolist()
      words = batch.word_ids()
      said.append({"tags": [model.config.id2label[tags[words.index(word)]]
                            for word in range(len(row["tokens"]))]})
    else:
      batch = tokenizer(row["question"], row["context"], return_tensors="pt",
                        return_offsets_mapping=True)
      offsets = batch.pop("offset_mapping")[0].tolist()
      with torch.no_grad():
        found = model(**batch)
      is_context = torch.tensor([s == 1 for s in batch.sequence_ids()])
      scores = (found.start_logits[0][:, None] + found.end_logits[0][None])
      scores[~is_context] = scores[:, ~is_context] = -torch.inf
      first, last = divmod(int(scores.triu().where(
          torch.ones_like(scores).triu() > 0, -torch.inf).argmax()), len(scores))
      said.append({"start": offsets[first][0], "stop": offsets[last][1]})
  return said


def _same(kind, ours, stock):
  for our, their in zip(ours, stock, strict=True):
    for key, value in their.items():
      if isinstance(value, dict):
        assert our[key] == pytest.approx(value, abs=1e-4)
      elif kind == "number":
        assert our[key] == pytest.approx(value, rel=1e-4)
      else:
        assert our[key] == value


@pytest.mark.parametrize("kind", _ROWS)
def test_learned_exported_served(tmp_path, kind, monkeypatch, capsys):
  stock_test._folder(tmp_path / "stock", kind="Model")
  config = _config(tmp_path, kind, predict_test=True)
  workdir = tmp_path / "tuned"
  results = finetune_run.finetune(config, workdir)
  assert results[kind][0]["score"] > 0.8, results[kind][0]["epochs"]
  capsys.readouterr()
  monkeypatch.setattr("sys.argv", [
      "predict", "--init_from", str(workdir), "--input", config.data.dev,
      "--out", str(tmp_path / "said.jsonl")])
  predict.main()
  rows = [json.loads(line) for line in open(config.data.dev)]
  ours = [json.loads(line) for line in open(tmp_path / "said.jsonl")]
  _same(kind, ours, _stock_says(kind, workdir / "export" / kind, rows))
  # A long text is cut where training cut it.
  assert _stock(workdir / "export" / kind)[0].model_max_length == 24
  if kind == "tokens":
    assert ours[0]["entities"][0]["text"] in ("she", "he")
    pipe = transformers.pipeline(
        "token-classification", model=str(workdir / "export" / kind),
        aggregation_strategy="first")
    for row, our in zip(rows, ours):
      assert [(e["type"], e["text"]) for e in our["entities"]] == [
          (e["entity_group"], e["word"]) for e in pipe(" ".join(row["tokens"]))]
  lines = (workdir / "test" / f"{kind}.tsv").read_text().splitlines()
  assert len(lines) == 17 and lines[0] == "row\tprediction"
  # Again: nothing is trained, and a file that is there is not written over.
  assert finetune_run.finetune(config, workdir) == results
  with pytest.raises(SystemExit) as ended:
    predict.main()
  assert ended.value.code == 2
  assert "said.jsonl exists" in capsys.readouterr().err
  if kind == "classes":  # Other rows to answer, and a model that is lost.
    shutil.rmtree(workdir / "export")
    config.data.test = config.data.train
    assert finetune_run.finetune(config, workdir) == results
    assert (workdir / "export" / kind / "config.json").exists()
    lines = (workdir / "test" / f"{kind}.tsv").read_text().splitlines()
    assert len(lines) == 65


@pytest.mark.parametrize("kind, architecture", [
    ("tokens", "modern"), ("span", "bert"),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (
        ("multilabel", "bert"), ("number", "modern"), ("span", "modern")))])
def test_first_losses_are_those_of_stock(tmp_path, kind, architecture):
  stock_test._folder(tmp_path / "stock", architecture, kind="Model")
  config = _config(tmp_path, kind)
  model, params, tokenizer, length = finetune_run.load(config)
  data, = data_lib.read(config, params, tokenizer, length)
  program = finetune_step.make_program(
      config, model, params, tokenizer.specials, *data.program)
  ours, theirs = bench.first_losses(
      config, program, tokenizer, data, grid_lib.Cell(16, 1e-2, 0), 12)
  np.testing.assert_allclose(ours, theirs, atol=1e-4)
  assert ours[-1] < ours[0]


def test_windows_are_averaged(tmp_path):
  """A long text, with a stride: training and labels read all of it."""
  stock_test._folder(tmp_path / "stock", kind="Model")
  config = _config(tmp_path, "classes", **{"data.stride": 2, "max_length": 8})
  finetune_run.finetune(config, tmp_path / "tuned")
  labeller = labels_lib.Labeller(tmp_path / "tuned")
  text = "she had time on the old others"
  said, = labeller.label([[text]])
  tokenizer, model = _stock(tmp_path / "tuned" / "export" / "classes")
  batch = tokenizer(text, max_length=8, stride=2, truncation=True,
                    return_overflowing_tokens=True, padding=True,
                    return_tensors="pt")
  del batch["overflow_to_sample_mapping"]
  with torch.no_grad():
    logits_C = model(**batch).logits.mean(0)
  assert len(batch["input_ids"]) > 1
  np.testing.assert_allclose(
      list(said["probabilities"].values()), logits_C.softmax(-1), atol=1e-5)


def test_weighted_losses_are_those_of_pytorch():
  r = np.random.default_rng(0)
  logits = r.normal(size=(9, 3)).astype(np.float32)
  weights, here = r.uniform(0.2, 3, 3).astype(np.float32), np.ones(9)
  for kind, targets, stock in (
      ("classes", r.integers(0, 3, 9), lambda logits, targets:
       torch.nn.functional.cross_entropy(
           logits, targets, weight=torch.tensor(weights))),
      ("multilabel", r.integers(0, 2, (9, 3)).astype(np.float32),
       torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights)))):
    total, weight = losses.LOSSES[kind](
        logits, targets, None, here, jnp.asarray(weights))
    np.testing.assert_allclose(total / weight, stock(
        torch.tensor(logits), torch.tensor(targets)), rtol=1e-5)


def test_dropout_is_that_of_the_config(tmp_path):
  stock_test._folder(tmp_path / "stock", kind="Model")
  found = {}
  for dropout in (0.0, 0.5):
    config = _config(tmp_path, "classes", dropout=dropout)
    model, params, tokenizer, length = finetune_run.load(config)
    data, = data_lib.read(config, params, tokenizer, length)
    program = finetune_step.make_program(
        config, model, params, tokenizer.specials, *data.program)
    cell = batches.collate(data.train, np.arange(16), 16, data.lengths)
    found[dropout] = [float(program.train_step(
        program.init_state(np.uint32(0)), cell, 0.0, np.uint32(seed))[1])
                      for seed in (1, 2)]
  assert found[0.0][0] == found[0.0][1]
  assert len({*found[0.0], *found[0.5]}) == 3


def test_a_head_of_numbers_goes_on_in_units_of_the_task(tmp_path):
  """What it said before the first step is what it said as it came."""
  stock_test._folder(tmp_path / "stock", kind="Model")
  config = _config(tmp_path, "number")
  for split in ("train", "dev"):
    rows = [json.loads(line) for line in open(config.data[split])]
    with open(config.data[split], "w") as file:
      file.writelines(json.dumps(
          row | {"label": 300 + 50 * row["label"]}) + "\n" for row in rows)
  model, params, tokenizer, length = finetune_run.load(config)
  fresh, = data_lib.read(config, params, tokenizer, length)
  r = np.random.default_rng(0)
  params["head"] = heads.init(model, 1, jax.random.key(0)) | {
      "out_kernel": r.normal(size=(model.width, 1)).astype(np.float32),
      "out_bias": np.array([287.0], np.float32)}
  data, = data_lib.read(config, params, tokenizer, length)
  assert abs(data.task.shift) > 100 and data.task.scale > 10
  program = finetune_step.make_program(
      config, model, params, tokenizer.specials, *data.program)
  begun = program.init_state(np.uint32(0)).params
  said = kinds.answers(data.task, data.dev[""], program.predict(
      begun, data.dev[""], data.lengths))
  as_it_came = program.predict(
      begun | {"head": params["head"]}, data.dev[""], data.lengths)[:, 0]
  assert np.ptp(as_it_came) > 0.1
  np.testing.assert_allclose(said, as_it_came, rtol=1e-5)
  assert fresh.labels_digest == data.labels_digest


def test_other_names_of_labels_are_other_labels(tmp_path):
  stock_test._folder(tmp_path / "stock", kind="Model")
  found = []
  for names in ({}, {"no": "never"}):
    config = _config(tmp_path, "classes")
    for split in ("train", "dev"):
      text = pathlib.Path(config.data[split]).read_text()
      rows = [json.loads(line) for line in text.splitlines()]
      pathlib.Path(config.data[split]).write_text("".join(json.dumps(
          row | {"label": f"{names.get('no', 'n')}-{row['label']}"}) + "\n"
                                                          for row in rows))
    model, params, tokenizer, length = finetune_run.load(config)
    found += data_lib.read(config, params, tokenizer, length)
  one, other = found
  assert one.digest == other.digest
  path = grid_lib.cell_path(tmp_path, one.name, "cell")
  path.parent.mkdir(parents=True)
  cell = {"digest": one.digest}
  path.write_text(json.dumps(cell))
  grid_lib.check_digests(tmp_path, other)  # Before there was the second.
  path.write_text(json.dumps(cell | {"labels_digest": one.labels_digest}))
  grid_lib.check_digests(tmp_path, one)
  with pytest.raises(errors.InputError, match="rows or labels than this"):
    grid_lib.check_digests(tmp_path, other)


def test_class_weights(tmp_path):
  """Balanced: each class weighs as much, all its rows together."""
  stock_test._folder(tmp_path / "stock", kind="Model")
  config = _config(tmp_path, "classes", **{"task.class_weights": "balanced"})
  model, params, tokenizer, length = finetune_run.load(config)
  data, = data_lib.read(config, params, tokenizer, length)
  counts = np.bincount(data.train.targets)
  np.testing.assert_allclose(
      np.array(data.class_weights) * counts, len(data.train) / 2)
  config = _config(tmp_path, "number", **{"task.class_weights": "balanced"})
  with pytest.raises(errors.InputError, match="kind number has no classes"):
    data_lib.read(config, params, tokenizer, length)


@pytest.mark.parametrize("arguments, message", [
    (["--init_from", "{stock}"], "BertModel, which was fine-tuned for nothing"),
    (["--init_from", "{stock}/no"], "config.json cannot be read"),
    (["--init_from", "{stock}", "--input", "no.csv"], "there is no file no.csv"),
    (["--init_from", "{stock}", "--stride", "-1"], "argument --stride: '-1'"),
    (["--init_from", "{stock}", "--max_length", "1"],
     "argument --max_length: '1' is no whole number of at least 3"),
])
def test_what_cannot_be_labelled(
    tmp_path, arguments, message, monkeypatch, capsys):
  stock_test._folder(tmp_path / "stock", kind="Model")
  monkeypatch.setattr("sys.argv", ["predict", *(
      a.format(stock=tmp_path / "stock") for a in arguments)])
  capsys.readouterr()
  with pytest.raises(SystemExit) as ended:
    predict.main()
  assert ended.value.code == 2
  told = capsys.readouterr().err
  assert message in told and told.count("\n") == 1
