"""Hugging Face folders: what is trained here as stock classes, and back.

A folder holds config.json, model.safetensors, tokenizer.json (see
tokenizer.py) and tokenizer_config.json, which stock transformers 5 loads
with no code of ours, and tokenizer.model, latemask.json, latemask.safetensors
besides: all that a stock class has no place for (mask vector, late layers
that were dropped, head, padding), so that the way back is bit-equal. Its
README.md is a model card (card.py); extras.py has what is asked for.

A stock class meets <mask> at its first layer. So the head of the language
model is exported for insertion_layer 0 only, with an input row of its own for
<mask>; everything else is exported as the encoder that fine-tuning reads, and
guesses words with the file of `with_code` alone. An export that would not be
the same function is refused.
"""

import dataclasses
import json
import os
import re

from etils import epath
import flax.traverse_util
import numpy as np
import safetensors.numpy

from latemask.checkpoint import record
from latemask.config import domains
from latemask.config import keys
from latemask.data.tokenizers import kinds as tokenizers_lib
from latemask import errors
from latemask.hub import card
from latemask.hub import convert
from latemask.hub import extras
from latemask.hub import stock_config
from latemask.hub import tensors as hub_tensors
from latemask.hub import tokenizer as hub_tokenizer
from latemask.hub import weights as hf_weights
from latemask.model import architecture as architecture_lib
from latemask.model import cut
from latemask.runtime import claims
from latemask.runtime import files as files_lib

# What an export writes.
_FILES = ("README.md", "config.json", "latemask.json", "latemask.safetensors",
          "model.safetensors", *hub_tokenizer.FILES)
# What an export need not know of a run.
_UNKNOWN = {"masking": None, "steps": None, "rows": None}
_DIGEST = domains.Domain("64 hex digits", lambda value: isinstance(
    value, str) and re.fullmatch("[0-9a-f]{64}", value))


def export(config, params, tokenizer, folder, keep_layers=None,
           class_head=None, labels=(), overwrite=False, masking=None,
           trained_length=None, max_length=None, with_code=False,
           sentence=False, steps=None, rows=None, head="text", task=None):
  """Writes a folder that stock transformers loads.

  Args:
    config, params: `ModelConfig` and all parameters of pre-training.
    tokenizer: a `tokenizer.Tokenizer`.
    folder: made whole or not at all.
    keep_layers: see `cut.cut`.
    class_head: parameters of a head for a task; params are then those of a
      cut encoder.
    labels: names of its classes; () for a regression, or no names.
    overwrite: replace an earlier export at `folder`, and nothing else.
    masking: `config.masking` of the run, to be kept with the model.
    trained_length: that of its `pretrained.Pretrained`; None: all positions.
    max_length: tokens that the stock tokenizer cuts texts to; None for those
      of `task`, or for what `hub_tokenizer.cuts_to` says. The model keeps all
      positions.
    with_code: add the file with which stock transformers runs the late layers
      and the head, too, where its own class cannot.
    sentence: add what sentence-transformers reads.
    steps, rows: those of its `pretrained.Pretrained`.
    head: a row of `heads.HEADS`, that of `class_head`.
    task: what `predict` has to know of a task, as JSON; None without one.

  Returns:
    The name of the stock class.

  Raises:
    InputError: no stock class or tokenizer is the same function, or the
      folder is taken.
  """
  check_out(folder, overwrite, tokenizer)
  trained_length = trained_length or config.max_length
  if task and task.get("max_length"):
    # Stock is fed what the model was fine-tuned on.
    max_length = max_length or min(task["max_length"], config.max_length)
  if max_length is not None and not 1 < max_length <= config.max_length:
    raise errors.InputError(
        f"max_length is {max_length}; it must lie in 2 to "
        f"{config.max_length}, the positions that the model has")
  params = {k: np.asarray(v, np.float32) for k, v in
            flax.traverse_util.flatten_dict(params, sep="/").items()}
  tree = flax.traverse_util.unflatten_dict(params, sep="/")
  cut_config, encoder = cut.cut(config, tree, keep_layers)
  encoder = {k: np.asarray(v) for k, v in
             flax.traverse_util.flatten_dict(encoder, sep="/").items()}
  has_mlm = (class_head is None and config.insertion_layer == 0
             and cut_config.layers == config.layers and "head" in tree)
  ending, class_heads = hf_weights.HEADS[head]
  kind = (ending if class_head is not None else
          "ForMaskedLM" if has_mlm else "Model")
  special = tokenizer.specials
  model_type, class_prefix, prefix = hf_weights.CLASSES[config.architecture]
  tensors = convert.encoder_to_stock(
      cut_config, encoder, prefix if kind != "Model" else "", special.pad)
  stock = stock_config.stock_config(cut_config, special) | {
      "architectures": [class_prefix + kind], "model_type": model_type}
  if has_mlm:
    stock["tie_word_embeddings"] = False
    tensors |= convert.mlm_to_stock(
        config, params, tokenizer.vocab_size, prefix, special.mask)
  if class_head is not None:
    class_head = {k: np.asarray(v, np.float32) for k, v in
                  flax.traverse_util.flatten_dict(class_head, sep="/").items()}
    tensors |= convert.to_stock(
        class_heads[config.architecture], class_head, config)
    stock |= stock_config.of_labels(labels or [
        f"LABEL_{i}" for i in range(len(class_head["out_bias"]))], task)
  rest = convert.what_stock_lacks(
      config, params, cut_config, tensors, special.pad, special.mask)
  about = {"format": record.FORMAT, "model": dataclasses.asdict(config),
           "encoder_layers": cut_config.layers, "masking": masking,
           "trained_length": trained_length, "steps": steps, "rows": rows,
           "task": task}
  extra = {}
  if with_code and not has_mlm:
    extra |= extras.code(config, cut_config, rest, tokenizer, stock)
    # The encoder's row of <mask> may be the same, and is not looked for there.
    rest["mask_vector"] = params["mask_vector"]
  if sentence:
    extra |= extras.sentence(config, max_length or trained_length)
  extra["README.md"] = card.card(
      about, stock, tokenizer,
      hub_tokenizer.cuts_to(tokenizer, config, trained_length, max_length),
      extra)
  about["card"] = card.digest(extra["README.md"])
  with claims.held(claims.beside(folder)) as claim:
    _check_free(folder, overwrite)  # Another may have written since.
    _write(folder, stock, tensors, about, rest, hub_tokenizer.files(
        tokenizer, config, trained_length, max_length), extra, claim)
  return class_prefix + kind


