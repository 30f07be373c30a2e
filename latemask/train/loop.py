"""The loop of pre-training: (eval, save, next, step)*.

What it promises, in order of precedence:
  1. The order is eval, save, next, step. Metrics of a step are read after the
     next one is on its way, but before a save.
  2. A state is saved only after a loss that was computed FROM it is finite:
     that of the evaluation at its step, else of one held-out batch. The loss
     of a step is that of the parameters before it, and parameters that are
     still finite can be too large for any loss.
  3. SIGTERM and SIGINT save at the next step boundary (an evaluation is given
     up) and end the run.
"""

import contextlib
import dataclasses
import signal

import jax
import numpy as np

from latemask import errors
from latemask.runtime import chips
from latemask.runtime import console
from latemask.runtime import distributed
from latemask.runtime import signals as signals_lib
from latemask.train import evaluate
from latemask.train import metrics
from latemask.train import plateau


class NonFiniteError(errors.Ending):
  """The loss or the gradient is no longer a number after `step` updates."""

  code = 3

  def __init__(self, step, what):
    super().__init__(
        f"step {step}: {what}; the checkpoint before is kept. A lower "
        "optimizer.learning_rate, more warmup_fraction or a clip_norm may help")
    self.step = step


def run(program, loader, evaluator, checkpoints, writer, signals, progress,
        workdir):
  """Trains from `progress` on to the last step.

  Returns:
    (final TrainState, scalars of the last evaluation).

  Raises:
    NonFiniteError: a loss or gradient is NaN or infinite.
    SaveError: neither checkpoints nor metrics can be written any more.
    HeldError: another program has taken the workdir over.
    signals.Stopped: a signal asked for the end.
  """
  with contextlib.closing(
      metrics.Profiler(program.config, workdir)) as profiler:
    return _Loop(program, evaluator, checkpoints, writer, signals,
                 progress).run(loader, profiler)


class _Loop:
  """What the loop carries from step to step, and what it does at each.

  Fields:
    state: the TrainState.
    pending: (step, StepMetrics) of the newest step, not read yet, or None.
    evaluation: (step, scalars) of the newest evaluation that was not given up.
    saved: step of the newest checkpoint, None before there is one.
  """

  def __init__(self, program, evaluator, checkpoints, writer, signals,
               progress):
    self._program, self._config = program, program.config
    self._evaluator, self._checkpoints = evaluator, checkpoints
    self._writer, self._signals, self._progress = writer, signals, progress
    self._start = int(progress.state.step)
    self._num_steps = self._config.train.num_steps
    self._clock = metrics.Clock(
        self._config.train.batch_size * self._config.data.length,
        chips.peak_flops(), _machine())
    self.state = progress.state
    self.pending, self.evaluation = None, (None, None)
    self.saved = None if checkpoints.latest_step is None else self._start

  def run(self, loader, profiler):
    """Trains; see `run` of this module."""
    skipped = self._progress.skipped_steps
    batches = loader.train_batches(
        self._program.batch_sharding, self._config.train.batch_size,
        self._start + skipped, self._num_steps + skipped)
    for step in range(self._start, self._num_steps + 1):
      if self._evaluation_is_due(step):
        self._evaluate(step)
      stop = self._signals.agreed()
      if self._save_is_due(step, stop):
        self._save(step)
      if stop:
        self._checkpoints.wait()
        distributed.say(f"step {step:,}: saved on {signal.Signals(stop).name}; "
                        "the same command goes on from here")
        raise signals_lib.Stopped(stop)
      if step == self._num_steps:
        self._checkpoints.wait()
        return self.state, self.evaluation[1]
      profiler.at(step)
      self._checkpoints.notice()
      with self._clock.wait():
        ids_BxL = next(batches)
      self._step(step, ids_BxL)

  def _evaluation_is_due(self, step):
    return step == self._num_steps or (
        step % self._config.eval.every_steps == 0
        and not self._writer.has_eval(step))

  def _evaluate(self, step):
    self._read_pending()
    with self._clock.pause():
      scalars = self._scalars(step)
    if scalars is None:  # Given up for a signal.
      return
    self.evaluation = step, scalars
    warning = None
    if not self._writer.has_eval(step):
      self._writer.write(step, scalars)
      warning = plateau.warning(self._config, step, scalars)
    distributed.say(_evaluation_line(step, scalars))
    if warning:
      distributed.say(warning)
    _check_evaluation(step, scalars)

  def _scalars(self, step):
    """Returns those of the parameters and of their average; None if stopped."""
    scalars = self._evaluator.run(self.state.params, self._signals.agreed)
    if scalars is None or self.state.average is None or not step:
      return scalars
    of_average = self._evaluator.run(
        self._program.average(self.state), self._signals.agreed)
    return of_average and scalars | evaluate.named_average(of_average)

  def _save_is_due(self, step, stop):
    is_due = step % self._config.checkpoint.every_steps == 0
    return step != self.saved and (
        stop or step == self._num_steps or is_due and step > self._start)

  def _save(self, step):
    self._read_pending()
    with self._clock.pause():
      if step != self.evaluation[0]:
        _check_evaluation(step, self._evaluator.run(
            self.state.params, num_batches=1))
      self._checkpoints.save(
          step, dataclasses.replace(self._progress, state=self.state))
    self.saved = step

  def _step(self, step, ids_BxL):
    number = self._program.phase_at(step)
    is_first = step in (
        self._start, self._program.phases[number].first_step)
    # Where it compiles, it is no measure of speed; the step before is one.
    if is_first:
      self._read_pending()
    with self._clock.pause() if is_first else contextlib.nullcontext():
      with jax.transfer_guard("disallow"):  # Nothing moves unnoticed.
        self.state, step_metrics = self._program.train_steps[number](
            self.state, ids_BxL)
      if is_first:
        jax.block_until_ready(step_metrics)
    if step == self._start:
      self._compile_the_rest()
      self._clock.restart()
      self._signals.hold()  # From here on there is something to save.
    elif not is_first:
      self._clock.stepped(self._program.flops_of_phases[number])
    self._read_pending()
    self.pending = step + 1, step_metrics

  def _compile_the_rest(self):
    """Compiles what a save needs now, and not in the grace of a signal."""
    if self.evaluation[0] is None:
      self._evaluator.run(self.state.params, num_batches=1)
    self._checkpoints.compile(self.state)

  def _read_pending(self):
    """Reads the metrics of a step; the next one is under way."""
    if self.pending:
      _report(self._program, *self.pending, self._clock, self._writer)
    self.pending = None


