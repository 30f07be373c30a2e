"""builtin: help topics and docstrings of the running Python.

One of the sources of documents. It is there for a first run that downloads
nothing.
"""

import ast
import functools
import pathlib
import sys
import sysconfig

from latemask import errors

# A docstring's place: number of its file << this + its number in the file.
_FILE_BITS = 42


class Builtin:
  """Prose of the running Python."""
  max_shards, max_parts, files, notes = None, None, {}, ()

  @classmethod
  def open(cls, rest, config, key, download):
    """Takes no argument: `builtin` stands alone."""
    del config, download
    if rest:
      raise errors.InputError(
          f"{key} builtin:{rest}: builtin takes no argument")
    return cls()

  def without(self, known):
    """Returns the source; files of it are no other's."""
    del known
    return self

  def shared(self, sources):
    """Returns its name if another source is the same."""
    return ["builtin"] * any(isinstance(s, Builtin) for s in sources)

  def __getstate__(self):
    """Sends nothing: on another machine Python lies elsewhere."""
    return {}

  @functools.cached_property
  def _files(self):
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "test", "tests", "idlelib", "lib2to3"}
    return [path for path in sorted(root.rglob("*.py"))
            if not skipped & set(path.relative_to(root).parts)]

  @property
  def fingerprint(self):
    """The version of Python."""
    return sys.version

  @functools.cached_property
  def size_bytes(self):
    """Bytes of Python source, for the progress bar (a seventh is prose)."""
    return sum(path.stat().st_size for path in self._files) // 7

  def documents(self, shard, num_shards, bad):
    """Yields (place, text) of topics and docstrings of at least 20 words."""
    del bad  # It has none.
    from pydoc_data import topics
    keys = sorted(topics.topics)
    for place in range(shard, len(keys), num_shards):
      yield place, _reflow(topics.topics[keys[place]])
    for number in range(shard, len(self._files), num_shards):
      path = self._files[number]
      try:
        tree = ast.parse(path.read_bytes())
      except (SyntaxError, ValueError):
        continue  # The standard library ships some broken files on purpose.
      for place, node in enumerate(ast.walk(tree), number + 1 << _FILE_BITS):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
          text = ast.get_docstring(node) or ""
          if len(text.split()) >= 20:
            yield place, _reflow(text)


def changes(fingerprint):
  """Returns [in words, that this is another Python], or [] if it is not."""
  packed, now = fingerprint.split()[0], sys.version.split()[0]
  return [f"builtin is Python {packed}'s, not {now}'s"] * (packed != now)


def _reflow(text):
  return " ".join(text.split())