def check_out(folder, overwrite, tokenizer=None):
  """Checks that an export may be written to a folder.

  Args:
    tokenizer: its `tokenizer.Tokenizer`, where it is known.

  Raises:
    InputError: it is there, and is not to be overwritten; or holds anything
      that no export has written; or `tokenizer.check`.
    HeldError: another program is writing there.
  """
  if tokenizer:
    hub_tokenizer.check(tokenizer)
  files_lib.check_writable(folder)
  if holder := claims.living(claims.beside(folder)):
    raise claims.HeldError(f"{folder} is being written by {holder}")
  _check_free(folder, overwrite)


def _check_free(folder, overwrite):
  if not overwrite and (
      os.path.lexists(folder) or epath.Path(folder).exists()):
    raise errors.InputError(
        f"{folder} exists; give another folder, or --overwrite")
  folder = epath.Path(folder)
  files_lib.check_replaceable(folder, "latemask.json", [
      *_FILES, *(name.partition("/")[0] for name in extras.FILES)])
  for name in extras.FILES:
    inside, _, file = name.rpartition("/")
    if inside:
      files_lib.check_replaceable(folder / inside, file, [file])
  # An upload to gs:// that was cut off has a card, and nothing that knows it.
  if (folder / "README.md").is_file() and (folder / "latemask.json").is_file():
    written = stock_config.read_json(folder / "latemask.json").get("card")
    if card.digest((folder / "README.md").read_bytes().decode(
        errors="replace")) != written:
      raise errors.InputError(
          f"{folder}/README.md is not as it was written there; move it away, "
          "or name another folder")


def is_folder(path):
  """Whether `path` is a Hugging Face folder."""
  path = epath.Path(path) / "config.json"
  return path.is_file() and "model_type" in stock_config.read_json(path)


def encoder_layers(path):
  """Returns the layers that stock has of a folder of ours; None of others."""
  about = epath.Path(path) / "latemask.json"
  return stock_config.read_json(about)["encoder_layers"] if (
      about.is_file()) else None


def load(folder, add_mask=False):
  """Reads a folder.

  Args:
    add_mask: a tokenizer without a mask token gets one.

  Returns:
    (ModelConfig, parameters, Tokenizer, about), see `load_model`.

  Raises:
    InputError: see `load_model`; or no tokenizer, or one of more ids than the
      model has.
  """
  folder = epath.Path(folder)
  stock_config.config_of_folder(folder)  # What cannot be read at all.
  tokenizer = tokenizers_lib.load(folder, "", add_mask)
  config, params, about = load_model(folder, tokenizer.specials.mask)
  if not (folder / "latemask.json").is_file():
    _check_pad(folder, config, tokenizer)
  # A mask that it gets here may be one more.
  if tokenizer.vocab_size > max(
      config.vocab_size, tokenizer.specials.mask * add_mask + 1):
    raise errors.InputError(
        f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model "
        f"only {config.vocab_size} ids")
  return config, params, tokenizer, about


