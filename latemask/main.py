"""The command: parses flags, starts JAX, dispatches.

  python -m latemask.main --config configs/demo.py --workdir runs/demo
  python -m latemask.main --config configs/base.py:small --workdir runs/small \\
      --config.data.source='text:/data/*.txt' --config.masking.rate=0.4
  python -m latemask.main --config configs/finetune.py --workdir runs/tuned \\
      --config.init_from=runs/small --config.data.train=train.csv \\
      --config.data.dev=dev.csv

A config that has the key `task` fine-tunes; others pre-train.

Options:
  --config FILE[:SIZE]   a config of configs/; every key of it can be set as
                         --config.group.key=value, or behind the file:
                         FILE[:SIZE],group.key=value,...
  --workdir DIR          where the run lives; the same command goes on with it
  --distributed WHO      off (one process), tpu (a pod slice: from metadata),
                         or HOST:PORT of process 0, with the next two
  --num_processes P      how many processes there are
  --process_id I         which of them this is, 0 to P - 1
  --start_secs S         how long they wait for each other (300)

Exit codes: 0 done; 2 what was given cannot be used, or another program has the
workdir (one line on stderr says which; LATEMASK_HELD_CODE sets another code
for the latter); 3 the loss is no longer finite; 4 processes are missing; 5
nothing can be saved any more; 143 / 130 stopped by SIGTERM / SIGINT, after a
save if there was something to save.
"""

import re
import sys

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags

from latemask.config import keys
from latemask.config import spec as spec_lib
from latemask import errors

_SPEC = re.compile(r"--?config=(.*)", re.DOTALL)
_KEY = re.compile(r"--?config\.([\w.]+)")
_NONE = re.compile(_KEY.pattern + "=None")

# What these say needs no name of its own.
_SAYING = (flags.Error, ImportError, OSError, SyntaxError, TypeError,
           ValueError, errors.InputError)

_CONFIG = config_flags.DEFINE_config_file("config", None, "see above")
_WORKDIR = flags.DEFINE_string("workdir", None, "see above")
_DISTRIBUTED = flags.DEFINE_string("distributed", "off", "see above")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "see above",
                                      lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "see above")
_START_SECS = flags.DEFINE_integer("start_secs", 300, "see above",
                                   lower_bound=1)


def main(argv):
  """Runs what the flags ask for."""
  if argv[1:]:
    _refuse(f"unexpected argument {argv[1]!r}; see --help")
  for flag in (_CONFIG, _WORKDIR):
    if not flag.value:
      _refuse(f"--{flag.name} is missing; see --help")
  # A file that is not there comes back as something that raises when read.
  if not isinstance(_CONFIG.value, ml_collections.ConfigDict):
    _refuse(f"--config: there is no file {_config_path()}")
  # Imported here: packing starts processes that import this module anew. What
  # can be is refused before what takes seconds to import.
  with errors.one_line_exit():
    keys.check(_CONFIG.value)
    if "model" in _CONFIG.value:
      from latemask.model import architecture
      architecture.check(_CONFIG.value.model)
  import jax
  from latemask.runtime import distributed
  from latemask.runtime import signals
  if "task" in _CONFIG.value:
    from latemask.finetune import run
  else:
    from latemask.train import run
  logging.set_verbosity(logging.WARNING)  # JAX tells what it did not find.
  # Two programs under way at once on several host devices can wait for each
  # other's threads for ever; elsewhere this flag means nothing.
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  go = run.finetune if "task" in _CONFIG.value else run.train
  # The inner one tells what is wrong before this process waits for the others,
  # who may never come; the outer one, what keeps them from coming together.
  with errors.one_line_exit(), distributed.together(
      _DISTRIBUTED.value, _NUM_PROCESSES.value, _PROCESS_ID.value,
      _START_SECS.value), errors.one_line_exit():
    try:
      go(_CONFIG.value, _WORKDIR.value)
    except signals.Stopped as stopped:
      sys.exit(stopped.code)


def _config_path():
  return config_flags.get_config_filename(flags.FLAGS["config"])


def _flag_message(error, argv):
  """Returns what is wrong with the flags, in one line."""
  text = str(error.args[0] if error.args else error)
  words = re.findall(r"\w+", text.replace("\\n", " "))
  key = next((a for a in argv if _KEY.match(a) and words and words[0] in a), "")
  if isinstance(error, (AttributeError, KeyError)) and key:
    return (f"unknown config key {key}; configs/README.md has a table of keys"
            + (f" (did you mean {words[4]}?)" if "mean" in words else ""))
  lines = text.strip().splitlines() or [repr(error)]
  file = next((found[1] for found in map(_SPEC.fullmatch, argv) if found),
              "--config")
  # What a config file raises may come wrapped together with its traceback.
  if "Traceback" in text:
    return f"{file}: {lines[-1].strip()}"
  said = " ".join(line.strip() for line in lines)
  return said if isinstance(error, _SAYING) else (
      f"{file}: {type(error).__name__}: {said}")


def _refuse(message):
  print(f"latemask: {message}", file=sys.stderr)
  sys.exit(2)


def _with_changes_as_flags(argv):
  """Returns argv with FILE[:SIZE],KEY=VALUE... of --config as flags.

  They stand where it stood, so that the last word on a key is the last one.
  """
  found = []
  for argument in argv:
    if found and found[-1] in ("--config", "-config"):
      argument = f"{found.pop()}={argument}"
    given = _SPEC.fullmatch(argument)
    found += spec_lib.flags(given[1]) if given else [argument]
  return found


def parse(argv):
  """Returns the arguments that are no flags; ends the program over bad ones.
  """
  if {"-h", "--help", "-help"} & set(argv):
    print(__doc__)
    sys.exit(0)
  try:
    # The flags of a key know its type, and None is of another.
    rest = flags.FLAGS([a for a in argv if not _NONE.fullmatch(a)])
    last = {found[1]: a for a in argv if (found := _KEY.match(a))}
    nones = {key: None for key, a in last.items() if _NONE.fullmatch(a)}
    config = _CONFIG.value
    # One that is not there is refused by `main`.
    if nones and isinstance(config, ml_collections.ConfigDict):
      with config.unlocked():
        config.update_from_flattened_dict(nones)
    return rest
  # A config file, which is read here, may be anybody's and raise anything.
  except Exception as error:
    _refuse(_flag_message(error, argv[1:]))


if __name__ == "__main__":
  # In its place: config_flags looks there, too.
  sys.argv[:] = _with_changes_as_flags(sys.argv)
  app.run(main, flags_parser=parse)
