"""Tokenizers of Hugging Face's library: byte-level BPE, WordPiece, Unigram.

Read from a tokenizer.json, or a folder with one, with vocab.json and
merges.txt, or with vocab.txt; a byte-level BPE is trained here, too. Special
tokens are known by the roles that tokenizer_config.json gives them, else by
their names, and stand at any ids.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re

from etils import epath
import numpy as np
import tokenizers as library

from latemask.data.tokenizers import published
from latemask.data.tokenizers import specials as specials_lib
from latemask.data.tokenizers import spelling
from latemask.data.tokenizers import tokenizer as tokenizer_lib
from latemask.data.tokenizers import word_starts
from latemask import errors

# Packing has a process a core; threads beside those would only be in the way.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What tokenizes, the first of these that is there; and what says how.
_DEFINITIONS = (("tokenizer.json",), ("vocab.json", "merges.txt"),
                ("vocab.txt",))
SETTINGS = "tokenizer_config.json"
# What one was converted from.
_MODEL = "tokenizer.model"
_BESIDE = (SETTINGS, "special_tokens_map.json", "added_tokens.json", _MODEL)
FILES = (*(name for names in _DEFINITIONS for name in names), *_BESIDE)
# Role -> keys in tokenizer_config.json, names where it does not say.
_ROLES = {
    "bos": (("cls_token", "bos_token"),
            ("[CLS]", "<s>", "<cls>", "<|startoftext|>")),
    "pad": (("pad_token",), ("[PAD]", "<pad>", "<|padding|>")),
    "eos": (("sep_token", "eos_token"),
            ("[SEP]", "</s>", "<sep>", "<|endoftext|>")),
    "unk": (("unk_token",), ("[UNK]", "<unk>")),
    "mask": (("mask_token",), ("[MASK]", "<mask>")),
}
# Role -> what stock calls its token.
KEYS = {role: keys for role, (keys, _) in _ROLES.items()}
_BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclasses.dataclass(frozen=True)
class Tokenizer(tokenizer_lib.Tokenizer):
  """A tokenizer of the `tokenizers` library.

  Fields:
    contents: (name, bytes) of its files, by name.
  """

  contents: tuple

  @property
  def files(self):
    """See the base class."""
    return dict(self.contents)

  @functools.cached_property
  def _definition(self):
    """The files that tokenize."""
    return {name: self.files[name] for name in _defined(self.files)}

  @functools.cached_property
  def settings(self):
    """What the files beside it say: {key: value}."""
    found = {}
    for name in ("special_tokens_map.json", SETTINGS):
      if name in self.files:
        found |= json.loads(self.files[name])
    return found

  @functools.cached_property
  def digest(self):
    """See the base class: of what tokenizes, and of the special tokens."""
    if _MODEL in self.files:  # A SentencePiece model, converted.
      return hashlib.sha256(self.files[_MODEL]).hexdigest()
    parts = [*self._definition.values(),
             repr(dataclasses.astuple(self.specials)).encode()]
    if "tokenizer.json" not in self._definition:
      parts.append(self._stock.to_str().encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()

  @functools.cached_property
  def _stock(self):
    """The library's object as stock has it; it neither pads nor cuts."""
    return built(self.described)

  @functools.cached_property
  def _library(self):
    """The library's object to which special tokens in a text are text."""
    return _opened(self.described, self._special)

  @functools.cached_property
  def described(self):
    """The JSON of the library's object."""
    return published.described(
        self._definition, self.settings,
        self.files.get("added_tokens.json", b"{}"))

  @functools.cached_property
  def _with_mask(self):
    """The library's object to which the mask, and it alone, is special."""
    return _opened(self.described, self._special - {self.mask_token})

  @functools.cached_property
  def _special(self):
    """The special tokens."""
    return {self._tokens[index] for index in self.special_N
            if index in self._tokens}

  def replaced(self, described, settings):
    """Returns the tokenizer of another description.

    Args:
      described: the content of tokenizer.json.
      settings: {key: value}, what its other files say besides.
    """
    # That names tokens by their ids, which may be other ones now.
    before = {key: value for key, value in self.settings.items()
              if key != "added_tokens_decoder"}
    files = {"tokenizer.json": as_json(described)}
    if not before:  # Tokens have their usual names, and stock is told of them.
      return of_files(files)
    names = of_files(files | {SETTINGS: as_json(before | settings)}).names
    # The stock class of a model alone may make another tokenizer of it.
    return of_files(files | {SETTINGS: as_json(stock_settings(names) | before
                                               | settings)})

  @functools.cached_property
  def vocab_size(self):
    """See the base class; ids without a token count."""
    return max(self._tokens) + 1

  @functools.cached_property
  def library_tokens(self):
    """{token as the library has it: id}."""
    return self._stock.get_vocab(with_added_tokens=True)

  @functools.cached_property
  def _tokens(self):
    """{id: token as the library has it}."""
    return {index: token for token, index in self.library_tokens.items()}

  @functools.cached_property
  def names(self):
    """{role: special token}, as far as they are there."""
    vocabulary = self.library_tokens
    names = {}
    for role, (keys, usual) in _ROLES.items():
      told = [self.settings.get(key) for key in keys]
      told = [t["content"] if isinstance(t, dict) else t for t in told]
      found = [name for name in (*told, *usual) if name in vocabulary]
      if found:
        names[role] = found[0]
    return names

  @functools.cached_property
  def specials(self):
    """See the base class.

    Raises:
      InputError: a role has no token, or two that must differ share one.
    """
    # What bytes spell is never unknown, and has no token for it.
    names = {"unk": self.names.get("pad")} | self.names
    for role in _ROLES:
      if names.get(role) is None:
        hint = ("; where one pre-trains, data.add_mask_token adds one"
                if role == "mask" else "")
        raise errors.InputError(
            f"this tokenizer has no {role} token (looked for "
            f"{', '.join(_ROLES[role][1])}){hint}")
    if len({names[role] for role in ("bos", "pad", "eos", "mask")}) < 4:
      raise errors.InputError(
          "this tokenizer has one token for two roles ("
          + ", ".join(f"{role} {name}" for role, name in names.items()) + ")")
    return specials_lib.Specials(**{
        role: self._stock.token_to_id(names[role]) for role in _ROLES})

  @property
  def mask_token(self):
    """See the base class."""
    return self.names["mask"]

  @functools.cached_property
  def special_N(self):
    """See the base class."""
    special = {index for index, token in
               self._stock.get_added_tokens_decoder().items()
               if token.special}
    special |= set(dataclasses.astuple(self.specials))
    special |= set(range(self.vocab_size)) - set(self._tokens)
    return np.array(sorted(special))

  @functools.cached_property
  def template(self):
    """See the base class: what its post-processor adds, RoBERTa's if nothing.

    Raises:
      InputError: it adds something else than one special token on either side.
    """
    single, pair = self._rows("a"), self._rows("a", "b")
    ids = [index for index, _ in single]
    if ids == [None]:
      return tokenizer_lib.roberta_template(self.specials)
    wanted = [self.specials.bos, None, self.specials.eos]
    if ids != wanted:
      found, right = (" ".join(
          "TEXT" if index is None else self._stock.id_to_token(index)
          for index in row) for row in (ids, wanted))
      raise errors.InputError(
          f"its post-processor makes {found!r} of a text; rows here are "
          f"{right!r}")
    return tokenizer_lib.Template(single, pair)

  def _rows(self, *texts):
    """Returns one side of the template, from an example."""
    found = self._stock.encode(*texts)
    parts, before = [], None
    for index, kind, text in zip(found.ids, found.type_ids,
                                 found.sequence_ids):
      if text is None:
        parts.append((index, kind))
      elif text != before:
        parts.append((None, kind))
      before = text
    return tuple(parts)

  @functools.cached_property
  def pieces(self):
    """See the base class."""
    described = json.dumps([self.described["pre_tokenizer"],
                            self.described["decoder"]])
    kind = (self.described["model"]["type"]
            if "ByteLevel" not in described else "ByteLevel")
    # Added ones are text as it is, and may take the space before them.
    added = {token["id"]: word_starts.SPACE * token["lstrip"] + token["content"]
             for token in self.described["added_tokens"]
             if not token["special"]}
    return [added.get(index) or spelling.text(
        kind, self._tokens[index], self.described["model"])
            if index in self._tokens else ""
            for index in range(self.vocab_size)]

  @functools.cached_property
  def is_no_word_V(self):
    """See the base class."""
    return self._is_special_V | np.array(
        [bool(_BYTE.match(piece)) for piece in self.pieces])

  def encode(self, texts):
    """See the base class."""
    return [np.array(found.ids, np.int32) for found in
            self._library.encode_batch_fast(texts, add_special_tokens=False)]

  def encode_masked(self, text):
    """See the base class."""
    return self._with_mask.encode(text, add_special_tokens=False).ids

  def encode_with_places(self, text):
    """See the base class."""
    found = self._library.encode(text, add_special_tokens=False)
    begins, ends = zip(*found.offsets) if found.ids else ((), ())
    return found.ids, list(begins), list(ends)

  def decode(self, ids):
    """See the base class."""
    special = set(self.special_N.tolist())
    return self._stock.decode(
        [int(i) for i in ids if int(i) not in special],
        skip_special_tokens=False)


