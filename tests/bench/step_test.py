"""The bench at a size where it takes seconds."""

import json
import subprocess
import sys

import pytest

from latemask.bench import step as bench_step
from latemask.train import step as step_lib
from tests import conftest

TINY = "configs/base.py:tiny,model.dtype=float32"


def _run(*arguments):
  return subprocess.run(
      [sys.executable, "-m", "latemask.bench.step", *arguments],
      capture_output=True, text=True)


def test_contenders_take_turns_and_pair_up():
  class Contender:
    rows, length, flops, details, compile_secs = 2, 8, 100, {}, 0.0

    def __init__(self, name):
      self.name = name

    def step(self):
      order.append(self.name)

  order = []
  contenders = [Contender("a"), Contender("b")]
  secs = bench_step.measure(contenders, 3)
  assert "".join(order) == "ab" + "ababab"
  assert [len(s) for s in secs] == [3, 3]
  # A machine twice as slow in round two changes no ratio.
  first, second = bench_step.report(
      contenders, [[1.0, 2.0, 1.0], [3.0, 6.0, 3.0]], peak_flops=1000)
  assert first["ratio"] == 1
  assert second["ratio"] == 3
  assert second["step_secs"] == 3
  assert second["step_secs_max"] == 6
  assert second["tokens_per_sec"] == pytest.approx(16 / 3, rel=1e-3)
  assert first["mfu"] == 0.1


@pytest.mark.long
def test_real_steps_and_the_peer():
  pytest.importorskip("transformers")
  done = _run("--config", TINY, "--config", TINY + ",masking.rate=0.4",
              "--rows", "8", "--repeats", "2", "--peer", "hf", "--eager")
  assert done.returncode == 0, done.stderr
  ours, other, peer = map(json.loads, done.stdout.splitlines())
  assert ours["ratio"] == 1 and ours["repeats"] == 2
  assert other["flops_ratio"] != 1
  assert peer["torch_compile"] is False
  assert all(line["tokens_per_sec"] > 0 for line in (ours, other, peer))
  assert ours["temporaries"] > 0 and "temporaries" not in peer


@pytest.mark.slow
def test_pytorch_counts_the_flops_that_the_peer_is_credited_with(tiny):
  torch = pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from torch.utils import flop_counter
  from latemask.bench import torch_peer
  # A vocabulary that is not padded, and no local layers, of which the stock
  # class multiplies more.
  tiny.data.vocab_size = 384
  tiny.model.architecture = "modern"
  program = step_lib.build(tiny)
  ids_BxL = bench_step._rows(2, 32, 384)
  peer = torch_peer.Peer(program, "float32", ids_BxL, compiled=False)
  peer._model.set_attn_implementation("eager")  # It counts no fused attention.
  with flop_counter.FlopCounterMode(display=False) as counter:
    peer.step()
  assert peer.flops == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.slow
def test_table_of_flops():
  done = _run("--flops", "--config", "configs/base.py:base", "--config",
              "configs/vanilla.py:base")
  assert done.returncode == 0, done.stderr
  header, _, ours, vanilla = done.stdout.splitlines()
  assert "/ vanilla" in header
  assert "| 12+2 " in ours
  assert "| 1.000 " in vanilla
  assert len({len(line) for line in done.stdout.splitlines()}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments, message", [
    ([], "at least one --config"),
    (["--config", "configs/none.py"], "no config file"),
    (["--config", TINY, "--rows", "0"], "argument --rows: '0'"),
    (["--config", TINY, "--repeats", "0"], "argument --repeats: '0'"),
    (["--config", TINY + ",model.heads=3"], "model.heads 3 does not divide"),
    (["--config", TINY, "--length", "1024"], "longer than model.max_length"),
])
def test_bad_commands(arguments, message):
  done = _run(*arguments)
  assert done.returncode == 2
  assert message in done.stderr.splitlines()[-1]
  assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_pages_say_what_a_step_takes():
  """The table of latemask/bench/README.md, and the front page's row of it."""
  lines = (conftest.ROOT / "latemask/bench/README.md").read_text().splitlines()
  front = (conftest.ROOT / "README.md").read_text()
  for name in ("base.py:base", "lean.py:large", "modern.py:base,data.length=1024"):
    found, = bench_step.flops_table([f"configs/{name}"])
    line, = (line for line in lines
             if line.startswith(f"| configs/{name} "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    said = f"{found['to_vanilla']:.3f}"
    assert cells[-3:] == [said, f"{found['to_unpruned_vanilla']:.3f}",
                          f"{found['layer_tokens']:.3f}"]
    assert cells[10] == f"{found['flops'] / 1e9:.2f}" and said in front
