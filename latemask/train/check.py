"""The whole config of a run, checked before anything is written."""

from etils import epath

from latemask.checkpoint import record as record_lib
from latemask.config import keys
from latemask.data import packed_set
from latemask.data.tokenizers import kinds as tokenizers_lib
from latemask.data.tokenizers import specials
from latemask import errors
from latemask.hub import pretrained
from latemask.masking import plan as plan_lib
from latemask.runtime import files
from latemask.runtime import workdir as workdir_lib
from latemask.train import evaluate
from latemask.train import init_from
from latemask.train import init_state
from latemask.train import step as step_lib


def of_rows(config, workdir, beginning):
  """Returns (config of a run's rows, its tokenizer from `train.init_from`).

  A run that goes on has it in its checkpoints, with the words that it got: what
  it began with may be gone. None: the config says which.

  Args:
    beginning: what `train.init_from` names, where the run begins with it.
  """
  if beginning or not config.train.init_from or config.data.tokenizer:
    return config, beginning and beginning.tokenizer
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data.add_tokens = None
  return config, record_lib.tokenizer(workdir)


def check(config, workdir, but=()):
  """Checks all that can be checked before anything is written.

  Args:
    but: keys in which the workdir may differ.

  Returns:
    (the `step.Program`, of the vocabulary that is asked for; what
    `train.init_from` names, where a run begins with it, else None).

  Raises:
    InputError: the first thing found that cannot be.
  """
  keys.check(config)
  workdir_lib.compare_config(config, epath.Path(workdir), but)
  files.check_writable(workdir)
  beginning = None
  if config.train.init_from and not record_lib.steps(workdir):
    beginning = pretrained.load(
        config.train.init_from, config.data.add_mask_token)
  # A run that goes on has that of its rows.
  tokenizer = tokenizers_lib.of_config(*of_rows(
      config, workdir, beginning)) or tokenizers_lib.saved(
          packed_set.directory_of(config, workdir))
  # A tokenizer still to be trained may come out smaller, never larger.
  vocabulary = (tokenizer.vocabulary(config.masking.word_starts) if tokenizer
                else specials.trained(config.data.vocab_size))
  rule = config.masking
  begins = not (epath.Path(workdir) / "config.json").exists()
  if begins and rule.predict_rate is not None and any(
      len(phase) < 3 for phase in rule.phases):
    raise errors.InputError(
        f"masking.predict_rate is {rule.predict_rate:g}, and a phase of "
        "masking.phases has none of its own, its third number; give each one, "
        "or masking.predict_rate=None")
  if tokenizer and rule.unit == "word" and not tokenizer.marks_words(
      rule.word_starts):
    raise errors.InputError(
        "masking.unit is word; this tokenizer does not say where words begin")
  program = step_lib.build(config, vocabulary)
  num_steps = program.config.train.num_steps
  first = config.metrics.profile_step
  if first is not None and first >= num_steps:
    raise errors.InputError(
        f"metrics.profile_step is {first}; it must be less than "
        f"train.num_steps {num_steps}")
  evaluate.batch_size(config, program.mesh)
  for rate in config.eval.rates:
    plan_lib.make_plan(config, vocabulary, rate)
  if beginning:
    init_from.check(beginning, program.model.config, tokenizer)
  if config.train.init_state == "all" and not record_lib.steps(workdir):
    init_state.check(beginning, program, tokenizer)
  return program, beginning