def of_files(files):
  """Returns the `Tokenizer` of {name: bytes}."""
  return Tokenizer(tuple(sorted(files.items())))


def as_json(content):
  """Returns the bytes of a JSON file."""
  return json.dumps(content, indent=1, ensure_ascii=False).encode()


def built(described):
  """Returns the library's object of a tokenizer.json; it neither pads nor cuts.

  Nor drops merges. Sentence encoders say in their file to pad to 128.
  """
  model = described["model"]
  if "dropout" in model:
    model = model | {"dropout": None}
  return library.Tokenizer.from_str(json.dumps(
      described | {"padding": None, "truncation": None, "model": model}))


def _opened(described, as_text):
  """Returns the library's object of a description.

  Args:
    as_text: special tokens that are text in a text; any other is found.
  """
  # The library finds an added token that is not `special` whatever is set; and
  # where it looks whole words up (all but BPE, which has merges), it would find
  # their names in the vocabulary: they get some that no text has. (The unknown
  # one is known by its own, and merges that make a name make it of any text.)
  model = described["model"]
  looks_up = model["type"] != "BPE" or model.get("ignore_merges")
  merged = {"".join(pair) if isinstance(pair, list) else pair.replace(" ", "")
            for pair in model.get("merges", ()) if looks_up}
  renamed = {name: f"\uffff{name}"
             for name in as_text - merged - {model.get("unk_token")}
             if looks_up}
  if isinstance(model["vocab"], dict):
    model = model | {"vocab": {renamed.get(name, name): index
                               for name, index in model["vocab"].items()}}
  else:
    model = model | {"vocab": [[renamed.get(name, name), score]
                               for name, score in model["vocab"]]}
  added = [token | {"special": token["content"] in as_text,
                    "content": renamed.get(token["content"],
                                           token["content"])}
           for token in described["added_tokens"]]
  found = built(described | {
      "added_tokens": added, "model": model, "post_processor": None})
  found.encode_special_tokens = True
  return found


