"""Warns early of a run that has learned word frequencies, but no context.

An encoder first learns how often each word occurs. That brings its loss down to
the unigram entropy, and some encoders stay there to the end. The loop asks
once.
"""

# Nats below the unigram entropy that show that some context is used.
_LEAST = 0.1
_ADVICE = ("a higher optimizer.learning_rate, more train.num_steps, more text "
           "or a lower masking.rate")


def judged_at(config):
  """Returns the step that is judged: the first evaluation behind a third."""
  every, num_steps = config.eval.every_steps, config.train.num_steps
  return min(-(-num_steps // (3 * every)) * every, num_steps)


def warning(config, step, scalars):
  """Returns what to say of an evaluation; None where all is well.

  Args:
    step: updates before the evaluation. All but `judged_at` are well, so that
      nothing is said twice, not after a resume either.
    scalars: of `evaluate.Evaluator.run`.
  """
  below = scalars["eval/unigram_entropy"] - scalars["eval/loss"]
  if step != judged_at(config) or not below < _LEAST:
    return None
  architecture = config.model.architecture
  other = "" if architecture == "modern" or config.train.init_from else (
      f"model.architecture=modern (it is {architecture}), ")
  return (f"step {step:,}: warning: after a third of the steps the loss is not "
          f"{_LEAST} below what guessing by word frequency alone would give: "
          "this run has learned how often words occur, and hardly what stands "
          f"around them. What helps: {other}{_ADVICE}")
