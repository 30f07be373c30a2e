"""A folder that holds what an adapter has changed, and merging it.

adapter_model.safetensors has the tensors under the names of the stock class;
those of LoRA, with adapter_config.json, are named as in peft, which loads the
folder, and whose folders are read. latemask_adapter.json says which encoder
they belong to: the SHA-256 of its parameters. Merging gives a whole encoder
and head, to be exported as any other.
"""

import dataclasses
import hashlib
import json
import re

from etils import epath
import flax.traverse_util
import jax
import ml_collections
import numpy as np
import safetensors.numpy

from latemask.config import domains
from latemask.config import keys
from latemask import errors
from latemask.finetune.adapters import lora
from latemask.finetune.adapters import table
from latemask.finetune.tasks import task as task_lib
from latemask.hub import convert
from latemask.hub import stock_config
from latemask.hub import tensors as hub_tensors
from latemask.hub import weights as hf_weights
from latemask.runtime import files

ABOUT, _PEFT = "latemask_adapter.json", "adapter_config.json"
_TENSORS = "adapter_model.safetensors"
FILES = (ABOUT, _PEFT, _TENSORS)
# Beginnings of peft that leave the encoder as it is.
_BESIDE = (True, False, None, "gaussian", "eva", "orthogonal")
_PREFIX = "base_model.model."
# peft's names of the halves of a pair, and ours.
_HALVES = {"lora_A": lora.A, "lora_B": lora.B}
# What latemask_adapter.json says besides `adapter` and `task`.
_SAID = {
    "encoder": domains.TEXT, "init_from": domains.optional(domains.TEXT),
    "keep_layers": keys.OWN["keep_layers"].domain,
    "head": domains.choice(*hf_weights.HEADS),
    "labels": domains.each(domains.TEXT),
    "trained_length": domains.optional(domains.whole(1, keys.MOST_TOKENS))}
_TASK_TYPES = {"text": "SEQ_CLS", "tokens": "TOKEN_CLS", "span": "QUESTION_ANS"}


@dataclasses.dataclass(frozen=True)
class Stored:
  """What a folder holds.

  Fields:
    settings: `config.adapter`.
    params: {"encoder": the adapter's, "head": the head's}.
    about: the rest of latemask_adapter.json, see `store`, and the digest of
      the encoder; of a folder of peft what is known of them.
  """

  settings: ml_collections.ConfigDict
  params: dict
  about: dict


def digest(encoder):
  """Returns the SHA-256 of an encoder's parameters, 64 hex digits."""
  found = hashlib.sha256()
  for path, leaf in sorted(flax.traverse_util.flatten_dict(
      encoder, sep="/").items()):
    found.update(path.encode())
    found.update(np.ascontiguousarray(leaf, np.float32))
  return found.hexdigest()


def store(folder, settings, config, encoder, params, about):
  """Writes a folder, whole or not at all.

  Args:
    settings: `config.adapter`.
    config: `ModelConfig` of the encoder.
    encoder: the one that stood still.
    params: {"encoder": the adapter's parameters, "head": the head's}.
    about: {"init_from", "keep_layers", "head", "labels", "task",
      "trained_length"}, as JSON.
  """
  prefix = hf_weights.CLASSES[config.architecture][2]
  head = _head_rows(config, about["head"])
  tensors = {_PREFIX + name: tensor for name, tensor in convert.to_stock(
      head, _flat(params["head"]), config).items()}
  if settings.name == "lora":
    tensors |= {f"{_PREFIX}{prefix}{name}": tensor for name, tensor
                in _pairs(settings, config, params["encoder"]).items()}
  else:
    tensors |= convert.to_stock(
        _changed_rows(config, params["encoder"]), _flat(params["encoder"]),
        config, _PREFIX + prefix)
  said = {"adapter": settings.to_dict(), "encoder": digest(encoder), **about}
  folder = epath.Path(folder)
  files.check_replaceable(folder, ABOUT, FILES)
  with files.replacing(folder, ABOUT) as part:
    (part / ABOUT).write_text(json.dumps(said, indent=1), "utf-8")
    if settings.name == "lora":
      (part / _PEFT).write_text(json.dumps(
          _peft_config(settings, config, about, head), indent=1), "utf-8")
    (part / _TENSORS).write_bytes(safetensors.numpy.save(
        {name: np.ascontiguousarray(tensor, np.float32)
         for name, tensor in tensors.items()}, metadata={"format": "pt"}))


