"""A sweep that several of these tests read."""

import pytest

from tests.report import made


@pytest.fixture(scope="package")
def sweep(tmp_path_factory):
  """(records by (rate, layer, seed), folder) of a 2 x 2 sweep."""
  folder = tmp_path_factory.mktemp("sweep") / "runs"
  records = {}
  for rate in (0.15, 0.5):
    for layer in (0, 12):
      for seed in (0, 1, 2):
        if (rate, layer, seed) != (0.5, 12, 2):  # One cell has two seeds.
          records[rate, layer, seed] = made.run(
              folder / f"deep/{rate}-{layer}-{seed}", rate=rate,
              layer=layer, seed=seed)
  return records, folder


@pytest.fixture(scope="package")
def page(sweep):
  """(content, figures, text) of the report of the sweep."""
  return made.drawn(sweep[1])
