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
from latemask.train import metrics
from latemask.train import plateau


class NonFiniteError(errors.Ending):
  """The loss or the gradient is no longer a number after `step` updates."""

  code = 3

  def __init__(self, step, what):
    super().__init__(
        f"step {step}: {what}; the checkpoint before is kept. A lower "
        "optimizer.learning_rate, more warmup_steps or a clip_norm may help")
    self.step = step


def run(program, loader, evaluator, checkpoints, writer, signals, progress,
        workdir):
  """Trains from `progress` on to the last step.

  Returns:
    (final TrainState, scalars of the last evaluation).

  Raises:
    NonFiniteError: a loss or gradient is NaN or infinite.
    SaveError: neither checkpoints nor metrics can be written any more.
    signals.Stopped: a signal asked for the end.
  """
  with contextlib.closing(
      metrics.Profiler(program.config, workdir)) as profiler:
    return _run(program, loader, evaluator, checkpoints, writer, signals,
                profiler, progress)


def _run(program, loader, evaluator, checkpoints, writer, signals, profiler,
         progress):
  config = program.config
  state, start = progress.state, int(progress.state.step)
  num_steps = config.train.num_steps
  batches = loader.train_batches(
      program.batch_sharding, config.train.batch_size,
      start + progress.skipped_steps, num_steps + progress.skipped_steps)
  clock = metrics.Clock(
      config.train.batch_size * config.data.length, program.step_flops,
      chips.peak_flops())
  pending = evaluation = evaluated = None
  saved = start if checkpoints.latest_step is not None else None
  for step in range(start, num_steps + 1):
    is_last = step == num_steps

    # Eval.
    if is_last or (step % config.eval.every_steps == 0
                   and not writer.has_eval(step)):
      pending = _report(config, pending, clock, writer)
      with clock.pause():
        scalars = evaluator.run(state.params, signals.agreed)
      if scalars is not None:
        evaluation, evaluated = scalars, step
        is_new = not writer.has_eval(step)
        if is_new:
          writer.write(step, scalars)
        distributed.say(_evaluation_line(step, scalars))
        if is_new and (warning := plateau.warning(config, step, scalars)):
          distributed.say(warning)
        _check_evaluation(step, scalars)

    # Save.
    stop = signals.agreed()
    is_due = step % config.checkpoint.every_steps == 0 and step > start
    if step != saved and (is_last or stop or is_due):
      pending = _report(config, pending, clock, writer)
      with clock.pause():
        if step != evaluated:
          _check_evaluation(step, evaluator.run(state.params, num_batches=1))
        checkpoints.save(
            step, dataclasses.replace(progress, state=state))
      saved = step
    if stop:
      checkpoints.wait()
      distributed.say(f"step {step:,}: saved on {signal.Signals(stop).name}; "
                      "the same command goes on from here")
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
      # What a save needs compiles now, and not within the grace of a signal.
      if evaluated is None:
        evaluator.run(state.params, num_batches=1)
      checkpoints.compile(state)
      clock.restart()
      signals.hold()  # From here on there is something to save.
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
        step, f"loss {scalars['loss']}, gradient norm "
        f"{scalars['grad_norm']}")
  num_steps = config.train.num_steps
  is_due = step % config.metrics.every_steps == 0 or step == num_steps
  if is_due or clock.is_due():
    rates = clock.lap() if is_due else clock.rates()
    if is_due:
      writer.write(step, scalars | rates | {"flops": step * clock.step_flops})
    line = (f"step {step:,}/{num_steps:,}  loss {scalars['loss']:.3f}  "
            f"accuracy {scalars['accuracy']:.3f}")
    if rates:
      left_secs = (num_steps - step) * rates["step_ms"] / 1000
      line += (f"  {rates['tokens_per_sec']:,.0f} tokens/s  "
               f"{console.duration(left_secs)} left")
    distributed.say(line)
  return None


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
      f"; at {name.split('_')[1].split('/')[0]}: loss {value:.3f}"
      for name, value in scalars.items()
      if name.startswith("eval/rate_") and name.endswith("/loss"))
  return (f"step {step:,}: eval loss {loss:.3f}, {abs(loss - entropy):.2f} "
          f"{side} the unigram entropy {entropy:.3f}, accuracy "
          f"{scalars['eval/accuracy']:.3f}{others}")
