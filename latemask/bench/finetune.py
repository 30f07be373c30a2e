"""Fine-tunes by latemask and by stock Hugging Face PyTorch, in turn.

  python -m latemask.bench.finetune --init_from runs/demo \\
      --data_dir glue --task rte --task mrpc --seeds 5

Both get the same weights (head included), rows, batches, padding, learning
rates and epochs; what differs is the framework and its random dropout. Prints
a JSON line a task, learning rate and framework: median, mean and standard
deviation of the dev score over the seeds; rows trained on per second (without
compiling: where there are several epochs, the first one does not count); and
two comparisons with the other framework: its speed, and the difference of the
means in (pooled) standard deviations. --only ours or peer runs one of them, to
see its memory.

  python -m latemask.bench.finetune --init_from FOLDER --data_dir glue \\
      --task mrpc --learning_rate 2e-5 --losses 50

trains both for 50 steps without dropout, in float32, with seed 0, and prints
the loss of each step and the largest difference. Stock's first token type
stands still for it, and its second does not decay: what they are here is a part
of the positions, and a vector (hub/layouts.py). Trained, the first one would
move all positions at once.
"""

import itertools
import json
import math
import statistics
import sys
import tempfile
import time

import jax
import numpy as np
import tqdm

from latemask.config import spec
from latemask import errors
from latemask.finetune.adapters import folder as adapters_folder
from latemask.finetune import batches
from latemask.finetune import cell as cell_lib
from latemask.finetune import data as data_lib
from latemask.finetune import grid as grid_lib
from latemask.finetune import run as finetune_run
from latemask.finetune import step as finetune_step
from latemask.finetune.tasks import glue
from latemask.finetune.tasks import kinds
from latemask.hub import folder as hub_folder
from latemask.hub import weights as hf_weights
from latemask.runtime import console


# Stock's table of token types.
_TYPES = "token_type_embeddings.weight"


def _hold_first_row(grad):
  """Returns the gradient of a table with that of its first row gone."""
  grad = grad.clone()
  grad[0] = 0
  return grad


# Kind of a task -> the loss of the stock class: (torch's functions, logits,
# targets, is_pad_BxS) -> mean; of spans without padding, see losses.py.
_LOSSES = {
    "classes": lambda F, logits, targets, is_pad: F.cross_entropy(
        logits, targets.long()),
    "multilabel": lambda F, logits, targets, is_pad:
        F.binary_cross_entropy_with_logits(logits, targets),
    "number": lambda F, logits, targets, is_pad: F.mse_loss(
        logits[:, 0], targets.float()),
    "tokens": lambda F, logits, targets, is_pad: F.cross_entropy(
        logits.flatten(0, 1), targets.flatten().long(),
        ignore_index=kinds.NO_TARGET),
    "span": lambda F, logits, targets, is_pad: sum(
        F.cross_entropy(logits[..., i].masked_fill(is_pad, -float("inf")),
                        targets[:, i].long()) for i in range(2)) / 2,
}


def _libraries(config):
  """Returns what stock is made of: torch, transformers and perhaps peft."""
  return console.installed(
      "stock PyTorch (--only ours runs without)", "torch", "transformers",
      *["peft"] * (config.adapter.name == "lora"))


