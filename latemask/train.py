"""Pre-training: build -> restore -> (eval, save, next, step)*.

What a run promises, in order of precedence:
  1. Nothing on disk changes before the whole config has been checked.
  2. A workdir belongs to one config: another one is refused, by key.
  3. A run goes on from the newest checkpoint of its workdir, else from
     step 0. Rows and masks follow from (seed, step): nothing is replayed.
  4. The loop's order is eval, save, next, step. Metrics of a step are read
     after the next one is on its way, but before a save: a state whose loss
     is not finite is never saved.
  5. SIGTERM and SIGINT save at the next step boundary (an evaluation is given
     up) and end the run with 128 + the signal; a second one ends it at once.
     Several processes agree on that every 10 steps.
"""

import contextlib
import dataclasses
import re
import signal

from etils import epath
import jax
import numpy as np

from latemask import checkpoint
from latemask import distributed
from latemask import errors
from latemask import evaluate
from latemask import flops
from latemask import masking
from latemask import metrics
from latemask import pretrained
from latemask import signals as signals_lib
from latemask import step as step_lib
from latemask import workdir as workdir_lib
from latemask.data import loader as loader_lib
from latemask.data import local
from latemask.data import packing
from latemask.data import tokenizer as tokenizer_lib

# What may change between two stretches of one run: where and on what it runs,
# and what it tells. Everything else changes the result.
FREE_KEYS = re.compile(
    r"(mesh|metrics|checkpoint)\.|train\.(on_nonfinite|max_rollbacks)$"
    r"|data\.(workers|dir|cache_dir|tfds_dir|max_bad_documents)$")

_ON_NONFINITE = dict.fromkeys(("stop", "rollback"))


class NonFiniteError(errors.Ending):
  """The loss or the gradient is no longer a number after `step` updates."""

  code = 3

  def __init__(self, step, message):
    super().__init__(message)
    self.step = step


def train(config, workdir):
  """Pre-trains, from the newest checkpoint on if there is one.

  Returns:
    (final TrainState, scalars of the last evaluation).

  Raises:
    InputError: the config or what it names cannot be used.
    NonFiniteError: the loss or gradient became NaN or infinite.
    SaveError: neither checkpoints nor metrics can be written any more.
    signals.Stopped: a signal asked for the end.
  """
  workdir = epath.Path(workdir)
  _, beginning = check(config, workdir)
  packed = _prepare(config, workdir)
  tokenizer = packed.tokenizer
  program = step_lib.build(config, tokenizer.vocab_size,
                           tokenizer.word_start_V)
  loader = loader_lib.Loader(packed, config)
  evaluator = evaluate.Evaluator(program, loader)
  workdir_lib.write_config(config, workdir)
  checkpoints = checkpoint.Checkpoints(workdir, config, packed)

  def begin():
    return _begin(program, tokenizer, checkpoints, beginning)

  progress = begin()
  _introduce(program, loader, progress)
  writer = metrics.Writer(workdir, int(progress.state.step))
  try:
    with signals_lib.Signals() as signals:
      while True:
        try:
          with contextlib.closing(_Profiler(config, workdir)) as profiler:
            return _loop(program, loader, evaluator, checkpoints, writer,
                         signals, profiler, progress)
        except NonFiniteError as error:
          # Its frames hold the state's memory, which the next one needs.
          cause = error.with_traceback(None)
        if (config.train.on_nonfinite == "stop"
            or progress.num_rollbacks >= config.train.max_rollbacks):
          raise cause
        metrics.say(f"{cause}: rolling back")
        progress = _roll_back(config, cause.step, progress, begin(), writer)
  finally:
    writer.close()
    checkpoints.close()


def _begin(program, tokenizer, checkpoints, beginning):
  """Returns the newest checkpoint's `Progress`, or that of step 0."""
  progress = checkpoints.restore(program.state_shapes)
  if progress is None:
    state = program.init_state()
    if beginning:
      state = state.replace(params=pretrained.begin(
          beginning, program.model.config, tokenizer, state.params))
    progress = checkpoint.Progress(state)
  return progress


def _roll_back(config, failed_step, lost, good, writer):
  """Returns the `Progress` after which the rows up to a failure are skipped.

  Args:
    failed_step: updates after which the loss was not finite.
    lost, good: the `Progress` that the loop began with, and the one restored.
  """
  step = int(good.state.step)
  first = step + good.skipped_steps
  stop = failed_step + lost.skipped_steps
  batch_size = config.train.batch_size
  progress = checkpoint.Progress(
      good.state, stop - step, lost.num_rollbacks + 1)
  writer.cut(step)
  writer.write(step + 1, {
      "rollback": progress.num_rollbacks, "skipped_first_row":
      first * batch_size, "skipped_rows": (stop - first) * batch_size})
  metrics.say(
      f"rollback {progress.num_rollbacks} of {config.train.max_rollbacks}: "
      f"on from step {step:,}, without the rows {first * batch_size:,} to "
      f"{stop * batch_size - 1:,} of the training order")
  return progress


