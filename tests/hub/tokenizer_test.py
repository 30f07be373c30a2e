"""The tokenizer of an export: its own files, and stock reads them.

The oracle is `AutoTokenizer` of transformers.
"""

import json

import pytest

from latemask.data.tokenizers import kinds
from latemask.hub import tokenizer as hub_tokenizer
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
  files = hub_tokenizer.files(ours, 24)
  assert {name: files[name] for name in ours.files} == ours.files
  for name, content in files.items():
    (out / name).write_bytes(content)
  (out / "config.json").write_text(json.dumps({"model_type": model_type}))
  stock = transformers.AutoTokenizer.from_pretrained(out)
  assert has_settings or stock.model_max_length == 24
  assert hub_tokenizer.cuts_to(ours, 24) == (None if has_settings else 24)
  lines = huggingface_test._lines()[:200]
  assert [ids.tolist() for ids in ours.encode(lines)] == stock(
      lines, add_special_tokens=False)["input_ids"]
  ids, types = ours.template.row(ours.encode(lines[:2]))
  found = stock(*lines[:2], return_token_type_ids=True)
  assert (ids.tolist(), types.tolist()) == (
      found["input_ids"], found["token_type_ids"])
  # What is asked for comes before what it says itself, which stays.
  asked = json.loads(
      hub_tokenizer.files(ours, 24, 16)["tokenizer_config.json"])
  assert asked["model_max_length"] == hub_tokenizer.cuts_to(ours, 24, 16) == 16
  assert ours.settings.items() <= asked.items()
  # The way back, from a folder of ours.
  (out / "latemask.json").touch()
  back = kinds.load(out)
  assert back.digest == ours.digest and ours.files.items() <= (
      back.files.items())
