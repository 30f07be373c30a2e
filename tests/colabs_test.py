"""The notebooks in colabs/: clean as committed, and they run from top to bottom.

Running them needs nbclient and ipykernel, and one of them PyTorch and
transformers; tests skip what is not there.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from tests import conftest

ROOT = conftest.ROOT
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]

# What their first cell sets, so small that a test can wait for it; {} is a
# folder of the test. RUN and OUT lie there, too.
SMALL = {
    "quickstart": {"NUM_STEPS": "40"},
    "mask_rate_and_insertion": {"TOTAL_FLOPS": "1.2e11"},
    "finetune_and_export": {"NUM_STEPS": "20", "NUM_EPOCHS": "1",
                            "GLUE": "--config.task=cola --config.data_dir={}"},
    "your_encoder_your_text": {
        "FOLDER": "", "SOURCE": "text:{}/text.txt",
        "FLAGS": "--config.train.num_steps=3 --config.train.batch_size=8 "
                 "--config.data.length=32 --config.data.workers=1 "
                 "--config.model.layers=5 --config.model.dtype=float32"},
    "your_labels": {
        "ENCODER": "{}/encoder", "SOURCE": "text:{}/text.txt",
        "NUM_STEPS": "3", "ROWS": "{}/rows", "NUM_ROWS": "100",
        "PRETRAIN": "--config.train.batch_size=8 --config.data.length=32 "
                    "--config.data.workers=1 --config.data.vocab_size=320 "
                    "--config.model.layers=2 --config.model.insertion_layer=1 "
                    "--config.model.width=32 --config.model.unroll=1",
        "NUM_EPOCHS": "1", "RATES": "(1e-3,)", "FLAGS": ""},
}
# They show pictures.
DRAW = ("quickstart", "mask_rate_and_insertion")
# Take seconds, not minutes.
QUICK = ("your_encoder_your_text", "your_labels")
NEEDS = dict.fromkeys(
    ("finetune_and_export", "your_labels"), ("torch", "transformers"))


def _cells(path, kind=None):
  return [cell for cell in json.loads(path.read_text())["cells"]
          if kind in (None, cell["cell_type"])]


def _source(cell):
  return "".join(cell["source"])


def test_there_are_those_that_the_readme_names():
  assert set(NAMES) == set(SMALL)
  for name in NAMES:
    assert f"({name}.ipynb)" in (ROOT / "colabs" / "README.md").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_clean(path):
  assert f"/blob/main/colabs/{path.name})" in _source(_cells(path)[0])
  for cell in _cells(path, "code"):
    assert cell["outputs"] == [] and cell["execution_count"] is None
    # They call latemask and nothing else; what it does is tested elsewhere.
    for command in re.findall(r"^\S.*", _source(cell).replace("\\\n", ""),
                              re.MULTILINE):
      if _source(cell).startswith("%%bash") and command != "%%bash":
        assert re.match(r"python -m latemask\.|cat configs/", command), command
  parameters = _cells(path, "code")[0]
  assert parameters["metadata"]["tags"] == ["parameters"]
  assert set(SMALL[path.stem]) <= set(re.findall(
      r"^%env (\w+)=", _source(parameters), re.MULTILINE))


def _write_cola(folder):
  """Writes CoLA as small as it can be."""
  (folder / "CoLA").mkdir(parents=True)
  for split, count in (("train", 40), ("dev", 20)):
    (folder / "CoLA" / f"{split}.tsv").write_text("".join(
        f"x\t{n % 2}\t\t{'the man was here' if n % 2 else 'here man'} {n}.\n"
        for n in range(count)))


@pytest.mark.parametrize("path", [pytest.param(
    path, marks=pytest.mark.slow if path.stem in QUICK else pytest.mark.long)
                                  for path in NOTEBOOKS], ids=NAMES)
def test_runs(path, tmp_path, monkeypatch):
  nbformat, nbclient = map(pytest.importorskip, ("nbformat", "nbclient"))
  pytest.importorskip("ipykernel")
  for module in NEEDS.get(path.stem, ()):
    pytest.importorskip(module)
  # `python` in a cell is the one that runs this.
  monkeypatch.setenv("PATH", os.pathsep.join(
      [os.path.dirname(sys.executable), os.environ["PATH"]]))
  before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT,
                          capture_output=True, check=False).stdout
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  parameters = next(c for c in notebook.cells if c.cell_type == "code")
  _write_cola(tmp_path)
  (tmp_path / "text.txt").write_text(conftest.make_text(400))
  small = SMALL[path.stem] | {"RUN": "{}/run", "OUT": "{}/run"}
  parameters.source = "\n".join(
      f"%env {k}={v.format(tmp_path)}" for k, v in small.items())
  nbclient.NotebookClient(
      notebook, timeout=300,
      resources={"metadata": {"path": str(ROOT / "colabs")}}).execute()
  pictures = [output for cell in notebook.cells if cell.cell_type == "code"
              for output in cell.outputs if "image/png" in output.get(
                  "data", {})]
  assert bool(pictures) == (path.stem in DRAW)
  assert before == subprocess.run(
      ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True,
      check=False).stdout
