"""Writes a Hugging Face folder of a run, for stock transformers.

  python -m latemask.tools.export --init_from runs/base --out exported/base

--init_from is a run, a checkpoint of it, or such a folder. The folder holds
the encoder that fine-tuning reads, without the late layers (--keep_layers N
keeps more); with masks at the input (insertion_layer 0) the language model
with its head. It also holds what stock transformers ignores, so that it can
be read back here in full (fill_mask, fine-tuning), and a model card, README.md.
--with_code adds one file of PyTorch, with which transformers runs the late
layers and the head, too (trust_remote_code=True). --sentence adds what
sentence-transformers reads: vectors of texts, the mean over their tokens.
"""

import os

from latemask import errors
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.hub import tokenizer as hub_tokenizer
from latemask.runtime import console


def _parser():
  parser = console.parser("tools.export", __doc__)
  parser.add_argument("--init_from", required=True,
                      help="run, checkpoint or Hugging Face folder")
  console.add_out(parser)
  parser.add_argument("--keep_layers", type=int,
                      help="layers of the encoder; default: those that never "
                      "met a mask")
  parser.add_argument("--max_length", type=int,
                      help="tokens that the stock tokenizer cuts texts to; "
                      "default: those of the rows of training, or what a "
                      "published tokenizer's own settings say")
  parser.add_argument("--average", action="store_true",
                      help="of a run with train.average_share: the average of "
                      "its parameters, not the last ones")
  parser.add_argument("--with_code", action="store_true",
                      help="add the code that guesses words in transformers")
  parser.add_argument("--sentence", action="store_true",
                      help="add the files of sentence-transformers")
  return parser


def _check_unread(args, loaded):
  """Says which weights of a folder are not exported.

  Raises:
    InputError: they would be lost: the export is to take the folder's place.
  """
  if not loaded.unread:
    return
  names = ", ".join(loaded.unread)
  if os.path.realpath(args.out) == os.path.realpath(args.init_from):
    raise errors.InputError(
        f"{args.out} would lose weights that are not read ({names:.80}); name "
        "another --out")
  print(f"left out, as an export has no head of a task: {names}")


def _tell(args, loaded, name):
  """Prints what was written, and how it is used."""
  print(f"{args.out}: {name}")
  length = hub_tokenizer.cuts_to(
      loaded.tokenizer, loaded.config, loaded.trained_length,
      args.max_length)
  if length is None:
    print("its tokenizer cuts no texts, as it came; --max_length "
          f"{loaded.trained_length} cuts them to what was trained on")
  elif length > loaded.trained_length:
    print("warning: its tokenizer lets through " + pretrained.beyond(
        loaded.params, loaded.trained_length, length))
  elif length < loaded.config.max_length:
    print(f"its tokenizer cuts texts to {length} tokens, of "
          f"{loaded.config.max_length} positions (--max_length)")
  kind = "ForMaskedLM" if name.endswith("ForMaskedLM") else ""
  print(f"load it in Python: transformers.AutoModel{kind}.from_pretrained("
        f"{args.out!r})")
  if args.with_code:
    print("no code was needed: the stock class has the head" if kind else
          "it guesses words there, too: transformers.AutoModelForMaskedLM."
          f"from_pretrained({args.out!r}, trust_remote_code=True)")
  if "head" in loaded.params:
    print("try it here: " + console.command(
        "tools.fill_mask", "--workdir", args.out,
        f"It can {loaded.tokenizer.mask_token} used."))



def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    hub_folder.check_out(args.out, args.overwrite)
    loaded = pretrained.load(args.init_from, average=args.average)
    _check_unread(args, loaded)
    name = hub_folder.export(
        loaded.config, loaded.params, loaded.tokenizer, args.out,
        args.keep_layers, overwrite=args.overwrite, masking=loaded.masking,
        max_length=args.max_length, trained_length=loaded.trained_length,
        with_code=args.with_code, sentence=args.sentence, steps=loaded.steps,
        rows=loaded.rows)
    _tell(args, loaded, name)


if __name__ == "__main__":
  main()
