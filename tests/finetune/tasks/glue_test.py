"""Official files of every task, metrics, pairs, cuts, batches, submissions."""

import types

import numpy as np
import pytest

from latemask.data.tokenizers import specials
from latemask import errors
from latemask.finetune import batches as batches_lib
from latemask.finetune import windows
from latemask.finetune.tasks import glue
from latemask.finetune.tasks import kinds

_STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2"
_MNLI = ("index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\t"
         "sentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
         "sentence1\tsentence2")
_PARSES = "7\t31\t31n\ttravel\t(a)\t(b)\t(A)\t(B)"
_QUOTE = 'He said " no'

# task, split -> text of the official layout, texts, labels.
FILES = [
    ("cola", "train", f"gj04\t1\t\t{_QUOTE}\nbc01\t0\t*\tb b\n",
     [[_QUOTE, "b b"]], [1, 0]),
    ("cola", "dev", "gj04\t1\t\ta\n", [["a"]], [1]),
    ("cola", "test", "index\tsentence\n0\ta\n1\tb\n", [["a", "b"]], None),
    ("sst2", "train", "sentence\tlabel\na \t1\nb\t0\n", [["a ", "b"]], [1, 0]),
    ("sst2", "test", "index\tsentence\n0\ta\n", [["a"]], None),
    ("mrpc", "train", "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
     f"1\t10\t20\t{_QUOTE}\tb\r\n0\t11\t21\tc\td\r\n",
     [[_QUOTE, "c"], ["b", "d"]], [1, 0]),
    ("mrpc", "test", "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
     "0\t10\t20\ta\tb\n", [["a"], ["b"]], None),
    ("stsb", "dev", f"{_STSB}\tsentence1\tsentence2\tscore\n"
     "0\tg\tf\t2012\t0000\tnone\tnone\ta\tb\t3.750\n",
     [["a"], ["b"]], [3.75]),
    ("qqp", "train", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
     "9\t1\t2\ta?\tb?\t1\nbroken\n8\t1\t2\tc?\td?\t0\n",
     [["a?", "c?"], ["b?", "d?"]], [1, 0]),
    ("qqp", "test", "id\tquestion1\tquestion2\n0\ta\tb\n", [["a"], ["b"]],
     None),
    ("mnli", "train", f"{_MNLI}\tlabel1\tgold_label\n"
     f"{_PARSES}\ta\tb\tneutral\tcontradiction\n", [["a"], ["b"]], [2]),
    ("mnli", "dev_mismatched", f"{_MNLI}\t"
     + "\t".join(f"label{i}" for i in range(1, 6)) + "\tgold_label\n"
     + f"{_PARSES}\ta\tb" + "\tneutral" * 5 + "\tentailment\n",
     [["a"], ["b"]], [0]),
    ("mnli", "test_matched", f"{_MNLI}\n{_PARSES}\ta\tb\n", [["a"], ["b"]],
     None),
    ("qnli", "dev", "index\tquestion\tsentence\tlabel\n"
     f"0\ta\t{_QUOTE}\tnot_entailment\n", [["a"], [_QUOTE]], [1]),
    ("wnli", "dev", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n",
     [["a"], ["b"]], [1]),
    ("mnli", "test_ax", "index\tsentence1\tsentence2\n0\ta\tb\n",
     [["a"], ["b"]], None),
    ("rte", "train", "index\tsentence1\tsentence2\tlabel\n"
     "0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n",
     [["a", "c"], ["b", "d"]], [0, 1]),
]


def _write(folder, name, split, text):
  path = folder / ("diagnostic/diagnostic.tsv" if split == "test_ax" else
                   f"{glue.TASKS[name].folder}/{split}.tsv")
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text.encode())
  return path


@pytest.mark.parametrize("name, split, text, texts, labels", FILES)
def test_official_files(tmp_path, name, split, text, texts, labels):
  _write(tmp_path, name, split, text)
  rows = glue.read(name, split, tmp_path, None)
  assert list(rows.texts) == texts
  assert rows.num_dropped == text.count("broken")
  if labels is None:
    assert rows.labels is None
  else:
    np.testing.assert_array_equal(rows.labels, labels)
    assert rows.labels.dtype == (np.float32 if name == "stsb" else np.int32)


@pytest.mark.parametrize("name, split, text, message", [
    ("cola", "dev", "gj04\t2\t\ta\n", "line 1: the label '2' is none of 0, 1"),
    ("cola", "dev", "gj04\t1\n", "line 1 has 2 cells"),
    ("cola", "dev", "", "has no rows"),
    ("sst2", "train", "text\tlabel\na\t1\n", "no column 'sentence'"),
    ("sst2", "dev", "sentence\na\n", "no column 'label'"),
    ("sst2", "dev", "sentence\tlabel\n", "has no rows"),
    ("sst2", "test", "", "is empty"),
    ("rte", "dev", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n",
     "entailment, not_entailment"),
    ("stsb", "dev", f"{_STSB}\tsentence1\tsentence2\tscore\n" + "0\t" * 9
     + "5.5\n", "'5.5' is no number from 0 to 5"),
    ("stsb", "dev", f"{_STSB}\tsentence1\tsentence2\tscore\n" + "0\t" * 9
     + "nan\n", "'nan' is no number"),
])
def test_files_that_cannot_be(tmp_path, name, split, text, message):
  _write(tmp_path, name, split, text)
  with pytest.raises(errors.InputError, match=message) as error:
    glue.read(name, split, tmp_path, None)
  assert "\n" not in str(error.value)