def load(path, called, change=lambda tokenizer: tokenizer):
  """Reads a tokenizer.json, or a folder as it is published.

  Args:
    called: what a message begins with.
    change: what is made of it before it is looked at, see added.py.

  Raises:
    InputError: it is neither, cannot be read, or lacks a special token.
  """
  path = epath.Path(path)
  if not path.exists():
    raise errors.InputError(f"{called}{path} is not there")
  files = ({name: path / name for name in FILES} if path.is_dir() else
           {"tokenizer.json": path})
  contents = {name: file.read_bytes() for name, file in files.items()
              if file.is_file()}
  try:
    if (path / "latemask.json").is_file():
      contents = _own(contents)
    tokenizer = change(of_files(contents))
    tokenizer.template  # Reads all of it.
  except errors.InputError as error:
    raise errors.InputError(f"{called}{path}: {error}") from error
  except Exception as error:  # The library raises nothing more special.
    raise errors.InputError(
        f"{called}{path} cannot be read as a tokenizer of Hugging Face's: "
        f"{str(error).splitlines()[0]:.200}") from error
  return tokenizer


def _own(contents):
  """Returns {name: bytes} of an export without what it has written besides.

  That is a tokenizer.json of the vocabulary that lies beside it.
  """
  rest = {k: v for k, v in contents.items() if k != "tokenizer.json"}
  is_written = _defined(rest) and contents.get("tokenizer.json") == as_json(
      of_files(rest).described)
  return rest if is_written else contents


def stock_settings(names):
  """Returns what tokenizer_config.json says of a tokenizer.json.

  Args:
    names: {role: special token}.
  """
  return {"tokenizer_class": "PreTrainedTokenizerFast",
          "clean_up_tokenization_spaces": False,
          **{key: name for role, name in names.items() for key in KEYS[role]}}


def _defined(files):
  """Returns the names of the files that tokenize; () if there are none."""
  return next((names for names in _DEFINITIONS
               if all(name in files for name in names)), ())


def is_there(folder):
  """Returns whether a folder holds files that can be read here."""
  return bool(_defined([name for name in FILES if (folder / name).is_file()]))