def is_folder(path):
  """Whether a folder holds an adapter, ours or one of peft."""
  path = epath.Path(path)
  return (path / ABOUT).is_file() or (path / _PEFT).is_file()


def load(folder, config, encoder):
  """Reads a folder.

  Args:
    config, encoder: those that it is to be merged with.

  Returns:
    A `Stored`.

  Raises:
    InputError: it is no adapter, or that of another encoder.
  """
  folder = epath.Path(folder)
  about = about_of(folder)
  if about["encoder"] not in (None, digest(encoder)):
    raise errors.InputError(
        f"{folder} belongs to another encoder (SHA-256 "
        f"{about['encoder'][:12]}..., this one {digest(encoder)[:12]}...); it "
        f"was trained on {about['init_from']}")
  settings = ml_collections.ConfigDict(about.pop("adapter"))
  tensors = {name.removeprefix(_PREFIX): tensor for name, tensor
             in hub_tensors.read(folder / _TENSORS).items()}
  head = convert.class_head_from_stock(config, tensors, folder, about["head"])
  outputs, named = len(head.get("out_bias", ())), len(about["labels"])
  if outputs and named not in (0, outputs):
    raise errors.InputError(
        f"{folder}/{ABOUT}: labels has {named} names, and the head has "
        f"{outputs} outputs")
  if settings.name == "lora":
    _check_all_is_read(config, about["head"], tensors, folder)
    params = _read_pairs(settings, config, tensors, encoder, folder)
  else:
    params = _read_changed(settings, config, tensors, encoder, folder)
  return Stored(settings, {
      "encoder": flax.traverse_util.unflatten_dict(params, sep="/"),
      "head": flax.traverse_util.unflatten_dict(head, sep="/")}, about)


def whole_head(stored, config, beneath, folder):
  """Returns the head's parameters, each as the adapter or the encoder has it.

  peft keeps of a head what it has trained: of BERT's not the pooler.

  Args:
    stored: of `load`.
    beneath: the head's parameters that lie with the encoder, perhaps none.
    folder: the adapter's, for messages.

  Raises:
    InputError: neither has a part of it.
  """
  found = _flat(beneath) | _flat(stored.params["head"])
  for path, row in _head_rows(config, stored.about["head"]).items():
    if path not in found:
      raise errors.InputError(
          f"{folder} has no {row.names[0]}, and the encoder has none either: "
          "there is no whole head to merge")
  return flax.traverse_util.unflatten_dict(found, sep="/")


def _check_all_is_read(config, head, tensors, folder):
  """Refuses a folder of peft that has changed more than matrices and head."""
  prefix = hf_weights.CLASSES[config.architecture][2]
  known = {name.removeprefix(prefix) for row
           in _head_rows(config, head).values() for name in row.names}
  for name in tensors:
    if ".lora_" not in name and name.removeprefix(prefix) not in known:
      raise errors.InputError(
          f"{folder}: nothing here reads the weight {name}")


def merge(stored, config, encoder):
  """Returns the whole encoder that an adapter makes of one."""
  return jax.tree.map(np.asarray, table.ADAPTERS[stored.settings.name].whole(
      stored.settings, config, encoder, stored.params["encoder"], None))


def about_of(folder):
  """Returns what a folder says of itself, a dict.

  Raises:
    InputError: it holds no adapter, or one of peft that is no plain LoRA.
  """
  if (folder / ABOUT).is_file():
    said = stock_config.read_json(folder / ABOUT)
    _check_said(said, folder / ABOUT)
    return said
  if not (folder / _PEFT).is_file():
    raise errors.InputError(
        f"{folder} holds no adapter ({ABOUT} or {_PEFT})")
  peft = stock_config.read_json(folder / _PEFT)
  for key, value in {"peft_type": "LORA", "bias": "none", "use_rslora": False,
                     "use_dora": False, "alora_invocation_tokens": None,
                     "rank_pattern": {}, "alpha_pattern": {}}.items():
    if peft.get(key, value) != value:
      raise errors.InputError(
          f"{folder}/{_PEFT} has {key} {peft[key]!r:.40}; only {value!r} can "
          "be read")
  if (begun := peft.get("init_lora_weights", True)) not in _BESIDE:
    raise errors.InputError(
        f"{folder}/{_PEFT} has init_lora_weights {begun!r:.40}: the encoder "
        "that it belongs to is another than it was begun with; let peft merge "
        "it")
  head = next((head for head, name in _TASK_TYPES.items()
               if name == peft.get("task_type")), "text")
  for field, key in (("r", "rank"), ("lora_alpha", "alpha")):
    domains.check(keys.OWN[f"adapter.{key}"].domain, field, peft.get(field),
                  folder / _PEFT)
  return {"adapter": {
      "name": "lora", "rank": peft["r"], "alpha": float(peft["lora_alpha"]),
      "dropout": 0.0, "matrices": tuple(lora.MATRICES)},
          "encoder": None, "init_from": peft.get("base_model_name_or_path"),
          "keep_layers": None, "head": head, "labels": (), "task": None,
          "trained_length": None}


