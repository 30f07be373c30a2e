"""A run that is made longer is the one that was begun so long."""

import json
import pathlib

import jax
import numpy as np
import pytest

from latemask import errors
from latemask.runtime import signals as signals_lib
from latemask.runtime import workdir as workdir_lib
from latemask.train import lengthen
from latemask.train import run as run_lib
from latemask.train import schedule
from tests.train import run_test

pytestmark = pytest.mark.usefixtures("few_devices")


def _write(config, workdir):
  (workdir / "config.json").write_text(json.dumps(config.to_dict()))


@pytest.mark.slow
@pytest.mark.parametrize("kind, stop", [
    pytest.param("constant", None, marks=pytest.mark.long), ("wsd", 7)])
def test_as_if_begun_so(tiny_run, tmp_path, monkeypatch, kind, stop):
  """Bit for bit, and the same lines; wsd before its decay begins."""
  tiny_run.optimizer.schedule = kind
  tiny_run.optimizer.warmup_fraction = 0.0
  tiny_run.optimizer.decay_fraction = 0.25
  tiny_run.train.num_steps = 16
  whole, evaluation = run_lib.train(tiny_run, tmp_path / "whole")

  tiny_run.train.num_steps = 10 if stop is None else 12
  with monkeypatch.context() as patch:
    if stop is None:
      run_lib.train(tiny_run, tmp_path / "longer")
    else:
      run_test._stop_at(patch, stop)
      with pytest.raises(signals_lib.Stopped):
        run_lib.train(tiny_run, tmp_path / "longer")
  tiny_run.train.num_steps = 16
  longer, evaluation_longer = run_lib.train(tiny_run, tmp_path / "longer")
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole.params),
               jax.device_get(longer.params))
  assert evaluation["eval/loss"] == evaluation_longer["eval/loss"]
  # The same command once more finds it finished.
  assert run_lib.train(tiny_run, tmp_path / "longer")[1] == evaluation_longer


def test_the_warm_up_stays(tiny, tmp_path):
  tiny.optimizer.schedule = "inverse_sqrt"
  tiny.optimizer.warmup_fraction = 0.25
  _write(tiny, tmp_path)
  assert lengthen.lengthened(tiny, tmp_path) == (tiny, False)
  tiny.train.num_steps = 40
  config, is_longer = lengthen.lengthened(tiny, tmp_path)
  assert is_longer and schedule.warmup_steps(config) == 5
  _write(config, tmp_path)  # And longer still.
  for num_steps in 40, 80:
    tiny.train.num_steps = num_steps
    begun = workdir_lib.keep_meaning(tiny, tmp_path)
    assert schedule.warmup_steps(lengthen.lengthened(begun, tmp_path)[0]) == 5


def test_another_warm_up_is_refused(tiny, tmp_path):
  """When the run is made longer, and by every command after it."""
  tiny.optimizer.schedule = "constant"
  tiny.optimizer.warmup_fraction = 0.25
  _write(tiny, tmp_path)
  for num_steps in 40, 40, 80:
    tiny.train.num_steps = num_steps
    tiny.optimizer.warmup_fraction = 0.5
    with pytest.raises(errors.InputError, match=r"0.25 \(now 0.5\)"):
      run_lib.train(tiny, tmp_path)
    tiny.optimizer.warmup_fraction = 0.25
    _write(lengthen.lengthened(
        workdir_lib.keep_meaning(tiny, tmp_path), tmp_path)[0], tmp_path)


@pytest.mark.parametrize("changes, message", [
    ({"optimizer.schedule": "linear"}, "constant, inverse_sqrt, wsd can"),
    ({"optimizer.schedule": "constant", "train.total_flops": 1e12},
     "train.total_flops sets them"),
    ({"optimizer.schedule": "wsd"}, "decay has begun before step 17"),
    ({"optimizer.schedule": "constant", "train.average_share": 0.1},
     "the average so far is of fewer steps"),
])
def test_what_cannot_be_made_longer(tiny, tmp_path, monkeypatch, changes,
                                    message):
  tiny.update_from_flattened_dict(changes)
  _write(tiny, tmp_path)
  monkeypatch.setattr(lengthen.record_lib, "steps", lambda workdir: [4, 17])
  tiny.train.num_steps = 40
  with pytest.raises(errors.InputError, match=message) as refused:
    run_lib.train(tiny, tmp_path)
  assert "\n" not in str(refused.value)
  assert json.loads((tmp_path / "config.json").read_text())["train"][
      "num_steps"] == 20
  assert [p.name for p in pathlib.Path(tmp_path).iterdir()] == ["config.json"]
