"""The tokenizer of an export: its own files, and stock reads them.

The oracle is `AutoTokenizer` of transformers.
"""

import json

import pytest

from latemask.data.tokenizers import kinds
from latemask.hub import tokenizer as hub_tokenizer
from tests import conftest
from tests.data.tokenizers import huggingface_test

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("make, option", [
    (huggingface_test._words, True), (huggingface_test._bytes, False),
    (huggingface_test._unigram, None)])
@pytest.mark.parametrize("has_settings", [True, False])
@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_stock_reads_it(tmp_path, make, option, has_settings, model_type):
  """Whatever the files are, and whatever class the model has."""
  source, out = tmp_path / "source", tmp_path / "out"
  source.mkdir()
  out.mkdir()
  make(source, option)
  if not has_settings:
    (source / "tokenizer_config.json").unlink()
  ours = kinds.load(source)
  config = conftest.model_config(
      {"bert": "bert", "modernbert": "modern"}[model_type])
  files = hub_tokenizer.files(ours, config, 24)
  lines = huggingface_test._lines()[:200]
  ids, types = ours.template.row(ours.encode(lines[:2]))
  settings = json.loads(files["tokenizer_config.json"])
  names = settings.pop("model_input_names", None)
  assert {name: files[name] for name in ours.files} == ours.files | (
      {"tokenizer_config.json": files["tokenizer_config.json"]}
      if names and has_settings else {})
  assert ours.settings.items() <= settings.items()
  for name, content in files.items():
    (out / name).write_bytes(content)
  (out / "config.json").write_text(json.dumps({"model_type": model_type}))
  stock = transformers.AutoTokenizer.from_pretrained(out)
  assert has_settings or stock.model_max_length == 24
  assert hub_tokenizer.cuts_to(ours, config, 24) == (
      None if has_settings else 24)
  assert [ids.tolist() for ids in ours.encode(lines)] == stock(
      lines, add_special_tokens=False)["input_ids"]
  found = stock(*lines[:2], return_token_type_ids=True)
  assert (ids.tolist(), types.tolist()) == (
      found["input_ids"], found["token_type_ids"])
  # As pipelines call it: with types where the model was trained with some.
  if types.any():
    assert ("token_type_ids" in stock(*lines[:2])) == (model_type == "bert")
  # What is asked for comes before what it says itself, which stays.
  asked = json.loads(
      hub_tokenizer.files(ours, config, 24, 16)["tokenizer_config.json"])
  assert asked["model_max_length"] == hub_tokenizer.cuts_to(
      ours, config, 24, 16) == 16
  assert ours.settings.items() <= asked.items()
  # The way back, from a folder of ours.
  (out / "latemask.json").touch()
  back = kinds.load(out)
  assert back.digest == ours.digest and back.files.items() >= {
      k: v for k, v in ours.files.items() if k in files and v == files[k]
      }.items()


@pytest.mark.parametrize("architecture, length", [
    ("roberta", 64), ("modern", 512)])
def test_no_more_tokens_than_positions(tmp_path, architecture, length):
  """Rotary positions have no end."""
  huggingface_test._bytes(tmp_path, False)
  path = tmp_path / "tokenizer_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {
      "model_max_length": 512}))
  ours = kinds.load(tmp_path)
  config = conftest.model_config(architecture)
  assert hub_tokenizer.cuts_to(ours, config, 24) == length
  assert json.loads(hub_tokenizer.files(ours, config, 24)[
      "tokenizer_config.json"])["model_max_length"] == length
