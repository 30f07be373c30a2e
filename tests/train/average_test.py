"""The average of a run's parameters: its closed form, its lines, its export."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latemask.checkpoint import record
from latemask import errors
from latemask.hub import pretrained
from latemask.tools import export
from latemask.train import average as average_lib
from latemask.train import run as run_lib
from latemask.train import step as step_lib
from tests.train import run_test

pytestmark = pytest.mark.usefixtures("few_devices")


@pytest.mark.parametrize("num_steps, window_steps", [
    (1, 50.0), (7, 2.5), (300, 15.0), (4, 1)])
def test_closed_form(num_steps, window_steps):
  params_Tx3 = np.random.default_rng(0).normal(size=(num_steps, 3))
  average = average_lib.begin({"x": jnp.ones(3)})
  for params_3 in params_Tx3:
    average = average_lib.update(average, {"x": params_3}, window_steps)
  weights_T = (1 - 1 / window_steps) ** np.arange(num_steps)[::-1]
  np.testing.assert_allclose(
      average_lib.mean(average)["x"], weights_T @ params_Tx3 / weights_T.sum(),
      rtol=2e-5)


@pytest.mark.slow
def test_of_a_run(tiny_run, tmp_path, monkeypatch, capsys):
  """Evaluated beside the parameters, and exported instead of them."""
  tiny_run.train.average_share = 0.2
  state, evaluation = run_lib.train(tiny_run, tmp_path / "run")
  lines = {line["step"]: line for line in run_test._lines(tmp_path / "run")
           if "eval/loss" in line}
  assert [step for step in lines if "eval/average/loss" in lines[step]] == [
      10, 20]
  assert lines[20]["eval/average/loss"] == evaluation["eval/average/loss"]
  assert 0 < abs(lines[20]["eval/average/loss"] - lines[20]["eval/loss"]) < 0.5
  assert step_lib.build(tiny_run)._average_steps == 0.2 * 20
  assert "average of the steps: loss" in capsys.readouterr().out

  mean = jax.device_get(average_lib.mean(state.average))
  found = pretrained.load(tmp_path / "run", average=True).params
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
               mean, found)
  for more in ([], ["--average"]):
    monkeypatch.setattr("sys.argv", [
        "export", "--init_from", str(tmp_path / "run"), "--out",
        str(tmp_path / f"out{len(more)}"), *more])
    export.main()
  of_run, of_average = (
      pretrained.load(tmp_path / f"out{i}").params["early"] for i in range(2))
  jax.tree.map(np.testing.assert_array_equal, found["early"], of_average)
  assert not np.array_equal(of_run["layers"]["mlp"]["in_kernel"],
                            of_average["layers"]["mlp"]["in_kernel"])
  with pytest.raises(errors.InputError, match="only a run has an average"):
    pretrained.load(tmp_path / "out0", average=True)


def test_a_run_without_one(run):
  workdir, _ = run
  with pytest.raises(errors.InputError, match="without train.average_share"):
    record.read(workdir / "checkpoints" / "4", average=True)