def _check_pad(folder, config, tokenizer):
  """Refuses an id that pads by config.json, and stands in texts.

  Stock classes whose positions begin behind the padding count none there.
  """
  pad = stock_config.pad_id(stock_config.read_json(
      folder / "config.json"), folder)
  specials = tokenizer.specials
  used = {specials.bos, specials.eos, specials.unk, specials.mask}
  if (hf_weights.first_position(config.architecture, pad)
      and pad != specials.pad and pad < tokenizer.vocab_size
      and (pad in used or pad not in tokenizer.special_N)):
    raise errors.InputError(
        f"{folder}: pad_token_id of config.json is {pad}, and {specials.pad} "
        f"of the tokenizer, whose id {pad} stands in texts; stock gives no "
        "position to it")


def load_model(folder, mask_id):
  """Reads all of a folder but its tokenizer.

  Args:
    mask_id: the tokenizer's <mask>; what stock has learned for it becomes the
      mask vector.

  Returns:
    (ModelConfig, parameters, {name: `masking`, `trained_length`, `steps` and
    `rows` of `export`, and `unread`, names of weights of other heads}). A
    folder that was exported here gives back what went in; another gives a
    model of insertion_layer 0, without a head where it has none, no masking,
    and all positions as trained.

  Raises:
    InputError: a class, option or weight that has no counterpart here, or a
      missing or unused weight.
  """
  folder = epath.Path(folder)
  stock = stock_config.read_json(folder / "config.json")
  exported = (folder / "latemask.json").is_file()
  if exported:
    about = _about(folder / "latemask.json")
    config = about["model"]
  else:
    config = stock_config.config_of_stock(stock, folder)
    about = _UNKNOWN | {"encoder_layers": config.layers,
                        "trained_length": config.max_length}
  cut_config = dataclasses.replace(
      config, layers=about["encoder_layers"], insertion_layer=0,
      decoder="self")
  params, unread = convert.from_stock(
      config, cut_config, hub_tensors.read_folder(folder, stock), folder,
      stock_config.pad_id(stock, folder), mask_id)
  if exported:
    path = folder / "latemask.safetensors"
    convert.add_rest(config, params, hub_tensors.read(path), path, mask_id)
  return (config, flax.traverse_util.unflatten_dict(params, sep="/"),
          {name: about[name] for name in (*_UNKNOWN, "trained_length")}
          | {"unread": tuple(unread)})


def load_class_head(folder, head="text"):
  """Reads what a folder has of a head for a task.

  Args:
    head: a row of `heads.HEADS`.

  Returns:
    Its parameters, those that there are; see `convert.class_head_from_stock`.

  Raises:
    InputError: see `load_model`; or it reads the mean of all states.
  """
  folder = epath.Path(folder)
  stock = stock_config.read_json(folder / "config.json")
  found = convert.class_head_from_stock(
      stock_config.config_of_folder(folder),
      hub_tensors.read_folder(folder, stock), folder, head)
  if (head == "text" and "out_kernel" in found
      and stock.get("classifier_pooling", "cls") != "cls"):
    raise errors.InputError(
        f"{folder}/config.json has classifier_pooling "
        f"{stock['classifier_pooling']}; heads here read the state of <s>, cls")
  return flax.traverse_util.unflatten_dict(found, sep="/")


def _about(path):
  """Returns what latemask.json says, its `model` as a ModelConfig."""
  about = stock_config.read_json(path)
  record.check_format(about, path)
  config = architecture_lib.config_of(about.get("model"), path)
  about = _UNKNOWN | {"trained_length": config.max_length} | about
  for field, domain in (
      ("encoder_layers", domains.whole(1, config.layers)),
      ("trained_length", domains.whole(1, keys.MOST_TOKENS)),
      ("steps", domains.optional(domains.whole(0))),
      ("rows", domains.optional(_DIGEST))):
    domains.check(domain, field, about.get(field), path)
  if about["masking"] is not None:
    keys.check_group("masking", about["masking"], path)
  return about | {"model": config}


def _write(folder, stock, tensors, about, rest, tokenizer_files, extra, claim):
  files = {"config.json": stock, "latemask.json": about}
  with files_lib.replacing(folder, "latemask.json") as part:
    for name, content in files.items():
      (part / name).write_text(
          json.dumps(content, indent=1, ensure_ascii=False), "utf-8")
    for name, content in tokenizer_files.items():
      (part / name).write_bytes(content)
    for name, text in extra.items():
      (part / name).parent.mkdir(exist_ok=True)
      (part / name).write_text(text, "utf-8")
    for name, arrays in (("model", tensors), ("latemask", rest)):
      # Not save_file: what it writes only its owner can read.
      (part / f"{name}.safetensors").write_bytes(safetensors.numpy.save(
          {k: np.ascontiguousarray(v) for k, v in arrays.items()},
          metadata={"format": "pt"}))
    claim.check()
