"""The whole config of a run, checked before anything is written."""

import re

from etils import epath

from latemask.checkpoint import record as record_lib
from latemask.data import packed_set
from latemask.data.tokenizers import sentencepiece as tokenizer_lib
from latemask import errors
from latemask.hub import pretrained
from latemask.masking import plan as plan_lib
from latemask.runtime import files
from latemask.runtime import workdir as workdir_lib
from latemask.train import evaluate
from latemask.train import init_from
from latemask.train import step as step_lib

# What may change between two stretches of one run: where and on what it runs,
# and what it tells. Everything else changes the result.
FREE_KEYS = re.compile(
    r"(mesh|metrics|checkpoint)\.|train\.(on_nonfinite|max_rollbacks)$"
    r"|data\.(workers|dir|cache_dir|tfds_dir|max_bad_documents)$")
_ON_NONFINITE = dict.fromkeys(("stop", "rollback"))


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
  packed_set.check(config)
  workdir_lib.compare_config(config, epath.Path(workdir), FREE_KEYS)
  files.check_writable(workdir)
  beginning = None
  if config.train.init_from and not record_lib.steps(workdir):
    beginning = pretrained.load(config.train.init_from)
  tokenizer = (tokenizer_lib.load(config.data.tokenizer)
               if config.data.tokenizer else beginning and beginning.tokenizer)
  # A tokenizer still to be trained may come out smaller, never larger.
  vocab_size = tokenizer.vocab_size if tokenizer else config.data.vocab_size
  word_start_V = tokenizer and tokenizer.word_start_V(
      config.masking.word_starts)
  program = step_lib.build(config, vocab_size, word_start_V)
  num_steps = program.config.train.num_steps
  first = config.metrics.profile_step
  if first is not None and not 0 <= first < num_steps:
    raise errors.InputError(
        f"metrics.profile_step is {first}; it must lie in 0 to "
        f"train.num_steps - 1 ({num_steps - 1}), or be None")
  evaluate.batch_size(config, program.mesh)
  for rate in config.eval.rates:
    plan_lib.make_plan(config, vocab_size, word_start_V, rate)
  if beginning:
    init_from.check(beginning, program.model.config, tokenizer)
  return program, beginning
