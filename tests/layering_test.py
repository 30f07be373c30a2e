"""Who may import whom; what must import without TensorFlow; no stray file."""

import ast
import graphlib
import subprocess
import sys

import pytest

from tests import conftest

ROOM = conftest.ROOT / "latemask"

# Folders and files of latemask/ in order; each imports what stands before it.
# Of those in one row, none imports another.
ORDER = [("errors",), ("config",), ("runtime",), ("data",), ("masking",),
         ("model",), ("checkpoint",), ("hub",), ("train",), ("finetune",),
         ("predict",), ("main",), ("sweep", "report"), ("bench",), ("tools",)]
PLACE = {name: place for place, row in enumerate(ORDER) for name in row}
# Ground floors: they import nothing of the files beside them.
GROUND = ("data.sources", "data.tokenizers", "finetune.tasks")

# Runs elsewhere: exports hold a copy of it, and nothing here imports it.
ELSEWHERE = "hub.modeling_latemask"

MODULES = sorted(
    {".".join(path.relative_to(ROOM).with_suffix("").parts)
     for path in ROOM.rglob("*.py") if path.name != "__init__.py"}
    - {ELSEWHERE})


def _imports(module):
  """Yields what a module imports of latemask/, in functions too."""
  path = (ROOM / module.replace(".", "/")).with_suffix(".py")
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, (ast.Import, ast.ImportFrom)):
      inside = f"{node.module}." if getattr(node, "module", None) else ""
      for alias in node.names:
        name = inside + alias.name
        if name.startswith("latemask."):
          yield name.removeprefix("latemask.")


def _in(module, folder):
  return module.startswith(folder + ".")


@pytest.mark.parametrize("module", MODULES)
def test_imports_downwards_only(module):
  top = module.split(".")[0]
  for imported in _imports(module):
    below = imported.split(".")[0]
    assert imported in MODULES, imported
    assert below == top or PLACE[below] < PLACE[top], imported
    for folder in GROUND:
      if _in(module, folder):
        assert _in(imported, folder) or below != top, imported
    if _in(imported, "report.panels") and below == top:
      assert module == "report.page" or _in(module, "report.panels")


def test_what_runs_elsewhere_imports_nothing():
  assert not list(_imports(ELSEWHERE))


def test_no_circles():
  graphlib.TopologicalSorter(
      {module: set(_imports(module)) for module in MODULES}).prepare()


def test_files_are_short_and_say_what_they_are():
  for path in ROOM.rglob("*.py"):
    text = path.read_text()
    assert len(text.splitlines()) <= 400, path
    assert ast.get_docstring(ast.parse(text)), path
    assert all(len(line) <= 80 for line in text.splitlines()), path


_BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp,
             ast.match_case)
# Functions of more branches, at most five, each with its reason.
ALLOWED = {}


def _own(function):
  """Yields the nodes of a function that are not of one inside it."""
  for node in ast.iter_child_nodes(function):
    if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
      yield node
      yield from _own(node)


def _num_branches(function):
  return sum(isinstance(node, _BRANCHES) or len(node.ifs) if isinstance(
      node, (*_BRANCHES, ast.comprehension)) else 0 for node in _own(function))


def test_functions_have_few_branches():
  assert _num_branches(ast.parse(
      "def f(x):\n"
      "  if x: return [y for y in x if y]\n"
      "  elif not x: return 1 if x else 2\n"
      "  for y in x:\n"
      "    def g(): return 1 if x else 2\n").body[0]) == 5
  assert len(ALLOWED) <= 5
  for path in ROOM.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef):
        assert (_num_branches(node) <= 12) != (node.name in ALLOWED), (
            path, node.name)


def test_a_folder_imports_nothing():
  for path in ROOM.rglob("*/__init__.py"):
    assert len(ast.parse(path.read_text()).body) == 1, path


WITHOUT_JAX = [
    module for module in MODULES
    if module in ("errors", "main", "tools.prepare", "runtime.files",
                  "runtime.claims", "runtime.workers", "runtime.console",
                  "runtime.signals", "finetune.grid", "finetune.batches",
                  "hub.weights", "hub.stock_config", "hub.tokenizer", "sweep.shim", "bench.hlo")
    or _in(module, "config") or _in(module, "finetune.tasks")
    or _in(module, "data") and module not in ("data.loader", "data.order")]


@pytest.mark.parametrize("blocked, modules", [
    (("tensorflow", "tensorflow_datasets", "tensorboard", "apache_beam"),
     MODULES),
    (("jax", "flax"), WITHOUT_JAX)])
def test_imports_without(blocked, modules):
  """All rooms without TensorFlow; the packer's processes without JAX."""
  code = (f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
          + "; ".join(f"import latemask.{m}" for m in modules))
  subprocess.run([sys.executable, "-c", code], cwd=ROOM.parent, check=True)
