"""Tokens that a vocabulary gets besides its own: a mask, words of a domain.

Both are asked for (`data.add_mask_token`, `data.add_tokens`). A word takes an
id that the vocabulary keeps unused ([unused7]), or the next one behind all. It
is found where it stands as a word of its own, with the space before it; any
text without it has the ids that it had. Where it took an unused id of WordPiece
or Unigram, it is a piece of the model, too: a longer word that holds it may be
cut there ("statins" into "statin" and "##s").
"""

import io
import itertools
import re

from etils import epath

from latemask.data.tokenizers import word_starts
from latemask import errors

_UNUSED = re.compile(r"(\[unused\d+\]|<unused\d+>|<\|?unused_?\d+\|?>)$")


def read_words(path):
  """Returns the words of a file, one a line, each once.

  Raises:
    InputError: it cannot be read, or has none.
  """
  try:
    text = epath.Path(path).read_bytes().decode("utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise errors.InputError(
        f"data.add_tokens: {path} cannot be read: {error}") from error
  # Ends of lines alone, and not all that str.splitlines takes for one.
  lines = io.StringIO(text, newline=None)
  words = list(dict.fromkeys(filter(None, map(str.strip, lines))))
  if not words:
    raise errors.InputError(f"data.add_tokens: {path} has no word")
  return words


def with_mask(tokenizer):
  """Returns a `huggingface.Tokenizer` that has a mask token, if need be new."""
  if "mask" in tokenizer.names:
    return tokenizer
  name = "[MASK]" if "[CLS]" in tokenizer.names.values() else "<mask>"
  return _with(tokenizer, [_token(name, lstrip=name == "<mask>", special=True)],
               mask_token=name)


def with_words(tokenizer, words):
  """Returns a tokenizer that has some words as tokens; those it has stay.

  Args:
    tokenizer: a `huggingface.Tokenizer`.
    words: strings.

  Raises:
    InputError: a word is the name of a special token, or it is found nowhere.
  """
  there = tokenizer.library_tokens
  for word in words:
    if word in there and tokenizer.is_special(there[word]):
      raise errors.InputError(
          f"data.add_tokens has {word}, which is a special token")
  new = [word for word in words if word not in there]
  if not new:
    return tokenizer
  unused = sorted((index, name) for name, index in there.items()
                  if _UNUSED.match(name))
  found = _with(tokenizer, [
      _token(word, single_word=True, lstrip=True, normalized=True)
      for word in new], unused)
  for word, before in zip(new, tokenizer.encode(new)):
    if not len(before):
      raise errors.InputError(
          f"data.add_tokens has {word!r}, of which this tokenizer leaves "
          "nothing")
  # Neighbours that make no longer word of the list with it.
  parts = {part.casefold() for word in words for part in word.split()}
  other = next(c for n in itertools.count(1) if (c := "a" * n) not in parts)
  texts = found.encode([f"{other} {word} {other}" for word in new])
  if not any(found.library_tokens[word] in ids
             for word, ids in zip(new, texts)):
    raise errors.InputError(
        f"data.add_tokens has {new[0]!r}, which this tokenizer does not find "
        "in a text, nor any other")
  return found


def new_ids(tokenizer, before):
  """Returns the ids that other tokens have than in a tokenizer before.

  Returns:
    An ascending list; None where `tokenizer` is not that one with tokens
    added.
  """
  if tokenizer.digest == before.digest:
    return []
  pieces, old = tokenizer.pieces, before.pieces
  changed = [index for index, piece in enumerate(pieces)
             if index >= len(old) or piece != old[index]]
  is_more = len(pieces) >= len(old) and all(
      index >= len(old) or _UNUSED.match(old[index].strip(word_starts.SPACE))
      for index in changed)
  return changed if is_more and changed else None


def replaced_pieces(tokenizer, index, before):
  """Returns the ids that a new token's text had in a tokenizer before."""
  word = tokenizer.pieces[index].replace(word_starts.SPACE, " ").strip()
  ids, of_word = before.encode_words(["a", *word.split()])
  return [i for i, number in zip(ids, of_word) if number]


def _token(content, **options):
  return {"content": content, "single_word": False, "lstrip": False,
          "rstrip": False, "normalized": False, "special": False} | options


def _with(tokenizer, tokens, unused=(), **settings):
  """Returns a tokenizer with some tokens more.

  Args:
    unused: (id, name) of tokens in whose place they come, the first first.
    settings: what its other files say besides.
  """
  described = tokenizer.described
  renamed = {name: token["content"]
             for (_, name), token in zip(unused, tokens)}
  ids = itertools.chain((index for index, _ in unused),
                        itertools.count(tokenizer.vocab_size))
  model = described["model"]
  pieces = model["vocab"]
  if isinstance(pieces, dict):
    pieces = {renamed.get(name, name): index for name, index in pieces.items()}
  else:
    pieces = [[renamed.get(name, name), score] for name, score in pieces]
  added = [token for token in described["added_tokens"]
           if token["content"] not in renamed]
  new = [token | {"id": index} for token, index in zip(tokens, ids)]
  found = tokenizer.replaced(described | {
      "model": model | {"vocab": pieces},
      "added_tokens": sorted(added + new, key=lambda token: token["id"])},
                             settings)
  there = found.library_tokens
  for token in new:
    if there[token["content"]] != token["id"]:
      raise errors.InputError(
          f"{token['content']!r} would get the id {there[token['content']]}, "
          f"which is taken, and not {token['id']}: this vocabulary has gaps, "
          "and nothing can be added to it")
  return found
