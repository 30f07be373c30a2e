"""Pre-training: build -> restore -> (eval, save, next, step)*.

What a run promises, in order of precedence:
  1. Nothing on disk changes before the whole config has been checked.
  2. A workdir belongs to one config: another one is refused, by key. And to
     one running program: a second one is refused (runtime/claims.py).
  3. A run goes on from the newest checkpoint of its workdir, else from
     step 0. Rows and masks follow from (seed, step): nothing is replayed.
  4. The loop (loop.py) saves no state from which no finite loss comes. A
     rollback goes to the newest checkpoint; what fails again from there goes
     one further back, which sets that checkpoint aside as STEP.failed, and
     further back than the first one is the state before the first step.
  5. SIGTERM and SIGINT save at the next step boundary (an evaluation is given
     up) and end the run with 128 + the signal; a second one ends it at once,
     and so does one that comes before the first step. Several processes stop
     at the same step, the next but one at the latest.
"""

import dataclasses

from etils import epath
import jax

from latemask.checkpoint import checkpoints as checkpoints_lib
from latemask.data import loader as loader_lib
from latemask.data import packed_set
from latemask.data import mixture
from latemask.data import prepare as prepare_lib
from latemask import errors
from latemask.hub import pretrained
from latemask.model import attention_kinds
from latemask.model import flops
from latemask.runtime import console
from latemask.runtime import distributed
from latemask.runtime import signals as signals_lib
from latemask.runtime import workdir as workdir_lib
from latemask.train import check as check_lib
from latemask.train import evaluate
from latemask.train import init_from
from latemask.train import init_state
from latemask.train import lengthen
from latemask.train import loop
from latemask.train import mask_vector
from latemask.train import metrics
from latemask.train import step as step_lib

# A run warns of more at its start.
_MANY_EPOCHS = 40


def train(config, workdir):
  """Pre-trains, from the newest checkpoint on if there is one.

  Returns:
    (final TrainState, scalars of the last evaluation).

  Raises:
    InputError: the config or what it names cannot be used.
    NonFiniteError: the loss or gradient became NaN or infinite.
    SaveError: neither checkpoints nor metrics can be written any more.
    HeldError: another program has the workdir, or has taken it over.
    signals.Stopped: a signal asked for the end.
  """
  workdir = epath.Path(workdir)
  config = workdir_lib.keep_meaning(config, workdir)
  config, is_longer = lengthen.lengthened(config, workdir)
  but = lengthen.KEYS if is_longer else ()
  _, beginning = check_lib.check(config, workdir, but)
  with workdir_lib.owned(workdir) as claim:
    # Another may have begun it since.
    workdir_lib.compare_config(config, workdir, but)
    if is_longer:
      distributed.say(f"{workdir} is made longer: {config.train.num_steps:,} "
                      "steps; its warm-up stays "
                      f"{config.optimizer.warmup_steps:,}")
    return _train(config, workdir, beginning, claim, is_longer)


def _train(config, workdir, beginning, claim, is_longer):
  """Trains in a workdir that this program has to itself."""
  of_rows, given = check_lib.of_rows(config, workdir, beginning)
  packed = _prepare(of_rows, workdir, given)
  tokenizer = packed.tokenizer
  program = step_lib.build(
      config, tokenizer.vocabulary(config.masking.word_starts))
  loader = loader_lib.Loader(packed, config)
  evaluator = evaluate.Evaluator(program, loader)
  workdir_lib.write_config(config, workdir, anew=is_longer)
  checkpoints = checkpoints_lib.Checkpoints(workdir, config, packed, claim)

  def begin():
    return _begin(program, tokenizer, checkpoints, beginning)

  progress = begin()
  introduce(program, loader, progress)
  writer = metrics.Writer(
      workdir, _last_step(checkpoints), progress.num_rollbacks)
  rolled_back_to = set()
  try:
    with signals_lib.heard() as signals:
      while True:
        try:
          ended = loop.run(program, loader, evaluator, checkpoints, writer,
                           signals, progress, workdir)
          distributed.say(f"saved in {workdir}; try: " + console.command(
              "tools.fill_mask", "--workdir", workdir,
              f"It can {tokenizer.mask_token} used."))
          return ended
        except loop.NonFiniteError as error:
          # Its frames hold the state's memory, which the next one needs.
          cause = error.with_traceback(None)
        if (config.train.on_nonfinite == "stop"
            or progress.num_rollbacks >= config.train.max_rollbacks):
          raise cause
        distributed.say(f"{cause}: rolling back")
        # What failed again from here has its cause before: further back.
        if checkpoints.latest_step in rolled_back_to:
          checkpoints.set_newest_aside("failed")
        progress = _roll_back(config, cause.step, progress, begin(), writer,
                              _last_step(checkpoints))
        rolled_back_to.add(checkpoints.latest_step)
  finally:
    writer.close()
    checkpoints.close()