def test_files_that_are_not_there_or_not_text(tmp_path):
  with pytest.raises(glue.NotThere, match="no folder .*CoLA"):
    glue.read("cola", "dev", tmp_path, None)
  _write(tmp_path, "cola", "train", "x\t1\t\ta\n").write_bytes(b"x\t1\t\t\xff")
  with pytest.raises(errors.InputError, match="byte 5 is not UTF-8"):
    glue.read("cola", "train", tmp_path, None)
  with pytest.raises(errors.InputError, match="no file .*dev.tsv"):
    glue.read("cola", "dev", tmp_path, None)


def _logits(classes, num=2):
  return np.eye(num, dtype=np.float32)[classes]


def _score(name, part, labels_R, logits_RxC):
  task = glue.task(name)
  return kinds.score(task, part, labels_R, _answers(name, logits_RxC))


def _answers(name, logits_RxC):
  """Returns what is read from the logits of rows of a window each."""
  encoded = types.SimpleNamespace(
      rows=logits_RxC, row_W=np.arange(len(logits_RxC)))
  return (kinds.answers(glue.task(name), encoded, logits_RxC)
          if kinds.is_finite(logits_RxC) else None)


def _one_answer(name, logits_RxC):
  return kinds.one_answer(glue.task(name), _answers(name, logits_RxC))


def test_metrics():
  """By hand: 3 true and 1 false positive, 1 false and 1 true negative."""
  labels_R, found_R = np.array([1, 1, 1, 1, 0, 0]), [1, 1, 1, 0, 1, 0]
  found = _score("mrpc", "", labels_R, _logits(found_R))
  np.testing.assert_allclose(
      [found["accuracy"], found["f1"]], [4 / 6, 2 * 3 / (2 * 3 + 1 + 1)])
  # (TP TN - FP FN) / sqrt((TP+FP) (TP+FN) (TN+FP) (TN+FN))
  np.testing.assert_allclose(
      _score("cola", "", labels_R, _logits(found_R))["matthews"],
      (3 * 1 - 1 * 1) / np.sqrt(4 * 4 * 2 * 2))
  np.testing.assert_allclose(_score(
      "mnli", "_mismatched", np.array([0, 1, 2]),
      _logits([0, 1, 1], 3))["accuracy/mismatched"], 2 / 3)
  scores_R = np.array([0.0, 1.0, 2.0, 4.0])
  # Out of range is cut: 9 counts as 5.
  found = _score("stsb", "", scores_R, np.float32([[0], [1], [3], [9]]))
  np.testing.assert_allclose(
      found["pearson"], np.corrcoef(scores_R, [0, 1, 3, 5])[0, 1], rtol=1e-6)
  assert found["pearson"] < found["spearman"] == 1


@pytest.mark.filterwarnings("error")
def test_a_constant_prediction_scores_nothing():
  labels_R = np.float32([0, 1, 2])
  assert _score("stsb", "", labels_R, np.ones((3, 1), np.float32)) == {
      "pearson": 0, "spearman": 0}
  assert _score("cola", "", np.array([0, 1, 1]), _logits([1, 1, 1])) == {
      "matthews": 0}
  # What is no number predicts nothing, which is not the same.
  for bad in (np.nan, np.inf):
    logits_RxC = np.float32([[0, 1], [0, bad], [1, 0]])
    for name, logits in (("cola", logits_RxC), ("stsb", logits_RxC[:, 1:])):
      assert np.isnan(list(_score(
          name, "", labels_R.astype(int) > 0, logits).values())).all()


def test_one_answer_to_all_rows():
  same = np.array([[0.1, 0.9], [0.4, 0.6]])
  assert _one_answer("sst2", same) == "positive"
  assert _one_answer("rte", same) == "not_entailment"
  assert _one_answer("sst2", same * [[1], [-1]]) is None
  assert _one_answer("sst2", same[:1]) is None  # A row has but one.
  # Scores are cut to 0 to 5, and then compared.
  assert _one_answer("stsb", np.array([[7.0], [9.0]])) == "5"
  assert _one_answer("stsb", np.array([[1.0], [1.1]])) is None


def test_labels_in_words():
  assert kinds.about(glue.task("sst2"), np.array([1, 1, 0, 1])) == (
      "25.0% negative, 75.0% positive")
  assert kinds.about(glue.task("rte"), np.array([0])) == (
      "100.0% entailment, 0.0% not_entailment")
  assert kinds.about(glue.task("stsb"), np.array([1.0, 4.0])) == (
      "scores of 0 to 5, 2.50 on average")
  for name, official in glue.TASKS.items():
    assert len(glue.task(name).labels) == len(official.labels)


