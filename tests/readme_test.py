"""The README pages: their commands parse, their links resolve, all are short.

Each command of a code block goes through the parser of the program that it
names, and its config is loaded; launch scripts run it with --dry_run. This file
is a program, too: python -m tests.readme_test reads command lines of
latemask.main from stdin, and lets main parse each in a process of its own.
"""

import ast
import importlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

from packaging import requirements
import pytest

ROOT = pathlib.Path(__file__).parent.parent  # No conftest: it imports JAX.
PAGES = (
    "README.md", "colabs/README.md", "configs/README.md",
    "configs/sweeps/README.md", "configs/sweeps/study/README.md",
    "launch/README.md", "latemask/README.md",
    "latemask/bench/README.md", "latemask/data/README.md",
    "latemask/finetune/README.md", "latemask/hub/README.md",
    "latemask/report/README.md", "latemask/runtime/README.md")
FRONT_PAGE_LINES = 200
# Programs of others, whose words are not ours to check.
FOREIGN = ("hf", "ssh-add", "tfds")
_KEY = re.compile(
    r"(?:--config\.)?((?:data|masking|model|train|optimizer|eval|checkpoint|"
    r"metrics|mesh|grid)\.\w+)(?: ?=.*)?")
_FILE_ENDINGS = {"py", "json", "jsonl", "safetensors", "model", "md"}


def _text(page):
  return (ROOT / page).read_text()


def _blocks(page):
  """Yields (language, text) of each code block."""
  return re.findall(r"^```(\w*)\n(.*?)^```$", _text(page), re.M | re.S)


def _shell(page):
  """Returns all shell of a page."""
  return "".join(block for language, block in _blocks(page) if not language)


def _prose(page):
  return re.sub(r"^```.*?^```$", "", _text(page), flags=re.M | re.S)


def commands(block):
  """Returns the words of each command of some shell.

  A variable that it has set stands for its words.
  """
  found, variables = [], {}
  joined = re.sub(r"(\\|(?<=&&)) *\n", " ", block)
  for line in joined.splitlines():
    line = re.sub(r"\$(\w+)", lambda name: variables[name[1]], line)
    assigned = re.fullmatch(r'(\w+)=("?)(.*)\2', line)
    if assigned:
      variables[assigned[1]] = assigned[3]
      continue
    words = [[]]
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    for word in lexer:
      if set(word) <= set(";&|"):
        words.append([])
      else:
        words[-1].append(word)
    found += [w for w in words if w]
  return found


def _of_page(page, *beginning):
  """Returns what follows `beginning` in the commands that begin so."""
  return [words[len(beginning):] for words in commands(_shell(page))
          if words[:len(beginning)] == list(beginning)]


def _specs(args):
  config = getattr(args, "config", None) or []
  return [config] if isinstance(config, str) else config


SHELL_PAGES = [page for page in PAGES if _shell(page)]


def test_every_readme_is_listed():
  found = {str(path.relative_to(ROOT)) for top in (
      "colabs", "configs", "launch", "latemask", "tests")
           for path in (ROOT / top).rglob("README.md")}
  assert found | {"README.md"} == set(PAGES)
  front = _text("README.md")
  assert [page for page in PAGES[1:] if f"]({page})" not in front] == []


def test_the_tour_lists_every_file():
  tour = _text("latemask/README.md")
  files = {str(path.relative_to(ROOT / "latemask")) for path in (
      ROOT / "latemask").rglob("*.py") if path.name != "__init__.py"}
  assert {path for path in files if f"]({path})" not in tour} == set()


def test_the_front_page_is_short():
  assert len(_text("README.md").splitlines()) <= FRONT_PAGE_LINES