def _last_step(checkpoints):
  """Returns the newest checkpoint's step; -1 where a run begins anew."""
  step = checkpoints.latest_step
  return -1 if step is None else step


def _begin(program, tokenizer, checkpoints, beginning):
  """Returns the newest checkpoint's `Progress`, or that of step 0."""
  progress = checkpoints.restore(program.state_shapes)
  if progress is None:
    state = program.init_state()
    if program.config.train.init_from:
      # A run that went on from a checkpoint, and is rolled back to its very
      # beginning, has not read it so far.
      beginning = beginning or pretrained.load(
          program.config.train.init_from,
          program.config.data.add_mask_token)
      params = mask_vector.begun(
          program.config.train.mask_vector, init_from.begin(
              beginning, program.model.config, tokenizer, state.params,
              program.config.train.init_late),
          tokenizer.specials.mask, "mask_vector" in beginning.params)
      state = state.replace(params=jax.device_put(
          params, program.state_shardings.params))
    if program.config.train.init_state == "all":
      state = init_state.begin(beginning, program, state)
    progress = checkpoints_lib.Progress(
        state, trained_length=beginning and pretrained.trained_length(
            beginning, program.config))
  return progress


def _roll_back(config, failed_step, lost, good, writer, last_step):
  """Returns the `Progress` after which the rows up to a failure are skipped.

  Args:
    failed_step: updates after which the loss was not finite.
    lost, good: the `Progress` that the loop began with, and the one restored.
    last_step: what stays on record.
  """
  step = int(good.state.step)
  first = step + good.skipped_steps
  stop = failed_step + lost.skipped_steps
  batch_size = config.train.batch_size
  progress = dataclasses.replace(
      good, skipped_steps=stop - step, num_rollbacks=lost.num_rollbacks + 1)
  writer.cut(last_step)
  writer.write(step, {
      "rollback": progress.num_rollbacks, "skipped_first_row":
      first * batch_size, "skipped_rows": (stop - first) * batch_size})
  distributed.say(
      f"rollback {progress.num_rollbacks} of {config.train.max_rollbacks}: "
      f"on from step {step:,}, without the rows {first * batch_size:,} to "
      f"{stop * batch_size - 1:,} of the training order")
  return progress


