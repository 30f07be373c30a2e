"""SentencePiece models: read, and trained.

One that is trained here is a unigram model with byte fallback (Kudo 2018), so
that every string has ids and no <unk> is ever produced. Five ids are fixed, the
first four as in RoBERTa.

Its normalisation is the identity but for tab, line feed and carriage return,
which become spaces, and runs of spaces, which become one: simple enough that
another tokenizer library can encode exactly the same. To that end, too, scores
are multiples of 1 / 256: SentencePiece adds them up in float32 over a whole
document, others in float64 over a word, and where two ways to cut a word up
are equally good ("eeee") the rounding would choose.
"""

import dataclasses
import functools
import hashlib
import io
import tempfile

from etils import epath
import numpy as np
import sentencepiece

from latemask.data.tokenizers import proto as proto_lib
from latemask.data.tokenizers import specials as specials_lib
from latemask.data.tokenizers import tokenizer as tokenizer_lib
from latemask.data.tokenizers import word_starts
from latemask import errors

# A unigram model adds its counts up by thread, so this is a constant: the
# same text gives the same tokenizer on any machine.
_TRAIN_THREADS = 16
_MAX_SENTENCE_BYTES = 4096
_CHARSMAP = "9\t20\nA\t20\nD\t20\n"
# Sums are exact up to 2**24 of these parts, about 8,000 tokens.
_SCORE_PARTS = 256


# What its file is called.
FILE = "tokenizer.model"


@dataclasses.dataclass(frozen=True)
class Tokenizer(tokenizer_lib.Tokenizer):
  """A SentencePiece model with the five ids above.

  Fields:
    proto: the serialised model; equal bytes are an equal tokenizer.
  """

  proto: bytes

  @functools.cached_property
  def processor(self):
    """The sentencepiece.SentencePieceProcessor."""
    return sentencepiece.SentencePieceProcessor(model_proto=self.proto)

  @functools.cached_property
  def vocab_size(self):
    """Number of ids, specials included."""
    return self.processor.vocab_size()

  @functools.cached_property
  def digest(self):
    """SHA-256 of the model, in hexadecimal."""
    return hashlib.sha256(self.proto).hexdigest()

  @functools.cached_property
  def settings(self):
    """What the model says of itself, see `proto.settings`."""
    return proto_lib.settings(self.proto)

  @property
  def is_ours(self):
    """Whether special tokens and scores are as they are trained here."""
    return tuple(self.processor.id_to_piece(list(range(
        len(self.names))))) == specials_lib.NAMES and (
            proto_lib.with_rounded_scores(self.proto, _SCORE_PARTS)
            == self.proto)

  @property
  def spaces_are_behind(self):
    """Whether a piece that ends a word has the space, not one that begins."""
    return bool(self.settings["trainer_spec.treat_whitespace_as_suffix"])

  @functools.cached_property
  def pieces(self):
    """The ids as text; \u2581 stands for a space."""
    return self.processor.id_to_piece(list(range(self.vocab_size)))

  @property
  def files(self):
    """The one file."""
    return {FILE: self.proto}

  specials = specials_lib.TRAINED
  special_N = np.arange(len(specials_lib.NAMES))
  names = dict(zip(("bos", "pad", "eos", "unk", "mask"), specials_lib.NAMES))
  mask_token = names["mask"]
  template = tokenizer_lib.roberta_template(specials)

  @functools.cached_property
  def is_no_word_V(self):
    """Whether the id is special or a single byte, bool [V]."""
    return np.array([
        self.processor.is_control(i) or self.processor.is_byte(i)
        or self.processor.is_unknown(i) for i in range(self.vocab_size)])

  def encode(self, texts):
    """See the base class."""
    return self.processor.encode(texts, num_threads=1, return_type="numpy")

  def encode_masked(self, text):
    """See the base class.

    A word is put in the place of <mask>, the text is encoded, and the ids of
    that word are replaced by the mask. So what stands around it is cut up as
    in running text, and the space before it (behind it, where the model writes
    spaces behind words) goes with the word. Of several spaces as many stay as
    would at the end of a text.
    """
    stand_in = self._stand_in(text)
    text = text.replace(self.mask_token, stand_in)
    mask, unk = self.specials.mask, self.specials.unk
    names = [f"<0x{byte:02X}>" for byte in stand_in.encode()]
    ids, recent = [], []
    for index, piece in zip(self.processor.encode(text, return_type=int),
                            self.processor.encode(text, return_type=str)):
      ids.append(index)
      # Bytes of other characters never add up to this one.
      recent = [*recent, piece][-len(names):]
      if recent == names and self.processor.is_byte(index):
        ids[-len(names):] = [mask]
      elif stand_in in piece:
        # Unknown, in one with what is unknown beside it.
        ids.pop()
        for place, part in enumerate(piece.split(stand_in)):
          ids += [mask] * (place > 0)
          ids += [unk] * (part.strip(word_starts.SPACE) != "")
    keeps_spaces = not self.settings["normalizer_spec.remove_extra_whitespaces"]
    space, kept = self.processor.piece_to_id(word_starts.SPACE), []
    for index in reversed(ids) if self.spaces_are_behind else ids:
      while (index == mask and kept
             and kept[-1] == space != unk):
        kept.pop()
        if keeps_spaces:
          break
      kept.append(index)
    return kept[::-1] if self.spaces_are_behind else kept

  def _stand_in(self, text):
    """Returns a character of no meaning, which no tokenizer has seen."""
    return next(
        char for char in map(chr, range(0x10FFFD, 0x100000, -1))
        if char not in text and char in self.processor.normalize(char)
        and self.processor.piece_to_id(char) == self.specials.unk)

  def decode(self, ids):
    """See the base class."""
    return self.processor.decode([int(i) for i in ids])

  def encode_with_places(self, text):
    """See the base class."""
    pieces = self.processor.encode(text, return_type="proto").pieces
    # It counts bytes; every byte but the later ones of a character begins one.
    begins = np.frombuffer(text.encode(), np.uint8) & 0xC0 != 0x80
    chars = np.concatenate([[0], np.cumsum(begins)])
    return tuple([of_piece(piece) for piece in pieces] for of_piece in (
        lambda piece: piece.id, lambda piece: int(chars[piece.begin]),
        lambda piece: int(chars[piece.end])))



