"""The weights of a Hugging Face folder: one safetensors file, or several.

Pickles are not opened: what is in them runs as code. A folder that holds
nothing else is refused with the command that converts it.
"""

import shlex

import safetensors

from latemask import errors
from latemask.hub import convert
from latemask.hub import stock_config
from latemask.hub import weights as hf_weights

# How the name of a stock class ends -> that of the Auto class that has it all.
_AUTO = {"ForPreTraining": "ForMaskedLM", **{ending: ending for ending in (
    "ForMaskedLM", *(ending for ending, _ in hf_weights.HEADS.values()))}}
_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def read_folder(folder, stock):
  """Returns {name: tensor} of a folder.

  Args:
    folder: an epath.Path.
    stock: what its config.json holds.

  Raises:
    InputError: no weights, pickles alone, or a file that is missing or
      damaged.
  """
  if (folder / _WHOLE).is_file():
    return read(folder / _WHOLE)
  if (folder / _INDEX).is_file():
    return _read_shards(folder)
  for name in _PICKLES:
    if (folder / name).is_file():
      raise errors.InputError(
          f"{folder} holds its weights as {name}, a pickle, which may run "
          "code and is not read here; convert it: "
          + _conversion(folder, stock))
  raise errors.InputError(f"{folder} holds no {_WHOLE} and no {_INDEX}")


def read(path):
  """Returns {name: tensor} of a safetensors file.

  Raises:
    InputError: it is missing or damaged, or holds what NumPy has no dtype for.
  """
  tensors = {}
  try:
    with safetensors.safe_open(str(path), "np") as file:
      for name in file.keys():
        try:
          tensors[name] = file.get_tensor(name)
        except AttributeError as error:  # A dtype that NumPy does not have.
          raise convert.no_float(
              name, file.get_slice(name).get_dtype(), path) from error
  except (OSError, safetensors.SafetensorError) as error:
    raise errors.InputError(f"{path} cannot be read: {error}") from error
  return tensors


def _read_shards(folder):
  path = folder / _INDEX
  file_of = stock_config.read_json(path).get("weight_map")
  if not isinstance(file_of, dict) or not file_of:
    raise errors.InputError(f"{path} has no weight_map of weights to files")
  tensors = {}
  for file in sorted(set(map(str, file_of.values()))):
    if "/" in file or not file.endswith(".safetensors"):
      raise errors.InputError(
          f"{path} names {file!r:.60}, which is no safetensors file beside it")
    tensors |= read(folder / file)
  if missing := sorted(set(file_of) - set(tensors)):
    raise errors.InputError(
        f"{path} names the weight {missing[0]}, and "
        f"{file_of[missing[0]]} does not hold it")
  return tensors


def _conversion(folder, stock):
  """Returns the command that writes safetensors beside the pickles."""
  # Another class would leave the head out, or write a random one.
  classes = stock.get("architectures")
  name = str(classes[0]) if isinstance(classes, list) and classes else ""
  auto = next((auto for ending, auto in _AUTO.items()
               if name.endswith(ending)), "")
  code = (f"import transformers; transformers.AutoModel{auto}.from_pretrained("
          f"{str(folder)!r}).save_pretrained({str(folder)!r}, "
          "safe_serialization=True)")
  return f"python -c {shlex.quote(code)}"
