"""Which documents are held out: a fair share, the same for any shards."""

import dataclasses
import math

import pytest

from latemask.data import held_out
from latemask.data.sources import table as sources_lib
from latemask import errors
from tests import conftest


@dataclasses.dataclass(frozen=True)
class Pages:
  """A source of numbered documents; `reads` counts those that were read."""

  count: int
  text: str = "x" * 100
  reads: list = dataclasses.field(default_factory=list)
  size_bytes = 1000

  def documents(self, shard, num_shards, bad):
    del bad
    for place in range(shard, self.count, num_shards):
      self.reads.append(place)
      yield place, f"{place} {self.text}"


def _parts(opened, split, num_shards=1):
  """Returns ([documents that are left], [those that are held out])."""
  aside = []
  kept = [pair for shard in range(num_shards) for pair in sources_lib.documents(
      held_out.trained(opened, split, aside.append), shard, num_shards,
      sources_lib.BadDocuments(0))]
  return sorted(kept), sorted(aside)


def _split(opened, fraction):
  config = conftest.tiny_config()
  config.data.eval_fraction = fraction
  return held_out.split(config, opened, [])


@pytest.mark.parametrize("fraction", [0.005, 0.1, 0.7])
def test_a_fair_share_and_no_document_on_both_sides(fraction):
  opened = [Pages(5_000), Pages(5_000)]
  split = _split(opened, fraction)
  kept, aside = _parts(opened, split)
  assert sorted(kept + aside) == _parts(opened, None)[0]
  sigma = math.sqrt(10_000 * fraction * (1 - fraction))
  assert abs(len(aside) - 10_000 * fraction) < 4 * sigma
  # In any stretch of the text, and of each source others.
  early = [pair for pair in aside if pair[0] < 2_500]
  assert abs(len(early) - len(aside) / 2) < 3 * sigma
  assert len(set(aside)) > len(aside) * (1 - fraction) * 0.5
  for num_shards in (2, 7):
    assert _parts(opened, split, num_shards) == (kept, aside)


def test_it_reads_until_it_meets_one():
  pages = Pages(10**9)
  assert _split([pages], 0.005)["below"] == round(0.005 * (1 << 53))
  assert len(pages.reads) < 5000


@pytest.mark.parametrize("count", [2, 3, 20])
def test_of_few_documents_one_is_held_out(count):
  opened = [Pages(count)]
  split = _split(opened, 1e-6)
  kept, aside = _parts(opened, split)
  assert len(kept) == count - 1 and len(aside) == 1
  assert split == _split([Pages(count)], 1e-9)


def test_what_is_too_short_for_a_row_does_not_count():
  opened = [Pages(50, text="x"), Pages(3)]
  kept, aside = _parts(opened, _split(opened, 1e-6))
  assert any(len(text) > 100 for _, text in aside)
  assert any(len(text) > 100 for _, text in kept)


@pytest.mark.parametrize("count, fraction", [(1, 1e-6), (1, 0.99), (9, 1.0)])
def test_something_must_be_left(count, fraction):
  with pytest.raises(errors.InputError, match=(
      rf"holds {count} documents?, and all would be held out; name other text "
      "in data.eval_source")):
    _split([Pages(count)], fraction)