def load(path, called):
  """Reads a SentencePiece model.

  Args:
    called: what a message begins with.

  Raises:
    InputError: there is no such file, or it is no SentencePiece model.
  """
  path = epath.Path(path)
  if not path.is_file():
    raise errors.InputError(
        f"{called}{path} is not there; give a SentencePiece .model, a "
        "tokenizer.json or a folder with one, or leave data.tokenizer out to "
        "train one on the run's own documents")
  tokenizer = Tokenizer(path.read_bytes())
  try:
    _ = tokenizer.is_ours, tokenizer.pieces
  # A ValueError: a piece that is not UTF-8.
  except (RuntimeError, IndexError, OSError, ValueError) as error:
    raise errors.InputError(
        f"{called}{path} is no SentencePiece model with at least "
        f"{len(specials_lib.NAMES)} pieces ({str(error).splitlines()[0]})"
    ) from error
  return tokenizer


def train(documents, vocab_size):
  """Trains a unigram model with byte fallback.

  The caller bounds memory by bounding `documents`; long ones are cut into
  sentences of at most 4 kB here, as the trainer skips longer ones.

  Args:
    documents: strings.
    vocab_size: ids wanted, specials and 256 bytes included. A small corpus
      may give fewer.

  Raises:
    InputError: the documents do not suffice to train a model of that size, or
      what `documents` itself raises.
  """
  tokenizer_lib.check_vocab_size(vocab_size)
  names, ids = specials_lib.NAMES, specials_lib.TRAINED
  model, refusals = io.BytesIO(), []
  with tempfile.NamedTemporaryFile("w", suffix=".tsv") as charsmap:
    charsmap.write(_CHARSMAP)
    charsmap.flush()
    try:
      sentencepiece.SentencePieceTrainer.train(
          sentence_iterator=_sentences(documents, refusals),
          model_writer=model,
          model_type="unigram",
          vocab_size=vocab_size,
          hard_vocab_limit=False,
          byte_fallback=True,
          normalization_rule_tsv=charsmap.name,
          bos_id=ids.bos, bos_piece=names[ids.bos],
          pad_id=ids.pad, pad_piece=names[ids.pad],
          eos_id=ids.eos, eos_piece=names[ids.eos],
          unk_id=ids.unk, unk_piece=names[ids.unk],
          control_symbols=[names[ids.mask]],
          max_sentence_length=2 * _MAX_SENTENCE_BYTES,
          num_threads=_TRAIN_THREADS,
          minloglevel=2)
    except RuntimeError as error:
      if refusals:
        raise refusals[0]
      raise errors.InputError(
          "the documents do not suffice to train a tokenizer of "
          f"data.vocab_size {vocab_size}: {str(error).splitlines()[-1]}"
      ) from error
  return Tokenizer(proto_lib.with_rounded_scores(
      proto_lib.without_rule_file(model.getvalue()), _SCORE_PARTS))


def _sentences(documents, refusals):
  """Yields the lines of the documents, cut to the trainer's limit.

  Args:
    refusals: list that takes an InputError, which the trainer hides in one of
      its own.
  """
  try:
    for document in documents:
      for line in document.splitlines():
        # At most 4 bytes a character.
        for start in range(0, len(line), _MAX_SENTENCE_BYTES // 4):
          piece = line[start:start + _MAX_SENTENCE_BYTES // 4].strip()
          if piece:
            yield piece
  except errors.InputError as error:
    refusals.append(error)
    raise