def _check_said(said, where):
  """Checks the fields of latemask_adapter.json."""
  for field, domain in _SAID.items():
    domains.check(domain, field, said.get(field), where)
  settings = said.get("adapter")
  if not isinstance(settings, dict):
    raise errors.InputError(
        f"{where}: adapter is {settings!r:.60}; it must be an object")
  for key, row in keys.OWN.items():
    group, _, name = key.partition(".")
    if group == "adapter":
      domains.check(row.domain, key, settings.get(name), where)
  task_lib.check_about(said.get("task"), where)


def _flat(tree):
  return {path: np.asarray(leaf, np.float32) for path, leaf
          in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def _head_rows(config, head):
  return hf_weights.HEADS[head][1][config.architecture]


def _changed_rows(config, params):
  """Returns the rows of the table for the arrays that an adapter changes."""
  rows = hf_weights.encoder(config.architecture, 0)
  return {path: rows[path] for path in _flat(params)}


def _read_changed(settings, config, tensors, encoder, folder):
  params = _flat(table.ADAPTERS[settings.name].begin(
      settings, config, encoder, jax.random.key(0)))
  read = convert.Reader(config.architecture, tensors, folder)
  return {path: row.from_stock(read, params[path].shape, config) for path, row
          in _changed_rows(config, flax.traverse_util.unflatten_dict(
              params, sep="/")).items()}


def _names(config, row, layer):
  """Yields the number and the name of each stock matrix of a layer."""
  at = row.at.format(layer)
  for number, name in enumerate(row.one.names):
    yield number, at + name.removesuffix(".weight")


def _pairs(settings, config, params):
  """Returns {stock name: tensor} of the pairs; stock writes [out, in]."""
  flat, found = _flat(params), {}
  for path, row in lora.targets(config, settings.matrices).items():
    for half, ours in _HALVES.items():
      array = flat[f"{path}/{ours}"]
      for layer in range(len(array)):
        for number, name in _names(config, row, layer):
          found[f"{name}.{half}.weight"] = array[layer, number].T
  return found


def _read_pairs(settings, config, tensors, encoder, folder):
  """Returns {path: array}; matrices without a pair have one of zeros."""
  shapes = _flat(lora.begin(settings, config, encoder, jax.random.key(0)))
  read = convert.Reader(config.architecture, tensors, folder)
  found, num_read = {}, 0
  for path, row in lora.targets(config, settings.matrices).items():
    for half, ours in _HALVES.items():
      array = np.zeros_like(shapes[f"{path}/{ours}"])
      for layer in range(len(array)):
        for number, name in _names(config, row, layer):
          name = f"{name}.{half}.weight"
          if read.has(name):
            array[layer, number] = read(name, array.shape[:1:-1]).T
            num_read += 1
      found[f"{path}/{ours}"] = array
  unread = [name for name in tensors if ".lora_" in name]
  if num_read != len(unread):
    raise errors.InputError(
        f"{folder}: {len(unread) - num_read} of {len(unread)} tensors of LoRA "
        f"are of no matrix of {config.architecture}'s layers")
  return found


def _peft_config(settings, config, about, head):
  """Returns what adapter_config.json says."""
  # Behind the number of its layer: BERT has three that end in `dense`.
  ends = [name.removesuffix(".weight")
          for row in lora.targets(config, settings.matrices).values()
          for name in row.one.names]
  return {
      "peft_type": "LORA", "task_type": _TASK_TYPES[about["head"]],
      "base_model_name_or_path": about["init_from"], "r": settings.rank,
      "lora_alpha": settings.alpha, "lora_dropout": settings.dropout,
      "target_modules": rf".*\.\d+\.({'|'.join(map(re.escape, ends))})",
      "modules_to_save": sorted({_saved_module(name) for row in head.values()
                                 for name in row.names}),
      "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
      "use_rslora": False, "use_dora": False}


def _saved_module(name):
  """Returns peft's name of the module that a head's tensor is in."""
  parts = name.split(".")
  return parts[1] if "pooler" in parts else parts[0]
