"""Rows of fine-tuning: what is cut where two texts are too long."""

import itertools

import tokenizers as library

from latemask.finetune import batches


def test_pairs_are_cut_as_stock_cuts_them():
  stock = library.Tokenizer(library.models.WordLevel({"a": 0}, unk_token="a"))
  stock.pre_tokenizer = library.pre_tokenizers.Whitespace()
  for first, second, room in itertools.product(
      range(1, 9), range(1, 9), range(2, 12)):
    stock.enable_truncation(room, strategy="longest_first")
    sides = stock.encode("a " * first, "a " * second).sequence_ids
    kept = batches._cut([range(first), range(second)], room)
    assert [len(text) for text in kept] == [sides.count(0), sides.count(1)], (
        first, second, room)