def _anchors(page):
  """Returns the anchors of a page's headings, as GitHub makes them."""
  headings = re.findall(r"^#+ (.*)$", re.sub(
      r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
  return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
          for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
  links = re.findall(r'\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"', _text(page))
  for link in (a or b for a, b in links):
    if link.startswith("http"):
      continue
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent.joinpath(path) if path else ROOT / page
    assert target.resolve().is_relative_to(ROOT), link
    assert target.exists(), link
    if anchor:
      assert anchor in _anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_names_in_the_text_are_there(page):
  """Files, modules and keys between backticks."""
  from latemask.config import spec
  keys = set(spec.flatten(spec.load("configs/base.py").to_dict()))
  for name in ("glue", "finetune"):
    keys |= set(spec.flatten(spec.load(f"configs/{name}.py").to_dict()))
  for name in re.findall(r"`([^`\n]+)`", _prose(page)):
    path = re.fullmatch(
        r"((?:colabs|configs|launch|latemask|tests)/[\w/.]*)(?:[:,].*)?", name)
    module = re.match(r"latemask\.(?:main|(?:tools|bench)\.\w+)", name)
    key = _KEY.fullmatch(name)
    if path:
      assert (ROOT / path[1]).exists(), name
    elif module:
      assert importlib.util.find_spec(module[0]), name
    elif key and key[1].rsplit(".", 1)[1] not in _FILE_ENDINGS:
      assert key[1] in keys, name


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_have_known_flags(page):
  """Those between backticks, which may leave out what a table says once."""
  from latemask import main
  for name, rest in re.findall(
      r"`(?:python -m )?(latemask\.\w[\w.]*|pytest) ([^`\n]+)`", _prose(page)):
    if name == "pytest":
      known = _text("tests/conftest.py")
    elif name == "latemask.main":
      known = main.__doc__
    else:
      known = importlib.import_module(name)._parser().format_help()
    for word in shlex.split(rest):
      if word.startswith("--"):
        assert re.search(rf"{word}\b", known), (name, word)
      elif word.startswith(("configs/", "tests/")):
        assert (ROOT / word.partition(":")[0]).exists(), word


@pytest.mark.parametrize("page", SHELL_PAGES)
def test_they_are_shell(page):
  done = subprocess.run(["bash", "-n"], input=_shell(page), text=True,
                        capture_output=True, check=False)
  assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", SHELL_PAGES)
def test_every_command_is_of_a_kind(page):
  """So that none is passed over by the tests below."""
  for words in commands(_shell(page)):
    kind = words[2:] if words[:2] == ["bash", "launch/local.sh"] else words
    assert (kind[0] in FOREIGN or kind[:2] in (
        ["python", "-m"], ["pip", "install"], ["bash", "launch/tpu_vm.sh"],
        ["bash", "launch/sweep.sh"])), words


def test_commands_of_main_parse(monkeypatch, tmp_path):
  monkeypatch.chdir(ROOT)
  (tmp_path / "config.json").write_text(json.dumps({
      "model_type": "bert", "vocab_size": 320, "hidden_size": 16,
      "num_hidden_layers": 2, "num_attention_heads": 2,
      "intermediate_size": 32, "max_position_embeddings": 64,
      "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1,
      "attention_probs_dropout_prob": 0.1}))
  lines = [argv for page in SHELL_PAGES for argv in _of_page(
      page, "bash", "launch/local.sh", "python", "-m", "latemask.main")]
  assert len(lines) > 10
  # The one config that reads a folder, which a reader has.
  lines = [[re.sub(r"continue\.py:.+", f"continue.py:{tmp_path}", word)
            for word in argv] for argv in lines]
  done = subprocess.run(
      [sys.executable, "-m", "tests.readme_test"], input=json.dumps(lines),
      capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", SHELL_PAGES)
def test_commands_of_tools_parse(page, monkeypatch):
  from latemask.config import spec
  monkeypatch.chdir(ROOT)
  for name, *argv in _of_page(page, "bash", "launch/local.sh", "python", "-m"):
    if not name.startswith(("latemask.tools.", "latemask.bench.")):
      assert name in ("latemask.main", "pytest")
      continue
    parser = importlib.import_module(name)._parser()
    assert parser.prog == f"python -m {name}"
    args, left = parser.parse_known_args(argv)
    # Beam reads the rest.
    assert not left or getattr(args, "runner", None), left
    for config in _specs(args):
      spec.load(config)


@pytest.mark.parametrize("page", SHELL_PAGES)
def test_what_pytest_and_pip_are_given_is_there(page):
  for argv in _of_page(page, "bash", "launch/local.sh", "python", "-m",
                       "pytest"):
    for word in argv:
      assert not word.startswith("tests") or (ROOT / word).exists(), argv
  for argv in _of_page(page, "bash", "launch/local.sh", "pip", "install"):
    for flag, word in zip([None] + argv, argv):
      if flag == "-r":
        assert (ROOT / word).is_file()
      elif not word.startswith("-"):
        requirements.Requirement(word)


@pytest.mark.parametrize("script", ["tpu_vm", "sweep"])
def test_commands_of_launch_run_dry(script):
  lines = [argv for page in SHELL_PAGES
           for argv in _of_page(page, "bash", f"launch/{script}.sh")]
  assert lines
  for action, *argv in lines:
    done = subprocess.run(
        ["bash", f"launch/{script}.sh", action, "--dry_run", *argv], cwd=ROOT,
        capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (action, argv, done.stderr)


def python_blocks():
  """Returns the Python of all pages; tests/hub/export_test.py runs it."""
  return [block for page in PAGES for language, block in _blocks(page)
          if language == "python"]


def test_python_parses():
  assert python_blocks()
  for block in python_blocks():
    ast.parse(block)


def test_commands_are_read_as_a_shell_reads_them():
  assert commands(
      "bash a \\\n    --x='b c'  # why\n"
      'where="--p P --z Z"\nbash b $where -- d &&\n  bash e\n') == [
          ["bash", "a", "--x=b c"],
          ["bash", "b", "--p", "P", "--z", "Z", "--", "d"], ["bash", "e"]]


def _parse_with_main(lines):
  """Lets main parse each command line; exits with 1 if it refuses one."""
  from latemask.config import keys
  from latemask import errors
  from latemask import main
  refused = []
  for argv in lines:
    child = os.fork()  # absl's flags are parsed once a process.
    if not child:
      sys.argv = ["latemask.main", *argv]
      left = main.parse(sys.argv)
      with errors.one_line_exit():
        keys.check(main._CONFIG.value)
      os._exit(len(left) > 1)
    if os.waitpid(child, 0)[1]:
      refused.append(shlex.join(argv))
  print("\n".join(refused))
  sys.exit(bool(refused))


if __name__ == "__main__":
  _parse_with_main(json.load(sys.stdin))