def _machine():
  """Returns {name: number}, by which a report tells what a run has used."""
  watts = chips.watts()
  return {"devices": jax.device_count()} | ({"watts": watts} if watts else {})


def _report(program, step, step_metrics, clock, writer):
  """Writes the metrics of a step, and a line where one is due.

  Raises:
    NonFiniteError: they are not finite.
  """
  step_metrics = jax.device_get(step_metrics)
  scalars = {k: float(v) for k, v in step_metrics.sums.means.items()} | {
      "grad_norm": float(step_metrics.grad_norm),
      "learning_rate": float(step_metrics.learning_rate)}
  if not np.all(np.isfinite(list(scalars.values()))):
    writer.write(step, scalars)
    raise NonFiniteError(
        step, f"loss {scalars['loss']}, gradient norm "
        f"{scalars['grad_norm']}")
  config, num_steps = program.config, program.config.train.num_steps
  is_due = step % config.metrics.every_steps == 0 or step == num_steps
  if is_due or clock.is_due():
    rates = clock.lap() if is_due else clock.rates()
    if is_due:
      flops = program.flops_until(step)
      writer.write(step, scalars | rates | {
          "flops": flops, "all_flops": flops + step * program.update_flops})
    line = (f"step {step:,}/{num_steps:,}  loss {scalars['loss']:.3f}  "
            f"accuracy {scalars['accuracy']:.3f}")
    if rates:
      left_secs = (num_steps - step) * rates["step_ms"] / 1000
      line += (f"  {rates['tokens_per_sec']:,.0f} tokens/s  "
               f"{console.duration(left_secs)} left")
    distributed.say(line)


def _check_evaluation(step, scalars):
  """Raises NonFiniteError unless all losses on held-out rows are finite."""
  losses = {k: v for k, v in scalars.items() if k.endswith("/loss")}
  if not np.all(np.isfinite(list(losses.values()))):
    raise NonFiniteError(step, ", ".join(
        f"{k} {v}" for k, v in losses.items()) + " on held-out rows")


def _evaluation_line(step, scalars):
  loss, entropy = scalars["eval/loss"], scalars["eval/unigram_entropy"]
  side = "above" if loss > entropy else "below"
  others = "".join(
      f"; at mask rate {rate:g}: loss {scalars[name]:.3f}"
      for name, rate in evaluate.rates(scalars).items())
  others += "".join(f"; {name}: loss {loss:.3f}" for name, loss in
                    evaluate.by_source(scalars).items())
  if evaluate.AVERAGE in scalars:
    others += f"; average of the steps: loss {scalars[evaluate.AVERAGE]:.3f}"
  return (f"step {step:,}: eval loss {loss:.3f}, {abs(loss - entropy):.2f} "
          f"{side} what guessing by word frequency alone would give "
          f"({entropy:.3f}), accuracy "
          f"{scalars['eval/accuracy']:.3f}{others}")
