"""A real TFDS set on disk, of ArrayRecord files: read, split, trained on."""

import pickle

import pytest

from latemask.data.sources import table as sources_lib
from latemask import errors
from latemask.train import run
from tests import conftest

pytestmark = pytest.mark.usefixtures("few_devices")

tfds = pytest.importorskip("tensorflow_datasets")


def _store(directory, field="text", file_format="array_record", **options):
  import tensorflow as tf
  lines = conftest.make_text(300).splitlines()
  features = tfds.features.FeaturesDict({
      "title": tfds.features.Text(), field: tfds.features.Text()})
  splits = {
      name: tf.data.Dataset.from_tensor_slices(
          {"title": ["t"] * len(part), field: part})
      for name, part in (("train", lines[:250]), ("test", lines[250:]))}
  tfds.dataset_builders.store_as_tfds_dataset(
      name="pages", version="1.0.0", features=features, split_datasets=splits,
      data_dir=directory, file_format=file_format,
      **{"disable_shuffling": True} | options)
  return lines


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_every_example_once(tiny, tmp_path, file_format):
  lines = _store(tmp_path, file_format=file_format)
  tiny.data.tfds_dir = str(tmp_path)
  for spec, expected in (
      ("tfds:pages", lines[:250]), ("tfds:pages:test", lines[250:]),
      ("tfds:pages:test+train[:45]", lines[250:] + lines[:45]),
      ("tfds:pages:train[20:60]", lines[20:60])):
    tiny.data.source = spec
    opened = sources_lib.open_sources(tiny)
    # A part of a TFRecord set takes a tenth of a second, however short.
    for num_shards in (1, 3, 70 if file_format == "array_record" else 7):
      found = [d for s in range(num_shards)
               for d in sources_lib.documents(opened, s, num_shards,
                                              sources_lib.BadDocuments(0))]
      assert sorted(found) == list(enumerate(expected))
  # What is held out must not be trained on.
  open_source = lambda split: sources_lib.open_source(f"tfds:pages:{split}", tiny)
  for split, is_shared in (("train[59:]", True), ("test+train[:21]", True),
                           ("train[60:]", False), ("test", False)):
    assert sources_lib.shared(opened, [open_source(split)]) == (
        [f"tfds:pages/1.0.0:{split}"] * is_shared)
  assert opened[0].size_bytes > 1000
  sent, = pickle.loads(pickle.dumps(opened))
  assert sent == opened[0] and "_builder" not in vars(sent)
  found = sent.documents(0, 1, sources_lib.BadDocuments(0))
  assert list(found) == list(enumerate(lines[20:60]))


@pytest.mark.slow
def test_places_are_those_of_the_set_whatever_the_shards(tiny, tmp_path):
  """Of TFRecord files, several of which TensorFlow reads in turn."""
  lines = _store(
      tmp_path, file_format="tfrecord", disable_shuffling=False,
      download_config=tfds.download.DownloadConfig(num_shards=4))
  assert len(list(tmp_path.glob("**/pages-train.tfrecord-*"))) == 4
  tiny.data.tfds_dir = str(tmp_path)
  whole = {}
  for spec in ("train", "train[200:]+train[:120]"):
    source = sources_lib.open_source(f"tfds:pages:{spec}", tiny)
    whole[spec], *others = (
        [d for s in range(num_shards)
         for d in source.documents(s, num_shards, sources_lib.BadDocuments(0))]
        for num_shards in (1, 3, 7))
    assert all(sorted(found) == whole[spec] for found in others)
  train, summed = ([text for _, text in found] for found in whole.values())
  assert sorted(train) == sorted(lines[:250])
  assert summed == train[200:] + train[:120]


@pytest.mark.long
@pytest.mark.usefixtures("few_devices")
def test_trains_from_it(tiny, tmp_path, capsys):
  _store(tmp_path / "tfds", field="book_text")
  tiny.data.source = "tfds:pages"
  tiny.data.tfds_dir = str(tmp_path / "tfds")
  tiny.train.num_steps = 3
  _, evaluation = run.train(tiny, tmp_path / "run")
  assert evaluation["eval/loss"] > 0
  assert "packed 250 documents" in capsys.readouterr().out


def test_what_cannot_be_had_names_the_alternatives(
    tiny, tmp_path, monkeypatch):
  _store(tmp_path / "tfds", field="body")

  def offline(self, **options):
    raise OSError("no network")
  monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare",
                      offline)

  tiny.data.tfds_dir = str(tmp_path / "tfds")
  for spec, message in (
      ("tfds:pages", "has the features .*body.* data.text_fields"),
      ("tfds:pages:validation", "no split validation; it has train, test"),
      ("tfds:pg19", "not prepared and cannot be downloaded.*text:GLOB")):
    tiny.data.source = spec
    with pytest.raises(errors.InputError, match=message):
      sources_lib.open_sources(tiny)