def introduce(program, loader, progress):
  """Prints the model, the rows and where the run stands, before the loop."""
  start = int(progress.state.step)
  c, config = program.model.config, program.config
  count = sum(x.size for x in jax.tree.leaves(program.state_shapes.params))
  devices = jax.devices()
  distributed.say(
      f"{c.architecture}: {c.where_masks_join} ({c.decoder} decoder); "
      f"{count:,} parameters; "
      f"{len(devices)} x {devices[0].device_kind} in {jax.process_count()} "
      f"process(es), mesh {dict(program.mesh.shape)}")
  num_steps, batch_size = config.train.num_steps, config.train.batch_size
  num_rows = num_steps * batch_size
  epochs = max(num_rows * source.share / source.num_train_rows
               for source in loader.order.sources)
  length = config.data.length
  for phase in program.phases:
    plan, selected = phase.plan, phase.plan.selected_N[-1]
    distributed.say(
        f"rows of {length}: {selected} of {length} "
        f"{'selected' if plan.num_corrupted else 'hidden'}, "
        f"{selected / length / loader.maskable_share:.1%} of what can be; "
        f"{plan.num_kept} kept, {plan.num_targets} predicted"
        + f"; {phase.num_steps:,} steps from step {phase.first_step:,}" * (
            len(program.phases) > 1))
    for size, padded, share in attention_kinds.wasted(
        c, flops.global_attentions(c, plan), devices[0].platform):
      distributed.say(
          "attention pads {} x {} tokens to {} x {}: ".format(*size, *padded)
          + f"{share:.2g} of the scores are computed for nothing")
  distributed.say(
      f"{loader.num_train_rows:,} rows to train on, {loader.num_eval_rows:,} "
      f"held out; {num_steps:,} steps of {batch_size:,} rows = {epochs:.1f} "
      "epochs" + " of the source that is read most often" * (
          len(loader.order.sources) > 1))
  for source in loader.order.sources:
    if source.name:
      distributed.say(
          f"  {source.name}: {source.share:.4g} of the rows; "
          f"{source.num_train_rows:,} to train on = "
          f"{num_rows * source.share / source.num_train_rows:.1f} epochs, "
          f"{source.num_eval_rows:,} held out")
  for line in _warnings(config, loader, epochs):
    distributed.say(line)
  distributed.say(f"going on from the checkpoint at step {start:,}" if start
                  else "beginning at step 0")
  if start >= num_steps:
    distributed.say("this run is already finished: nothing is trained, and it "
                    "is evaluated once more")
  if progress.skipped_steps:
    distributed.say(f"{progress.skipped_steps:,} batches are skipped, after "
                    f"{progress.num_rollbacks} rollbacks")
  distributed.say(
      "compiling: the first evaluation and the first step take long")


def _warnings(config, loader, epochs):
  """Yields what to know of the rows before anything is made of them."""
  if loader.packed.split is None:
    yield (f"{loader.packed.directory} was packed before documents were held "
           "out: its held-out rows are read as then, and border on rows of "
           "their own documents in training; pack it anew, as another "
           "data.dir, to measure on documents that are not trained on")
  if config.data.packing == "documents" and config.data.fit != "next":
    for packed in loader.packed.sets:
      if packed_set.is_older_than_fit(packed.directory):
        yield (f"{packed.directory} was packed before data.fit: its documents "
               "are cut wherever a row ends")
  num_rows = min(loader.num_eval_rows, config.eval.max_rows)
  if num_rows < evaluate.FEW_ROWS:
    yield (f"only {num_rows} held-out rows: what is measured on them is noise "
           "for the most part; a larger data.eval_fraction, or data.eval_"
           "source (with another data.dir), or eval.max_rows gives more")
  if epochs > _MANY_EPOCHS:
    yield (f"{epochs:,.1f} epochs: more than {_MANY_EPOCHS} times over the "
           "same rows teach little; fewer train.num_steps or more text")


def _prepare(config, workdir, tokenizer):
  """Packs on process 0 while the others wait.

  Args:
    tokenizer: the one that the rows must have; None leaves it to the config.
  """
  directory = packed_set.directory_of(config, workdir)
  refusal = None
  if jax.process_index() == 0:
    try:
      packed = prepare_lib.prepare(config, directory, tokenizer=tokenizer)
    except errors.InputError as error:
      refusal = error
  # Packing may take longer than a collective waits.
  distributed.meet("rows")
  # A barrier that also tells the others whether there is anything to wait for.
  if not distributed.everywhere(refusal is None):
    raise refusal or errors.InputError("process 0 could not pack the rows")
  if jax.process_index() > 0:
    packed = mixture.load(config, directory, tokenizer)
    if packed is None:
      raise errors.InputError(
          f"process {jax.process_index()} sees no packed rows in {directory}; "
          "data.dir must lie where all hosts see it")
  return packed
