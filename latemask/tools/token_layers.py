"""Draws which token of a text enters the model at which layer.

  python -m latemask.tools.token_layers --workdir runs/demo \\
      --out token_layers.png "The value of the string is a list of words."

--workdir is a run, a checkpoint of it or an exported folder. The text is
masked by the run's own rule; of a model that keeps none, half of the tokens
are hidden. Columns are its tokens, rows the layers, counted from 0 as by
model.insertion_layer; what a layer computes has a colour, what it only reads is
pale. Above each hidden token stands the model's best guess (bold: right). The
share in the title is that of the states which a model without late masks would
compute.
--out ends in .png, .svg or .pdf. Exit code 2: a text of too many tokens to be
drawn, or too few to hide one.
"""

from etils import epath

from latemask.data.tokenizers import word_starts
from latemask import errors
from latemask.hub import pretrained
from latemask.predict import fill_mask as fill_mask_lib
from latemask.predict import texts as texts_lib
from latemask.report import look as look_lib
from latemask.report import token_layers as token_layers_lib
from latemask.runtime import console
from latemask.runtime import files

_SUFFIXES = (".png", ".svg", ".pdf")


def _parser():
  parser = console.parser("tools.token_layers", __doc__)
  parser.add_argument("--workdir", required=True,
                      help="run, checkpoint or exported folder")
  parser.add_argument("--out", required=True, help="picture to write; one that "
                      "is there is replaced")
  parser.add_argument("--seed", type=console.seed, default=0,
                      help="of the mask (0)")
  parser.add_argument("text")
  return parser


def _run(args):
  out = epath.Path(args.out)
  if out.suffix not in _SUFFIXES:
    raise errors.InputError(
        f"--out is {out}; it must end in {', '.join(_SUFFIXES)}")
  if out.is_dir():
    raise errors.InputError(f"--out {out} is a folder")
  files.check_writable(out.parent)
  loaded = pretrained.load(args.workdir)
  texts_lib.check(args.text)
  filler = fill_mask_lib.Filler(loaded)
  ids_L, masked = token_layers_lib.mask(
      loaded.masking, loaded.tokenizer, args.text, args.seed)
  if len(ids_L) > loaded.trained_length:
    raise errors.InputError(
        f"a text of {len(ids_L)} tokens; the model was trained on rows of at "
        f"most {loaded.trained_length}, and what it guesses says little beyond")
  names = [loaded.tokenizer.pieces[i].replace(
      word_starts.SPACE, " ").strip() or fill_mask_lib.SPACE for i in ids_L]
  with look_lib.style():
    fig = token_layers_lib.draw(loaded.config, masked, names,
                                token_layers_lib.guesses(filler, ids_L, masked))
    files.make(out.parent)
    with files.writing(out) as part:
      fig.savefig(part, format=out.suffix[1:], dpi=200)
  print(f"the picture lies in {out}; {loaded.config.where_masks_join}")


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    _run(args)


if __name__ == "__main__":
  main()
