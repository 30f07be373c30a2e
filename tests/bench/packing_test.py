"""The bench of packing: what it prints; that both sides do all the text."""

import re

from latemask.bench import packing
from latemask.data.tokenizers import kinds
from tests import conftest


def test_both_sides_encode_everything(capsys, tmp_path):
  texts = conftest.make_text(200).splitlines()
  for kind in kinds.TRAINED:
    tokenizer = kinds.train(kind, texts, 400)
    found = sum(map(len, tokenizer.encode(texts)))
    assert packing._library(tokenizer, texts)[1] == found
    # Rows have <s> and </s> besides, and drop ends that are too short.
    assert 0.8 * found < packing._rows(tokenizer, texts)[1] < 1.3 * found
    assert all(rate > 0 for rate in packing.compare(tokenizer, texts, 1))


def test_table(capsys, tmp_path):
  (tmp_path / "text.txt").write_text(conftest.make_text(100))
  packing._run(packing._parser().parse_args([
      "--text", f"{tmp_path}/*.txt", "--tokenizer", "bpe", "--repeats", "1",
      "--megabytes", "0.01"]))
  told = capsys.readouterr().out
  assert len(re.findall(r"^\| bpe  *\| (?:this|worker) ", told, re.M)) == 2
