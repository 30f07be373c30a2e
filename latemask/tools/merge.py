"""Merges an adapter with the encoder that it was trained on.

  python -m latemask.tools.merge --adapter runs/mine/export/classes \\
      --out exported/mine

--adapter is a folder that fine-tuning exported with adapter.name head, bitfit
or lora, or a folder of LoRA that peft has saved. --out becomes a whole model,
which stock transformers loads and tools/predict reads; the two folders stay
as they are. The encoder is looked for where it was (--init_from says where it
lies now), and must be the one that the adapter belongs to.
"""

from etils import epath

from latemask import errors
from latemask.finetune.adapters import folder as adapters
from latemask.hub import folder as hub_folder
from latemask.hub import pretrained
from latemask.model import cut
from latemask.runtime import console


def _parser():
  parser = console.parser("tools.merge", __doc__)
  parser.add_argument("--adapter", required=True, help="folder of the adapter")
  console.add_out(parser)
  parser.add_argument("--init_from", help="run, checkpoint or Hugging Face "
                      "folder of the encoder; default: where it was")
  return parser


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    about = adapters.about_of(epath.Path(args.adapter))
    init_from = args.init_from or about["init_from"]
    if not init_from:
      raise errors.InputError(
          f"{args.adapter} does not say what it was trained on; name it with "
          "--init_from")
    loaded = pretrained.load(init_from)
    hub_folder.check_out(args.out, args.overwrite, loaded.tokenizer)
    # Ours say which encoder they belong to; peft's belong to stock's.
    config, encoder = cut.cut(
        loaded.config, loaded.params, about["keep_layers"] if about["encoder"]
        else hub_folder.encoder_layers(init_from))
    stored = adapters.load(args.adapter, config, encoder)
    head = adapters.whole_head(
        stored, config, pretrained.class_head(init_from, about["head"]),
        args.adapter)
    name = hub_folder.export(
        config, adapters.merge(stored, config, encoder), loaded.tokenizer,
        args.out, class_head=head,
        labels=tuple(about["labels"]), head=about["head"], task=about["task"],
        trained_length=about["trained_length"] or loaded.trained_length,
        overwrite=args.overwrite)
    print(f"{args.out}: {name}")


if __name__ == "__main__":
  main()
