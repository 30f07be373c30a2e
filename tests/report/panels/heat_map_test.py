"""Quality by mask rate and insertion layer: what stands beside what."""

import matplotlib.pyplot as plt
import pytest

from latemask.report import content as content_lib
from latemask.report import reading
from latemask.report.panels import heat_map
from tests.report import made


def _cells(fig):
  return [text.get_text() for text in fig.axes[0].texts]


@pytest.fixture
def content(tmp_path):
  for rate in (0.15, 0.5):
    for layer in (0, 12):
      made.run(tmp_path / f"{rate}-{layer}", rate=rate, layer=layer,
               **{"model.insertion": "append" if layer else "scatter"})
  muon = {"optimizer.name": "muon", "optimizer.learning_rate": 0.02}
  made.run(tmp_path / "muon-0", rate=0.5, layer=0, **muon)
  made.run(tmp_path / "muon-6", rate=0.5, layer=6, **muon)

  def gather(folders):
    return content_lib.gather(reading.read(folders))
  return gather([tmp_path]), gather(sorted(tmp_path.glob("0*")))


def test_a_map_is_of_one_recipe(content):
  """Numbers of another optimizer neither win a cell nor fill an empty one."""
  with_muon, adamw = content
  fig, caption = heat_map.loss(with_muon)
  alone, other = heat_map.loss(adamw)
  assert len(_cells(alone)) == 4
  assert sorted(_cells(fig)) == sorted(_cells(alone))
  assert "Only optimizer adamw; the others stand in the table." in caption
  assert "Only" not in other
  plt.close("all")
