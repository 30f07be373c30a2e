"""A packed set on disk, by its manifest: files, rows, what is held out.

Between packing, which makes it, and whoever reads rows. Each shard holds its
training rows, and behind them its held-out ones.
"""

import dataclasses
import hashlib
import json

from etils import epath

from latemask.data.tokenizers import sentencepiece as tokenizer_lib


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
