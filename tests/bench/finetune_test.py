"""Fine-tuning against stock PyTorch: one epoch of a tiny task, both sides."""

import json
import subprocess
import sys

import pytest


@pytest.mark.long
def test_both_sides_learn_alike(run, tmp_path):
  pytest.importorskip("transformers")
  folder = tmp_path / "glue" / "CoLA"
  folder.mkdir(parents=True)
  rows = "".join(f"x\t{i % 2}\t\t{('he was', 'she is')[i % 2]}\n"
                 for i in range(64))
  for split in ("train", "dev"):
    (folder / f"{split}.tsv").write_text(rows)
  done = subprocess.run(
      [sys.executable, "-m", "latemask.bench.finetune", "--init_from",
       str(run[0]), "--data_dir", str(tmp_path / "glue"), "--task",
       "cola", "--seeds", "2", "--learning_rate", "1e-2", "--num_epochs",
       "8", "--batch_size", "8", "--dropout", "0"], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  ours, peer = map(json.loads, done.stdout.splitlines())
  assert (ours["name"], peer["name"]) == ("latemask", "hf")
  # Without dropout the two differ by rounding alone, and by the table of
  # token types, which stock classes train.
  assert ours["mean"] > 0.9
  assert abs(ours["mean"] - peer["mean"]) < 0.1
  assert peer["speed_to_last"] == 1


def test_bad_command(tmp_path):
  done = subprocess.run(
      [sys.executable, "-m", "latemask.bench.finetune", "--init_from",
       str(tmp_path), "--task", "rte"], capture_output=True, text=True)
  assert done.returncode == 2
  assert "is no run" in done.stderr.splitlines()[-1]