class Peer:
  """The stock class of a task, trained by PyTorch."""

  def __init__(self, config, program, tokenizer):
    """Takes the sizes and weights of a `step.Program`; a GPU where one is."""
    self._torch, transformers, *self._peft = _libraries(config)
    self._config = config
    self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
    self._program, self._tokenizer = program, tokenizer
    self._head = kinds.KINDS[program.kind].head
    self._stock = getattr(
        transformers, "AutoModel" + hf_weights.HEADS[self._head][0])

  def begin(self, cell, types_as_here=False):
    """Takes the weights that a cell begins with.

    Args:
      types_as_here: train of the token types only what ours trains.
    """
    torch, o = self._torch, self._config.optimizer
    torch.manual_seed(cell.seed)
    params = jax.device_get(self._program.init_state(
        np.uint32(cell.seed)).params)
    whole = jax.device_get(self._program.whole(params))
    with tempfile.TemporaryDirectory() as folder:
      hub_folder.export(self._program.model, whole["encoder"], self._tokenizer,
                        f"{folder}/model", class_head=whole["head"],
                        head=self._head)
      self._model = self._stock.from_pretrained(f"{folder}/model")
      if self._config.adapter.name == "lora":
        adapters_folder.store(
            f"{folder}/adapter", self._config.adapter, self._program.model,
            self._program.params["encoder"], params, {
                "init_from": f"{folder}/model", "head": self._head})
        peft, = self._peft
        self._model = peft.PeftModel.from_pretrained(
            self._model, f"{folder}/adapter", is_trainable=True)
    self._model.to(self._device)
    self._hold_still()
    groups = {True: [], False: []}
    for name, parameter in self._model.named_parameters():
      if not parameter.requires_grad:
        continue
      is_held = types_as_here and name.endswith(_TYPES)
      if is_held:
        parameter.register_hook(_hold_first_row)
      groups[parameter.ndim > 1 and not is_held].append(parameter)
    self._optimizer = torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": o.weight_decay},
         {"params": groups[False], "weight_decay": 0.0}],
        betas=(o.b1, o.b2), eps=o.eps, fused=True)

  def _hold_still(self):
    """Stops what an adapter does not train; peft has done so for LoRA."""
    trains = {"head": lambda name: False,
              "bitfit": lambda name: name.endswith(".bias")}.get(
                  self._config.adapter.name)
    if trains:
      base = self._model.base_model  # The encoder; in BERT with its pooler.
      for name, parameter in base.named_parameters():
        parameter.requires_grad = "pooler" in name or trains(name)

  def step(self, data, rows, rate):
    """Trains on rows; returns their mean loss, a tensor."""
    self._model.train()
    batch, targets, _ = batches.collate(
        data.train, rows, len(rows), data.lengths)
    loss = _LOSSES[data.task.kind](
        self._torch.nn.functional, self._logits(*batch),
        self._torch.tensor(targets, device=self._device),
        self._torch.tensor(batch[0] == data.train.pad, device=self._device))
    loss.backward()
    for group in self._optimizer.param_groups:
      group["lr"] = float(rate)
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return loss.detach()

  def train(self, data, cell):
    """Returns a result as `cell.train` does."""
    self.begin(cell)
    rates = iter(cell_lib.learning_rates(self._config, data, cell))
    epochs = []
    for epoch in range(data.num_epochs):
      start_secs = time.monotonic()
      shuffled = batches.shuffled(
          data.train.lengths_W, cell.batch_size, cell.seed, epoch)
      for rows in tqdm.tqdm(shuffled, f"PyTorch {cell}, epoch {epoch + 1}",
                            leave=False, disable=None):
        self.step(data, rows, next(rates))
      train_secs = time.monotonic() - start_secs
      found = {}
      for part, encoded in data.dev.items():
        found |= kinds.score(
            data.task, part, encoded.rows.labels, kinds.answers(
                data.task, encoded, self._predict(encoded, data.lengths)))
      epochs.append({"score": statistics.mean(found.values()),
                     "train_secs": train_secs})
    return {"score": float(np.max([e["score"] for e in epochs])),
            "epochs": epochs}

  def _logits(self, ids_BxS, second_BxS):
    ids, types = (
        self._torch.tensor(x, dtype=self._torch.long, device=self._device)
        for x in (ids_BxS, second_BxS))
    pad = self._tokenizer.specials.pad
    has_types = getattr(self._model.config, "type_vocab_size", 1) > 1
    found = self._model(input_ids=ids, attention_mask=ids != pad, **(
        {"token_type_ids": types} if has_types else {}))
    return (found.logits if "logits" in found else self._torch.stack(
        [found.start_logits, found.end_logits], -1))

  def _predict(self, encoded, lengths):
    self._model.eval()
    logits = [None] * len(encoded)
    with self._torch.no_grad():
      for rows in batches.in_order(
          np.arange(len(encoded)), encoded.lengths_W, 64):
        found = self._logits(*batches.pad(
            encoded, rows, len(rows), lengths)).cpu().numpy()
        for row, one in zip(rows, found):
          logits[row] = one[:None if self._head == "text"
                            else encoded.lengths_W[row]]
    return np.stack(logits) if self._head == "text" else logits


