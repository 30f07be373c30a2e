"""The best cell of a task: its answers to the test rows, its model.

No weights of a cell are kept, so it is trained once more.
"""

import hashlib
import json
import typing

from latemask.finetune.adapters import folder as adapters_folder
from latemask.finetune.adapters import table as adapters
from latemask.finetune import cell as cell_lib
from latemask.finetune import data as data_lib
from latemask.finetune import grid as grid_lib
from latemask.finetune.tasks import glue
from latemask.finetune.tasks import kinds
from latemask.finetune.tasks import own
from latemask.hub import folder as hub_folder
from latemask.runtime import console
from latemask.runtime import distributed
from latemask.runtime import files


def check(config, workdir, datas, tokenizer):
  """Checks that the models may be written, before anything is trained.

  Raises:
    InputError, HeldError: see `hub_folder.check_out`.
  """
  for data in datas if config.export else ():
    _EXPORTS[adapters.stores_all(config)].check(
        workdir / "export" / data.name, tokenizer)


def about(config, workdir):
  """Returns what to say of the models: where they are, or how to have them."""
  folder = workdir / "export"
  if not config.export:
    return ("scores were kept, and no model: the same command with "
            "--config.export=true trains the best cell of each task once more, "
            f"and writes its model to {folder}/TASK")
  if not adapters.stores_all(config):
    return (f"what was trained of the best model of each task is in {folder}"
            "/TASK; " + console.command("tools.merge", "--adapter", (
                f"{folder}/TASK"), "--out", "DIR") + " makes a whole one")
  return (f"the best model of each task is in {folder}/TASK; its README.md "
          "says how transformers loads it")


# Whether own files are meant -> what writes the answers.
_WRITERS = {True: lambda data, part, *answers: own.write(data.task, *answers),
            False: lambda data, *answers: glue.write_submission(
                data.name, *answers)}


def _export_model(config, program, data, params, tokenizer, trained_length,
                  folder):
  """Writes a whole model, which stock transformers loads."""
  hub_folder.export(
      program.model, params["encoder"], tokenizer, folder,
      class_head=kinds.unscaled(data.task, params["head"]),
      labels=data.task.labels, head=kinds.KINDS[data.task.kind].head,
      task=data_lib.about(data),
      trained_length=max(trained_length, config.max_length or 0),
      overwrite=True)


def _export_adapter(config, program, data, params, tokenizer, trained_length,
                    folder):
  """Writes what was trained, which tools/merge reads."""
  del tokenizer
  adapters_folder.store(
      folder, config.adapter, program.model, program.params["encoder"],
      params | {"head": kinds.unscaled(data.task, params["head"])}, {
          "init_from": config.init_from, "keep_layers": config.keep_layers,
          "head": kinds.KINDS[data.task.kind].head,
          "labels": data.task.labels, "task": data_lib.about(data),
          "trained_length": max(trained_length, config.max_length or 0)})


class _Export(typing.NamedTuple):
  """What is done with the best model: checked at the start, written at last."""

  check: typing.Callable
  write: typing.Callable


# Whether an adapter's parameters are a whole encoder -> how it is exported.
_EXPORTS = {
    True: _Export(lambda folder, tokenizer: hub_folder.check_out(
        folder, True, tokenizer), _export_model),
    False: _Export(lambda folder, tokenizer: files.check_replaceable(
        folder, adapters_folder.ABOUT, adapters_folder.FILES),
                   _export_adapter)}


def use(config, program, data, tokenizer, trained_length, workdir, claim):
  """Trains the best cell anew up to its best epoch; predicts and exports.

  Cheaper than keeping the weights of every cell.
  """
  chosen = grid_lib.choose(grid_lib.scores_of(workdir)[data.name])
  if not chosen:
    return
  best = max(chosen, key=lambda result: result["score"])
  tests = hashlib.sha256()
  for encoded in data.test.values():
    for ids in encoded.ids:
      tests.update(ids)
  wanted = {**best, "predict_test": config.predict_test,
            "export": config.export, "tests": tests.hexdigest()}
  record = workdir / "best" / f"{data.name}.json"
  folder = workdir / "export" / data.name
  if (record.exists() and json.loads(record.read_text()) == wanted
      and (folder.exists() or not config.export)):
    return
  cell = grid_lib.Cell(best["batch_size"], best["learning_rate"], best["seed"])
  distributed.say(f"{data.name}: training {cell}, the best, anew")
  again, params = cell_lib.train(
      config, program, data, cell, stop_after=best["best_epoch"])
  claim.check()
  for part, encoded in data.test.items() if config.predict_test else ():
    logits = program.predict(params, encoded, data.eval_lengths)
    if not kinds.is_finite(logits):
      raise grid_lib.FailedError(
          f"{data.name}: logits of {cell}, the best, are not finite on the "
          "test set")
    path = _WRITERS[own.is_meant(config)](
        data, part, kinds.answers(data.task, encoded, logits),
        workdir / "test")
    distributed.say(f"wrote {path}: {cell}, dev score {again['score']:.4f} "
                    f"(in the grid {best['score']:.4f})")
  if config.export:
    _EXPORTS[adapters.stores_all(config)].write(
        config, program, data, params, tokenizer, trained_length, folder)
    distributed.say(f"wrote {folder}: {cell}")
  files.write_json(record, wanted)