def _encoded(num_rows, seed=0):
  rng = np.random.default_rng(seed)
  ids = [np.full(n, 7, np.int32) for n in rng.integers(3, 60, num_rows)]
  numbers_W = np.arange(num_rows, dtype=np.int32)
  return windows.Encoded(
      None, ids, [i > 0 for i in ids], specials.TRAINED.pad,
      np.array([len(i) for i in ids]), numbers_W, numbers_W, None, 0)


def test_an_epoch_is_every_row_once_and_each_epoch_another():
  encoded = _encoded(1100)
  lengths = batches_lib.buckets(512, encoded.lengths_W.max())
  epochs = [batches_lib.shuffled(encoded.lengths_W, 16, 0, epoch)
            for epoch in (0, 0, 1)]
  for batches in epochs:
    seen, padded = [], 0
    for rows in batches:
      (ids_BxS, second_BxS), labels_B, weights_B = batches_lib.collate(
          encoded, rows, 16, lengths)
      np.testing.assert_array_equal(second_BxS, ids_BxS == 7)
      assert ids_BxS.shape[0] == 16 and ids_BxS.shape[1] in lengths
      np.testing.assert_array_equal(
          np.sum(ids_BxS != specials.TRAINED.pad, axis=1)[:len(rows)],
          encoded.lengths_W[rows])
      seen += labels_B[weights_B > 0].tolist()
      padded += ids_BxS.size
    assert sorted(seen) == list(range(1100))
    # Sorted by length: padded to the longest allowed it would be 57 %.
    assert padded < 1.25 * encoded.lengths_W.sum()
  first, again, other = (np.concatenate(batches) for batches in epochs)
  np.testing.assert_array_equal(first, again)
  assert np.mean(first == other) < 0.1


@pytest.mark.parametrize("longest", [5, 16, 17, 60, 300, 512])
def test_buckets(longest):
  lengths = batches_lib.buckets(512, longest)
  assert lengths == sorted(set(lengths))
  assert lengths[-1] >= longest and all(s < longest for s in lengths[:-1])
  assert batches_lib.buckets(100, 100)[-1] == 100


def test_submissions(tmp_path):
  for name, part, file, logits_RxC, lines in (
      ("cola", "", "CoLA", _logits([1, 0]), ["0\t1", "1\t0"]),
      ("rte", "", "RTE", _logits([1, 0]), ["0\tnot_entailment",
                                           "1\tentailment"]),
      ("mnli", "_mismatched", "MNLI-mm", _logits([1], 3), ["0\tneutral"]),
      ("mnli", "_matched", "MNLI-m", _logits([2], 3), ["0\tcontradiction"]),
      ("mnli", "_ax", "AX", _logits([1], 3), ["0\tneutral"]),
      ("wnli", "", "WNLI", _logits([1]), ["0\t1"]),
      ("stsb", "", "STS-B", np.float32([[-1], [2.5], [7]]),
       ["0\t0.000", "1\t2.500", "2\t5.000"])):
    path = glue.write_submission(
        name, part, _answers(name, logits_RxC), tmp_path)
    assert path.name == f"{file}.tsv"
    assert path.read_text().splitlines() == ["index\tprediction", *lines]


def test_tfds_is_the_same(tmp_path):
  tfds = pytest.importorskip("tensorflow_datasets")
  import tensorflow as tf
  rows = {"sentence": ["b b", "a"], "label": [0, 1], "idx": [1, 0]}
  features = tfds.features.FeaturesDict({
      "sentence": tfds.features.Text(),
      "label": tfds.features.ClassLabel(num_classes=2),
      "idx": tf.int32})
  secret = rows | {"label": [-1, -1]}
  tfds.dataset_builders.store_as_tfds_dataset(
      name="glue", config="cola", version="2.0.0", features=features,
      split_datasets={s: tf.data.Dataset.from_tensor_slices(
          secret if s == "test" else rows) for s in ("validation", "test")},
      data_dir=tmp_path, file_format="array_record", disable_shuffling=True)
  found = glue.read("cola", "dev", None, str(tmp_path))
  assert found.texts == (["a", "b b"],)
  assert found.labels.tolist() == [1, 0]
  assert glue.read("cola", "test", None, str(tmp_path)).labels is None


def test_tfds_that_cannot_be_downloaded_names_the_alternative(
    tmp_path, monkeypatch):
  tfds = pytest.importorskip("tensorflow_datasets")

  def offline(self, **options):
    raise OSError("no network\nand more lines of it")
  monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare",
                      offline)
  with pytest.raises(glue.NotThere, match=(
      "tfds:glue/cola.* is not prepared and cannot be downloaded "
      r"\(OSError: no network\); name the folder .* in data_dir")) as error:
    glue.read("cola", "dev", None, str(tmp_path))
  assert "\n" not in str(error.value)