def first_losses(config, program, tokenizer, data, cell, num_steps):
  """Trains both on the same batches, in turn.

  Returns:
    (loss of each step here, in PyTorch), two float arrays [num_steps].

  Raises:
    InputError: the training has not so many steps.
  """
  rates = cell_lib.learning_rates(config, data, cell)
  if not 1 <= num_steps <= len(rates):
    raise errors.InputError(
        f"--losses is {num_steps}; the training of {data.name} has "
        f"{len(rates)} steps")
  rows_of_step = itertools.chain.from_iterable(
      batches.shuffled(data.train.lengths_W, cell.batch_size, cell.seed, epoch)
      for epoch in range(data.num_epochs))
  peer, seed = Peer(config, program, tokenizer), np.uint32(cell.seed)
  peer.begin(cell, types_as_here=True)
  state = program.init_state(seed)
  ours, theirs = [], []
  for rows, rate in zip(rows_of_step, rates[:num_steps]):
    state, loss = program.train_step(state, batches.collate(
        data.train, rows, cell.batch_size, data.lengths), rate, seed)
    ours.append(float(loss))
    theirs.append(float(peer.step(data, rows, rate)))
  return np.array(ours), np.array(theirs)


def _compare_losses(config, program, tokenizer, data, cell, num_steps):
  """Prints the losses of both."""
  ours, theirs = first_losses(
      config, program, tokenizer, data, cell, num_steps)
  differences = np.abs(ours - theirs)
  print(json.dumps({
      "task": data.name, "learning_rate": cell.learning_rate,
      "latemask": ours.round(6).tolist(), "hf": theirs.round(6).tolist(),
      "largest_difference": float(differences.max()),
      "at_step": int(differences.argmax())}), flush=True)


def _report(task, rate, name, results, num_rows):
  scores = [result["score"] for result in results]
  secs = [epoch["train_secs"] for result in results
          for epoch in result["epochs"][len(result["epochs"]) > 1:]]
  return {"task": task, "learning_rate": rate, "name": name,
          "seeds": len(scores), "median": statistics.median(scores),
          "mean": statistics.mean(scores), "std": grid_lib.deviation(scores),
          "rows_per_sec": num_rows / statistics.median(secs)}


def _configs(args):
  """Yields the config of each task."""
  specs = [f"configs/glue.py,task={task}" for task in args.task or ()]
  for text in [*specs, *(args.config or ())]:
    found = spec.load(text, is_finetuning=True)
    found.unlock()
    if args.data_dir:
      found.data_dir = args.data_dir
    found.init_from, found.from_scratch = args.init_from, args.from_scratch
    found.dropout = 0.0 if args.losses is not None else args.dropout
    found.max_length = args.max_length
    found.grid.learning_rates = tuple(args.learning_rate or [5e-5])
    found.grid.batch_sizes = (args.batch_size,)
    found.grid.seeds = tuple(range(args.seeds))
    found.grid.num_epochs = args.num_epochs
    yield found


