"""Fine-tuning on GLUE: build -> (each cell: train, dev each epoch) -> table.

A cell is a learning rate, a batch size and a seed. What a workdir promises:
  1. Nothing on disk changes before config, weights and data have been checked.
  2. It belongs to one config; task and grid may grow, other keys may not. And
     to one running program (runtime/claims.py), with all its processes.
  3. A cell's result is written whole or not at all. A cell that has a result is
     not trained again. A result of other weights, initial values or rows is
     refused. A cell that failed (its logits are not finite) has a result, too,
     and is never chosen.
  4. Learning rate and batch size are chosen by the median over seeds of the
     best epoch's dev score (the mean of the task's metrics).
No model is kept but with `export`: then the best cell of each task is trained
once more, up to its best epoch. A cell is trained on one device. Several
processes deal the cells out among themselves, and write into one workdir. One
program serves all tasks of as many outputs, compiled for each batch size and
length: learning rate and seed are arguments. Source of the protocol: RoBERTa
(arXiv 1907.11692, section 5.1).
"""

import dataclasses
import itertools

from etils import epath
import jax

from latemask.config import keys
from latemask import errors
from latemask.finetune.adapters import table as adapters
from latemask.finetune import best
from latemask.finetune import cell as cell_lib
from latemask.finetune import data as data_lib
from latemask.finetune import grid as grid_lib
from latemask.finetune import step as finetune_step
from latemask.finetune.tasks import kinds
from latemask.finetune.tasks import own
from latemask.hub import pretrained
from latemask.model import cut
from latemask.runtime import distributed
from latemask.runtime import files
from latemask.runtime import workdir as workdir_lib


def finetune(config, workdir):
  """Trains every cell that has no result yet.

  Returns:
    {task: [result of each cell on disk]}.

  Raises:
    InputError: the config or what it names cannot be used; processes see
      other results, or none, of what was trained.
    HeldError: another program has the workdir, or has taken it over.
    FailedError: all cells of a task have failed; the table is written.
  """
  workdir = epath.Path(workdir)
  check(config)
  files.check_writable(workdir)
  workdir_lib.compare_config(config, workdir)
  with workdir_lib.owned(workdir) as claim:
    # Another may have begun it since.
    workdir_lib.compare_config(config, workdir)
    return _finetune(config, workdir, claim)


