"""Colours and legends of many series."""

from latemask.report import reading
from latemask.report import series as series_lib
from latemask.report import look as look_lib
from tests.report import made


def test_many_series_have_a_colour_bar(tmp_path):
  for i, rate in enumerate((0.1, 0.2, 0.3, 0.4, 0.5)):
    for layer in (4, 12):
      made.run(tmp_path / f"{i}-{layer}", rate=rate, layer=layer)
  found = reading.read([tmp_path])
  series, _, _ = series_lib.group(found.runs, [])
  looks = look_lib.look(series)
  assert looks.bar[1] == "mask rate"
  assert [name for _, name in looks.handles] == [
      "insertion layer 4", "insertion layer 12"]
  assert len(set(map(tuple, looks.colors))) == 5
  for s, color in zip(series, looks.colors):
    same = series[0].values["masking.rate"] == s.values["masking.rate"]
    assert (tuple(color) == tuple(looks.colors[0])) == same