def _run(args):
  for config in _configs(args):
    rates = config.grid.learning_rates
    finetune_run.check(config)
    for key, value, usual in (
        ("task.class_weights", getattr(config.task, "class_weights", "none"),
         "none"),
        ("optimizer.clip_norm", config.optimizer.clip_norm, None)):
      if value != usual:
        raise errors.InputError(
            f"{key} is {value!r}; the peer knows {usual!r} alone")
    model, params, tokenizer, trained_length = finetune_run.load(config)
    if args.only != "ours":
      _libraries(config)  # Before anything is trained.
    data, = data_lib.read(config, params, tokenizer, trained_length)
    program = finetune_step.make_program(
        config, model, jax.device_put(params), tokenizer.specials,
        *data.program)
    if args.losses is not None:
      for rate in rates:
        _compare_losses(config, program, tokenizer, data, grid_lib.Cell(
            args.batch_size, rate, 0), args.losses)
      continue
    contenders = {}
    if args.only != "peer":
      contenders["latemask"] = lambda cell: cell_lib.train(
          config, program, data, cell)[0]
    if args.only != "ours":
      contenders["hf"] = lambda cell: Peer(
          config, program, tokenizer).train(data, cell)
    for rate in rates:
      _compare(data.name, contenders, rate, args, len(data.train))


def _compare(task, contenders, rate, args, num_rows):
  """Trains all seeds by each contender in turn; prints their lines."""
  results = {name: [] for name in contenders}
  for seed in range(args.seeds):
    cell = grid_lib.Cell(args.batch_size, rate, seed)
    for name, train in contenders.items():
      result = train(cell)
      if result["score"] is None or not np.isfinite(result["score"]):
        raise errors.InputError(
            f"{task} {name} {cell}: the logits are not finite; a lower "
            "--learning_rate may help")
      results[name].append(result)
      print(f"{task} {name} {cell}: {results[name][-1]['score']:.4f}",
            file=sys.stderr, flush=True)
  lines = [_report(task, rate, name, found, num_rows)
           for name, found in results.items()]
  last = lines[-1]
  for line in lines:
    line["speed_to_last"] = line["rows_per_sec"] / last["rows_per_sec"]
    pooled = ((line["std"]**2 + last["std"]**2) / 2) ** 0.5
    line["stds_to_last"] = (
        (line["mean"] - last["mean"]) / pooled if pooled else math.nan)
    print(json.dumps({k: _rounded(v) if k != "learning_rate" else v
                      for k, v in line.items()}), flush=True)


def _rounded(value):
  """Returns a number as it is printed; None where it is not known."""
  if not isinstance(value, float):
    return value
  return round(value, 4) if math.isfinite(value) else None


def _parser():
  parser = console.parser("bench.finetune", __doc__)
  parser.add_argument("--init_from", required=True,
                      help="run, checkpoint or Hugging Face folder")
  parser.add_argument("--data_dir", help="official TSV files; default: TFDS")
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument("--task", action="append", choices=tuple(glue.TASKS),
                     help="of GLUE; may be given several times")
  which.add_argument("--config", action="append", metavar="SPEC",
                     help="own files: configs/finetune.py,data.train=...")
  parser.add_argument("--from_scratch", action="store_true",
                      help="fresh weights of the same sizes")
  parser.add_argument("--seeds", type=console.count, default=5,
                      help="runs of each, with seeds from 0 (%(default)s)")
  parser.add_argument("--learning_rate", type=console.positive, action="append",
                      help="may be given several times (5e-5)")
  parser.add_argument("--batch_size", type=console.count, default=32,
                      help="rows of a step (%(default)s)")
  parser.add_argument("--num_epochs", type=console.count,
                      help="default: 3, and 10 for the small tasks of GLUE")
  parser.add_argument("--dropout", type=float, default=0.1,
                      help="of both (%(default)s)")
  parser.add_argument("--max_length", type=int, help="longest row in tokens")
  either = parser.add_mutually_exclusive_group()
  either.add_argument("--only", choices=("ours", "peer"))
  either.add_argument("--losses", type=console.count,
                      help="compare the losses of so many steps, no scores")
  return parser


def main():
  """Runs the command."""
  args = _parser().parse_args()
  with errors.one_line_exit():
    _run(args)


if __name__ == "__main__":
  main()
