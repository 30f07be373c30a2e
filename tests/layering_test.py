"""Who may import whom; what must import without TensorFlow; no stray file."""

import ast
import subprocess
import sys

import pytest

from tests import conftest

ROOT = conftest.ROOT

# Rooms in order; a module imports only what stands in a row before its own,
# or before it in its row.
ORDER = [
    ["errors", "since", "config_file", "hlo", "markdown", "signals"],
    ["data.local", "data.proto", "data.tokenizer", "data.rows", "data.lines",
     "data.text", "data.tfds_source", "data.builtin", "data.sources",
     "data.processes", "data.held_out", "data.shards", "data.packed",
     "data.packing", "data.glue"],
    ["distributed", "sharding", "keys", "products", "layers", "loss",
     "masking", "optimizer", "flops", "metrics", "workdir", "data.order",
     "data.loader", "checkpoint"],
    ["stack", "model", "classifier", "hf_tokenizer", "hf_weights",
     "hf_config", "hf", "pretrained"],
    ["step"], ["evaluate", "plateau"], ["finetune_step", "cell", "results"],
    ["loop", "train"], ["finetune"], ["main"],
    ["tools.command", "tools.aot", "tools.torch_peer", "tools.bench",
     "tools.bench_finetune", "tools.bench_checkpoint", "tools.export",
     "tools.fill_mask", "tools.prepare", "tools.faults", "tools.soak",
     "tools.sweep_claims", "tools.sweep_points", "tools.sweep",
     "tools.rank", "tools.report_runs", "tools.report_alike",
     "tools.report_series",
     "tools.report_look", "tools.report_figures", "tools.report_page",
     "tools.report", "tools.token_layers"]]
FLAT = [name for row in ORDER for name in row]


def _module(path):
  return ".".join(path.relative_to(ROOT / "latemask").with_suffix("").parts)


def _imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        name = f"{node.module}.{alias.name}"
        if name.startswith("latemask."):
          yield name.removeprefix("latemask.")


def test_rooms_import_downwards_only():
  for path in (ROOT / "latemask").rglob("*.py"):
    name = _module(path)
    if path.name == "__init__.py":
      continue
    assert name in FLAT, f"{name} has no place in the order"
    for imported in _imports(path):
      assert FLAT.index(imported) < FLAT.index(name), (name, imported)


def test_files_are_short_and_say_what_they_are():
  for path in (ROOT / "latemask").rglob("*.py"):
    text = path.read_text()
    assert len(text.splitlines()) <= 400, path
    assert ast.get_docstring(ast.parse(text)), path
    assert all(len(line) <= 80 for line in text.splitlines()), path


@pytest.mark.parametrize("blocked, modules", [
    (("tensorflow", "tensorflow_datasets", "tensorboard", "apache_beam"), FLAT),
    (("jax",), ["errors", "signals", "data.local", "data.proto",
                "data.tokenizer", "data.rows", "data.lines", "data.text",
                "data.tfds_source", "data.builtin", "data.sources",
                "data.processes", "data.held_out", "data.shards",
                "data.packed", "data.packing", "main", "tools.prepare"])])
def test_imports_without(blocked, modules):
  """All rooms without TensorFlow; the packer's processes without JAX."""
  code = (f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
          + "; ".join(f"import latemask.{m}" for m in modules))
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