def check(config, workdir):
  """Checks all that can be checked before anything is written.

  Returns:
    (the `step.Program`, of the vocabulary that is asked for; what
    `train.init_from` names, where a run begins with it, else None).

  Raises:
    InputError: the first thing found that cannot be.
  """
  for group, keys in (
      ("eval", ("every_steps",)), ("metrics", ("every_steps",
                                               "profile_steps")),
      ("checkpoint", ("every_steps", "keep"))):
    for key in keys:
      if config[group][key] < 1:
        raise errors.InputError(
            f"{group}.{key} is {config[group][key]}; it must be positive")
  errors.choose(_ON_NONFINITE, config.train.on_nonfinite,
                "train.on_nonfinite")
  for group, key in (("train", "max_rollbacks"),
                     ("checkpoint", "max_failed_saves")):
    if config[group][key] < 0:
      raise errors.InputError(
          f"{group}.{key} is {config[group][key]}; it must not be negative")
  if not 0 <= config.seed < 1 << 32:
    raise errors.InputError(
        f"seed is {config.seed}; it must lie in 0 to 2**32 - 1")
  if not 0 < config.data.eval_fraction < 1:
    raise errors.InputError(
        f"data.eval_fraction is {config.data.eval_fraction}; it must lie in "
        "(0, 1)")
  packing.check(config)
  workdir_lib.compare_config(config, epath.Path(workdir), FREE_KEYS)
  local.check_writable(workdir)
  # A tokenizer still to be trained may come out smaller, never larger.
  vocab_size = config.data.vocab_size
  word_start_V = None
  if config.data.tokenizer:
    tokenizer = tokenizer_lib.load(config.data.tokenizer)
    vocab_size = tokenizer.vocab_size
    word_start_V = tokenizer.word_start_V
  program = step_lib.build(config, vocab_size, word_start_V)
  num_steps = program.config.train.num_steps
  first = config.metrics.profile_step
  if first is not None and not 0 <= first < num_steps:
    raise errors.InputError(
        f"metrics.profile_step is {first}; it must lie in 0 to "
        f"train.num_steps - 1 ({num_steps - 1}), or be None")
  evaluate.batch_size(config, program.mesh)
  for rate in config.eval.rates:
    masking.make_plan(config, vocab_size, word_start_V, rate)
  if not config.train.init_from or checkpoint.steps(workdir):
    return program, None
  beginning = pretrained.load(config.train.init_from)
  pretrained.check(beginning, program.model.config)
  return program, beginning


def _loop(program, loader, evaluator, checkpoints, writer, signals, profiler,
          progress):
  """The loop proper; see `train`."""
  config = program.config
  state, start = progress.state, int(progress.state.step)
  num_steps = config.train.num_steps
  batches = loader.train_batches(
      program.batch_sharding, config.train.batch_size,
      start + progress.skipped_steps, num_steps + progress.skipped_steps)
  clock = metrics.Clock(
      config.train.batch_size * config.data.length, program.step_flops,
      flops.peak_flops())
  pending = evaluation = None
  saved = start if checkpoints.latest_step is not None else None
  for step in range(start, num_steps + 1):
    is_last = step == num_steps

    # Eval.
    if is_last or (step % config.eval.every_steps == 0
                   and not writer.has_eval(step)):
      pending = _report(config, pending, clock, writer)
      with clock.pause():
        scalars = evaluator.run(state.params, signals.asked)
      if scalars is not None:
        evaluation = scalars
        if not writer.has_eval(step):
          writer.write(step, scalars)
        metrics.say(_evaluation_line(step, scalars))

    # Save.
    stop = signals.agreed(step)
    is_due = step % config.checkpoint.every_steps == 0 and step > start
    if step != saved and (is_last or stop or is_due):
      pending = _report(config, pending, clock, writer)
      with clock.pause():
        checkpoints.save(
            step, dataclasses.replace(progress, state=state))
      saved = step
    if stop:
      checkpoints.wait()
      metrics.say(f"step {step:,}: saved on {signal.Signals(stop).name}; the "
                  "same command goes on from here")
      raise signals_lib.Stopped(stop)
    if is_last:
      checkpoints.wait()
      return state, evaluation
    profiler.at(step)

    # Next.
    with clock.wait():
      ids_BxL = next(batches)

    # Step. Nothing goes to the devices unnoticed.
    with jax.transfer_guard("disallow"):
      state, step_metrics = program.train_step(state, ids_BxL)
    if step == start:  # It compiled: no measure of speed.
      jax.block_until_ready(step_metrics)
      clock.restart()
    else:
      clock.stepped()
    _report(config, pending, clock, writer)
    pending = step + 1, step_metrics


