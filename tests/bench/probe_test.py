"""A linear probe: it reads the encoder's own states, and what is in them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.bench import probe
from latemask.data.tokenizers import specials
from latemask.finetune import windows
from latemask.model import cut
from latemask.train import step as step_lib
from tests import conftest

_VOCAB = 320


def test_means_are_of_the_encoder(tiny):
  """Of the last layer those of its output, however rows are padded."""
  tiny.model.architecture = "roberta"  # No norm behind the last layer.
  program = step_lib.build(tiny, specials.trained(_VOCAB))
  config, encoder = cut.cut(
      program.model.config, jax.device_get(program.init_state().params))
  ids_BxL = conftest.random_rows(5, 32)[:4]  # The last one is padding.
  lengths_R = np.array([32, 7, 11, 4])
  encoded = windows.Encoded(
      None, [ids[:n] for ids, n in zip(ids_BxL, lengths_R)],
      [np.zeros(n, np.int32) for n in lengths_R], specials.TRAINED.pad,
      lengths_R, np.arange(4), np.zeros(4), None, 0)
  found = probe.means(config, encoder, specials.TRAINED, encoded, [8, 16, 32])
  assert found.shape == (4, config.layers + 1, config.width)
  for row, ids in enumerate(encoded.ids):
    out = cut.encode(config, jax.tree.map(jnp.asarray, encoder), ids[None],
                     specials.TRAINED)
    np.testing.assert_allclose(found[row, -1], out[0].mean(0), atol=1e-5)
  assert np.abs(found[:, 0] - found[:, -1]).max() > 0.1


@pytest.mark.slow
def test_the_command(run, tmp_path, monkeypatch, capsys):
  """What stands in the words is read from every layer."""
  folder = tmp_path / "CoLA"
  folder.mkdir()
  rows = "".join(f"x\t{i % 2}\t\t{('he was', 'she is')[i % 2]} {i}\n"
                 for i in range(64))
  for split in ("train", "dev"):
    (folder / f"{split}.tsv").write_text(rows)
  argv = ["probe", "--init_from", str(run[0]), "--data_dir", str(tmp_path)]
  monkeypatch.setattr("sys.argv", [*argv, "--task", "cola"])
  probe.main()
  line, = map(json.loads, capsys.readouterr().out.splitlines()[-1:])
  assert min(line["by_layer"]) == 1 and line["most_frequent"] == 0
  monkeypatch.setattr("sys.argv", [*argv, "--max_rows", "0"])
  with pytest.raises(SystemExit) as ended:
    probe.main()
  assert ended.value.code == 2
  assert ("argument --max_rows: '0' is no whole number of at least 1"
          in capsys.readouterr().err)
