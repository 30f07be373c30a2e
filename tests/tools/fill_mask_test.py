"""What fill_mask prints, for readers and for programs."""

import json

from latemask.predict import fill_mask as fill_mask_lib
from latemask.tools import fill_mask

FILLED = [[("be", 0.8374), ("##not", 0.025)], [("\u2423", 0.1)]]


def test_marks_are_explained_where_they_stand(capsys):
  words = fill_mask._print("It can <mask> a <mask>", FILLED, as_json=False)
  fill_mask._tell_marks(words, "<mask>")
  text, one, two, *legend = capsys.readouterr().out.splitlines()
  assert text == "It can <mask> a <mask>"
  assert (one, two) == ("  be 83.7%   ##not 2.5%", "  \u2423 10.0%")
  assert [line.split(":")[0] for line in legend] == ["## in front", "\u2423"]


def test_words_need_no_legend():
  assert list(fill_mask_lib.legend({"be", "C#", "a##b"}, "<mask>")) == []
  line, = fill_mask_lib.legend({"un##"}, "<mask>")
  assert "<mask>less and un## make unless" in line


def test_json_has_no_legend(capsys):
  fill_mask._tell_marks(fill_mask._print("a <mask>", FILLED, as_json=True),
                         "<mask>")
  line, = capsys.readouterr().out.splitlines()
  assert json.loads(line)["masks"][0] == [
      {"word": "be", "probability": 0.8374},
      {"word": "##not", "probability": 0.025}]