def _finetune(config, workdir, claim):
  """Fine-tunes in a workdir that this program has to itself."""
  model, params, tokenizer, trained_length = load(config)
  datas = data_lib.read(config, params, tokenizer, trained_length)
  best.check(config, workdir, datas, tokenizer)
  for data in datas:
    grid_lib.check_digests(workdir, data)
  cells = sorted(itertools.starmap(grid_lib.Cell, itertools.product(
      config.grid.batch_sizes, config.grid.learning_rates,
      config.grid.seeds)))
  todo = [(data, cell) for data in datas for cell in cells
          if not grid_lib.cell_path(workdir, data.name, cell).exists()]
  names = [data.name for data, _ in todo]
  if not distributed.is_same(
      f"{[(d.name, d.digest, d.labels_digest, c) for d, c in todo]}"):
    raise errors.InputError(
        "the processes do not all see the same weights, rows and results; "
        f"{workdir} and what the config names must lie where all hosts see "
        "them")
  about = [_about_head(params["head"]),
           *_about_adapter(config, model, params["encoder"]),
           *(data.about for data in datas)]
  workdir_lib.write_config(config, workdir)
  distributed.say(
      f"{model.architecture}: {model.layers} "
      f"layer{'s' * (model.layers > 1)} of width {model.width}; "
      f"{len(cells)} cell{'s' * (len(cells) > 1)} a task, to train: "
      + ", ".join(f"{data.name} {names.count(data.name)}" for data in datas)
      + f", in {jax.process_count()} processes" * (jax.process_count() > 1))
  for line in about:
    distributed.say(line)
  distributed.say("compiling: the first epochs take longer" if todo else
                  "already finished: every cell has its result")
  mine = distributed.share(todo)
  params = jax.device_put(params)
  programs = {key: finetune_step.make_program(
      config, model, params, tokenizer.specials, *key)
              for key in {data.program for data in datas}}
  with cell_lib.Clock(sum(
      data.num_epochs * len(data.train) for data, _ in mine)) as clock:
    for data, cell in mine:
      # Its parameters would stay in memory beside those of the next.
      result = cell_lib.train(
          config, programs[data.program], data, cell, clock)[0]
      claim.check()
      files.write_json(grid_lib.cell_path(workdir, data.name, cell), result)
  distributed.meet("cells")
  missing = [path for path in (grid_lib.cell_path(workdir, data.name, cell)
                               for data, cell in todo) if not path.exists()]
  if missing:
    raise errors.InputError(
        f"process {jax.process_index()} sees no {missing[0]}, which another "
        "has written; --workdir must lie where all hosts see it")
  if config.predict_test or config.export:
    for data in distributed.share(datas):
      best.use(config, programs[data.program], data, tokenizer,
               trained_length, workdir, claim)
    distributed.meet("best")
  results = grid_lib.scores_of(workdir)
  table = grid_lib.tabulate(results)
  if jax.process_index() == 0:
    claim.check()
    with files.writing(workdir / "results.md") as unfinished:
      unfinished.write_text(table, "utf-8")
  distributed.say(f"\n{table}\nsaved in {workdir / 'results.md'}")
  grid_lib.check(results)
  distributed.say(best.about(config, workdir))
  return results


def _about_adapter(config, model, encoder):
  """Returns a line on how much of an encoder is trained; none if all is.

  Raises:
    InputError: the adapter is none for this encoder.
  """
  if adapters.stores_all(config):
    return []
  trained = jax.eval_shape(
      lambda key: adapters.ADAPTERS[config.adapter.name].begin(
          config.adapter, model, encoder, key), jax.random.key(0))
  num, of = map(adapters.num_params, (trained, encoder))
  return [f"{config.adapter.name}: {num:,} numbers are trained besides the "
          f"head; the encoder's {of:,} stand still ({num / of:.2%})"]


def _about_head(head):
  """Returns in words what a head begins with."""
  if not head:
    return "the class head begins fresh"
  return ("the class head begins with the folder's " + ", ".join(sorted(head))
          + (f" (out: for tasks of {len(head['out_bias'])} outputs)"
             if "out_bias" in head else ""))


def check(config):
  """Checks the config alone.

  Raises:
    InputError: the first thing found that cannot be.
  """
  keys.check(config)
  adapters.check(config)
  if config.init_from is None:
    raise errors.InputError(
        "init_from is missing; give the workdir of a pre-training run, or a "
        "Hugging Face folder")
  if own.is_meant(config):
    own.check(config)


def load(config):
  """Returns what `init_from` names.

  Returns:
    (ModelConfig, {"encoder": its parameters, "head": what there is of a class
    head}, tokenizer, trained_length, see `pretrained.Pretrained`).

  Raises:
    InputError: it is no model, or has not so many layers or positions.
  """
  loaded = pretrained.load(config.init_from)
  model, encoder = cut.cut(
      loaded.config, loaded.params, config.keep_layers)
  if (config.max_length or 0) > model.max_length:
    raise errors.InputError(
        f"max_length is {config.max_length}; {config.init_from} has "
        f"{model.max_length} positions")
  model = dataclasses.replace(
      model, dropout=config.dropout, attention_dropout=config.dropout,
      dtype=config.dtype, remat="elementwise")
  head = {} if config.from_scratch else pretrained.class_head(
      config.init_from, kinds.KINDS[config.task.kind].head
      if own.is_meant(config) else "text")
  return (model, {"encoder": encoder, "head": head}, loaded.tokenizer,
          loaded.trained_length)