def _report(config, pending, clock, writer):
  """Reads the metrics of a step that is under way; returns None.

  Raises:
    NonFiniteError: they are not finite.
  """
  if pending is None:
    return None
  step, step_metrics = pending
  step_metrics = jax.device_get(step_metrics)
  scalars = {k: float(v) for k, v in step_metrics.sums.means.items()} | {
      "grad_norm": float(step_metrics.grad_norm),
      "learning_rate": float(step_metrics.learning_rate)}
  if not np.all(np.isfinite(list(scalars.values()))):
    writer.write(step, scalars)
    raise NonFiniteError(
        step, f"step {step}: loss {scalars['loss']}, gradient norm "
        f"{scalars['grad_norm']}; the checkpoint before is kept. A lower "
        "optimizer.learning_rate, more warmup_steps or a clip_norm may help")
  num_steps = config.train.num_steps
  if step % config.metrics.every_steps == 0 or step == num_steps:
    rates = clock.lap()
    writer.write(step, scalars | rates | {"flops": step * clock.step_flops})
    line = (f"step {step:,}/{num_steps:,}  loss {scalars['loss']:.3f}  "
            f"accuracy {scalars['accuracy']:.3f}")
    if rates:
      left_secs = (num_steps - step) * rates["step_ms"] / 1000
      line += (f"  {rates['tokens_per_sec']:,.0f} tokens/s  "
               f"{metrics.duration(left_secs)} left")
    metrics.say(line)
  return None


def _evaluation_line(step, scalars):
  below = scalars["eval/unigram_entropy"] - scalars["eval/loss"]
  others = "".join(
      f"; at {name.split('_')[1].split('/')[0]}: loss {value:.3f}"
      for name, value in scalars.items()
      if name.startswith("eval/rate_") and name.endswith("/loss"))
  return (f"step {step:,}: eval loss {scalars['eval/loss']:.3f}, unigram "
          f"entropy {scalars['eval/unigram_entropy']:.3f} ({below:+.3f} "
          f"below), accuracy {scalars['eval/accuracy']:.3f}{others}")


class _Profiler:
  """Traces the window of `metrics.profile_step`; closes it in any case."""

  def __init__(self, config, workdir):
    self._first = config.metrics.profile_step
    self._steps = config.metrics.profile_steps
    self._workdir = str(workdir)
    self._is_open = False

  def at(self, step):
    """Opens or closes the window before a step."""
    if self._first is not None and step == self._first:
      jax.profiler.start_trace(self._workdir)
      self._is_open = True
    elif self._is_open and step >= self._first + self._steps:
      self.close()

  def close(self):
    """Writes the trace, if one is open."""
    if self._is_open:
      jax.profiler.stop_trace()
      self._is_open = False


def _introduce(program, loader, progress):
  start = int(progress.state.step)
  c, config = program.model.config, program.config
  count = sum(x.size for x in jax.tree.leaves(program.state_shapes.params))
  devices = jax.devices()
  metrics.say(
      f"{c.architecture}: {c.layers} layers, masks enter before layer "
      f"{c.insertion_layer} ({c.decoder}); {count:,} parameters; "
      f"{len(devices)} x {devices[0].device_kind} in {jax.process_count()} "
      f"process(es), mesh {dict(program.mesh.shape)}")
  num_steps, batch_size = config.train.num_steps, config.train.batch_size
  epochs = num_steps * batch_size / loader.num_train_rows
  metrics.say(
      f"rows of {config.data.length}: {program.plan.num_kept} kept, "
      f"{program.plan.num_targets} predicted; {loader.num_train_rows:,} to "
      f"train on, {loader.num_eval_rows:,} held out; {num_steps:,} steps of "
      f"{batch_size:,} rows = {epochs:.1f} epochs")
  metrics.say(f"going on from the checkpoint at step {start:,}" if start
              else "beginning at step 0")
  if progress.skipped_steps:
    metrics.say(f"{progress.skipped_steps:,} batches are skipped, after "
                f"{progress.num_rollbacks} rollbacks")
  metrics.say("compiling: the first evaluation and the first step take long")


def _prepare(config, workdir):
  """Packs on process 0 while the others wait."""
  directory = packing.directory_of(config, workdir)
  refusal = None
  if jax.process_index() == 0:
    try:
      packed = packing.prepare(config, directory)
    except errors.InputError as error:
      refusal = error
  # A barrier that also tells the others whether there is anything to wait for.
  if not distributed.everywhere(refusal is None):
    raise refusal or errors.InputError("process 0 could not pack the rows")
  if jax.process_index() > 0:
    packed = packing.load(config, directory)
    if packed is None:
      raise errors.InputError(
          f"process {jax.process_index()} sees no packed rows in {directory}; "
          "data.dir must lie where all hosts see it")
  return packed
