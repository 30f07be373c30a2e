"""What an export holds where it is asked for: code, files of other libraries.

  code      modeling_latemask.py, which is copied as it lies beside this file,
            and `auto_map` in config.json: so the stock pipeline guesses words
            with late masks (trust_remote_code=True)
  sentence  what sentence-transformers reads: the mean over the tokens
"""

import json
import pathlib

from latemask import errors
from latemask.hub import weights as hf_weights

CODE = "modeling_latemask.py"
# All that functions here may give.
FILES = (CODE, "modules.json", "sentence_bert_config.json",
         "1_Pooling/config.json")


def code(config, cut_config, rest, tokenizer, stock):
  """Returns {name: text} of the code; adds to config.json what it reads.

  Args:
    config, cut_config: `ModelConfig` of the model, and of its encoder.
    rest: names of what latemask.safetensors holds.
    tokenizer: the model's.
    stock: the content of config.json; changed in place.

  Raises:
    InputError: the folder has not what the code needs.
  """
  if not any(path.startswith("head/") for path in rest):
    raise errors.InputError(
        "--with_code needs a model with its head; this one predicts no words")
  if cut_config.layers != config.insertion_layer:
    raise errors.InputError(
        f"--with_code needs an encoder of the layers before the masks; leave "
        f"out --keep_layers {cut_config.layers}, or give "
        f"{config.insertion_layer or config.layers}")
  name = hf_weights.CLASSES[config.architecture][1]
  stock["auto_map"] = {
      "AutoModelForMaskedLM":
          f"{CODE.removesuffix('.py')}.{name}ForMaskedLM"}
  stock["tie_word_embeddings"] = config.tied_output
  stock["latemask"] = {
      "late_layers": config.layers - config.insertion_layer,
      "late_are_local": list(config.local_layers[config.insertion_layer:]),
      "decoder": config.decoder, "decoder_queries": config.decoder_queries,
      "mask_token_id": tokenizer.specials.mask,
      "num_words": tokenizer.vocab_size}
  return {CODE: pathlib.Path(__file__).with_name(CODE).read_text("utf-8")}


def sentence(config, max_length):
  """Returns {name: text} of the files of sentence-transformers.

  Args:
    config: the `ModelConfig`.
    max_length: tokens that texts are cut to.
  """
  module = "sentence_transformers.models."
  content = {
      "modules.json": [
          {"idx": 0, "name": "0", "path": "", "type": module + "Transformer"},
          {"idx": 1, "name": "1", "path": "1_Pooling",
           "type": module + "Pooling"}],
      "sentence_bert_config.json": {
          "max_seq_length": max_length, "do_lower_case": False},
      "1_Pooling/config.json": {
          "word_embedding_dimension": config.width,
          "pooling_mode_mean_tokens": True}}
  return {name: json.dumps(value, indent=1) for name, value in content.items()}
