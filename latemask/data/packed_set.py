"""A packed set on disk, by its manifest: files, rows, what is held out.

Packing makes it; the loader, reports and fine-tuning read it. Each shard holds
its training rows first, then its held-out ones.
"""

import dataclasses
import hashlib
import json

from etils import epath

from latemask.config import keys
from latemask.data import shards as shards_lib
from latemask.data.sources import table as sources_lib
from latemask.data.tokenizers import kinds as tokenizers_lib
from latemask.data.tokenizers import tokenizer as tokenizer_lib
from latemask import errors
from latemask.runtime import files


@dataclasses.dataclass(frozen=True)
class Packed:
  """A complete packed set.

  Fields:
    directory: where it lies.
    manifest: the parsed manifest.json.
    tokenizer: the tokenizer whose ids the rows hold.
  """

  directory: str
  manifest: dict
  tokenizer: tokenizer_lib.Tokenizer

  @property
  def sets(self):
    """The sets that it is made of: this one; see mixture.py."""
    return [self]

  @property
  def _shards(self):
    return [s for s in self.manifest["shards"] if s["rows"]]

  @property
  def paths(self):
    """The shard files that hold rows, in order."""
    return [str(epath.Path(self.directory) / s["file"]) for s in self._shards]

  @property
  def num_rows(self):
    """Rows by file of `paths`."""
    return [s["rows"] for s in self._shards]

  @property
  def num_eval_rows(self):
    """Held-out rows by file of `paths`; None where `split` is None."""
    return None if self.split is None else [
        s["parts"]["held_out"]["rows"] for s in self._shards]

  @property
  def num_bytes(self):
    """Bytes by file of `paths`."""
    return [s["bytes"] for s in self._shards]

  @property
  def split(self):
    """How documents are held out, see held_out.py; None: rows are."""
    return self.manifest.get("split")

  @property
  def maskable_share(self):
    """Share of the tokens of training rows that can be masked.

    Special tokens cannot, and padding is no token. None where `split` is None:
    they were not counted.
    """
    if self.split is None:
      return None
    counts = self.manifest["totals"]["parts"]["training"]
    return counts["maskable_tokens"] / counts["tokens"]

  @property
  def digest(self):
    """SHA-256 of the manifest: equal digests are equal rows."""
    # The same text has other times where it was copied to.
    text = json.dumps({k: v for k, v in self.manifest.items()
                       if k != "files"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def directory_of(config, workdir):
  """Returns where the packed rows of a run lie."""
  return config.data.dir or epath.Path(workdir) / "data"


def holds_out_rows(directory):
  """Returns whether what lies there was packed before documents were held out.

  `data.eval_fraction` is no setting of such a set.
  """
  begun = read_begun(epath.Path(directory))
  return begun is not None and "split" not in begun


def load(config, directory, tokenizer=None):
  """Returns the complete `Packed` in `directory`, None where none is.

  Args:
    tokenizer: the one that the rows must have; None leaves it to the config.

  Raises:
    InputError: what lies there was packed with other settings; see `check`.
  """
  directory = epath.Path(directory)
  manifest = read(config, directory, tokenizer)
  if (not manifest or not manifest["complete"]
      or not _has_all_shards(directory, manifest)):
    return None
  return Packed(str(directory), manifest, tokenizer_in(directory, manifest))


def read(config, directory, tokenizer=None):
  """Returns the manifest of a set that was begun, None where none was.

  Raises:
    InputError: it was begun with other settings.
  """
  path = epath.Path(directory) / "manifest.json"
  if not path.exists():
    return None
  manifest = _read_manifest(path)
  _compare(config, directory, manifest, tokenizer)
  return manifest


def tokenizer_in(directory, manifest):
  """Returns the tokenizer of a set.

  Raises:
    InputError: what lies there is another, or none.
  """
  tokenizer = tokenizers_lib.saved(directory)
  if not tokenizer or tokenizer.digest != manifest["settings"]["tokenizer"]:
    raise errors.InputError(
        f"the tokenizer in {directory} is not that which the rows were "
        "packed with; restore it or delete the folder")
  return tokenizer


def _read_manifest(path):
  try:
    manifest = json.loads(path.read_text())
    manifest["settings"]["tokenizer"]
  except (json.JSONDecodeError, KeyError, TypeError,
          UnicodeDecodeError) as error:
    raise errors.InputError(
        f"{path} is no manifest of packed data; delete the folder or choose "
        "another data.dir") from error
  return manifest


def _compare(config, directory, manifest, tokenizer):
  """Raises InputError for a set that was packed with other settings."""
  wanted, found = settings(config), manifest["settings"]
  if tokenizer := tokenizers_lib.of_config(config, tokenizer):
    wanted["tokenizer"] = tokenizer.digest
  elif not found["tokenizer_trained"] and not config.train.init_from:
    wanted["tokenizer"] = "trained on the documents"
  if config.train.init_from:
    # Whoever trained it, it is the right one.
    del wanted["vocab_size"], wanted["tokenizer_kind"]
  found = settings_before(config) | found
  differing = [k for k in wanted if wanted[k] != found.get(k)]
  if differing:
    raise errors.InputError(
        f"{directory} was packed with another " + " and another ".join(
            f"{k} ({found.get(k)!s:.40}, not {wanted[k]!s:.40})"
            for k in differing)
        + "; choose another data.dir or delete the folder")


def _has_all_shards(directory, manifest):
  """Returns whether none was deleted on purpose, to be packed again.

  Raises:
    InputError: a shard is gone or cut off, and not on purpose.
  """
  for shard in manifest["shards"]:
    file = directory / shard["file"]
    if not file.exists() and not file.with_suffix(".json").exists():
      return False
    if not file.exists() or files.size(file) != shard["bytes"]:
      raise errors.InputError(
          f"{file} is missing or cut off; {shards_lib.advice(file)}")
  return True


def changes(config, packed):
  """Returns in words how text differs from what was packed; see `sources`."""
  said = [sources_lib.changes(config, packed.manifest)]
  if config.data.eval_source:
    said.append(sources_lib.changes(
        config, packed.manifest | {"sources": packed.manifest["eval_sources"]},
        "data.eval_source"))
  return ", ".join(filter(None, said))


def is_older_than_fit(directory):
  """Returns whether what lies there was begun before `data.fit` was a setting.

  (Of documents; of streams it became one later.) Such a set goes with any, and
  keeps its own.
  """
  begun = read_begun(epath.Path(directory))
  return begun is not None and "fit" not in begun["settings"]


def fit_as_packed(config, directory):
  """Returns the config with the `data.fit` of a set that is gone on with."""
  if not is_older_than_fit(directory):
    return config
  config = config.copy_and_resolve_references()
  config.data.fit = keys.BEFORE["data.fit"]
  return config


def settings(config):
  """What the rows depend on, but for the tokenizer."""
  data = config.data
  return {"source": data.source, "length": data.length,
          "packing": data.packing, "fit": data.fit,
          "documents": data.documents,
          "text_fields": list(data.text_fields),
          "vocab_size": None if data.tokenizer or config.train.init_from
          else data.vocab_size,
          "tokenizer_kind": None if data.tokenizer or config.train.init_from
          else data.tokenizer_kind,
          "eval_source": data.eval_source or None,
          "eval_fraction": None if data.eval_source else data.eval_fraction}


def settings_before(config):
  """What settings that are older than a key mean.

  Sets older than the split by documents go with any `data.eval_fraction`: it
  is that of the loader. Those that are older than `data.fit` go with any, too.
  """
  wanted = settings(config)
  return {key: keys.BEFORE[f"data.{key}"] for key in wanted
          if f"data.{key}" in keys.BEFORE} | {
              key: wanted[key] for key in ("eval_fraction", "fit")
              if key in wanted}


def read_begun(directory):
  """Returns the manifest of what is gone on with; None where none is."""
  path = directory / "manifest.json"
  return json.loads(path.read_text()) if path.exists() else None
