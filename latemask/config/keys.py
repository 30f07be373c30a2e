"""One table of keys: what each may be, and what it means for a run.

configs/base.py and configs/finetune.py say what a key does; a row here, by the
same dotted name, says what its value may be by itself. A row says, too, what
belongs to a key rather than to the modules that read it: whether a run may
change it between two stretches, whether it only says where something lies, and,
where the key came later than runs that are on disk, how these go on.

It stands before all modules and reads none of them, so the names that a key
chooses among are spelt out (a test holds them equal to the tables that they
choose from), and no JAX is imported for it.
"""

import dataclasses

from latemask import errors
from latemask.config import domains

# Ids of a vocabulary, tokens of a row, widths: far more than there are, and
# few enough for every product of two of them to be counted in 64 bits.
_MOST_IDS = 2**24
MOST_TOKENS = 2**20
_MOST_WIDTH = 2**20
_MOST_LAYERS = 2**12
_MOST_ROWS = 2**24

_SHARE = domains.real("(0, 1)")
_SHARE_OR_0 = domains.real("[0, 1)")
_NOT_NEGATIVE = domains.real("[0, inf)")
_POSITIVE = domains.real("(0, inf)")
_PATH = domains.optional(domains.TEXT)
_STEPS = domains.whole(1)
_COUNT = domains.whole(0)
_DEVICES = domains.optional(domains.whole(1, 2**20))
_DTYPE = domains.choice("float32", "bfloat16")

# Of `Key.before`: it was there from the beginning.
_ALWAYS = object()


@dataclasses.dataclass(frozen=True)
class Key:
  """A row of the table.

  Fields:
    domain: what the value may be.
    free: a run, or a fine-tuning, may change it between two stretches: where
      and on what it runs, in what way and memory the same is computed, what it
      tells, what there is to do. All else changes the result.
    place: it says where something lies: another path to it makes no other run
      of a sweep.
    before: the value that does what was done before the key was there, as JSON
      has it.
    kept: the default does something else, so what was begun before the key
      goes on with `before`, whatever the config says.
    instead: the key that stands in its place today; what was begun with the
      old one goes on with that.
  """

  domain: domains.Domain
  free: bool = False
  place: bool = False
  before: object = _ALWAYS
  kept: bool = False
  instead: str | None = None


# The same in both tables.
_ADAMW = {
    "optimizer.weight_decay": Key(_NOT_NEGATIVE),
    "optimizer.b1": Key(_SHARE_OR_0),
    "optimizer.b2": Key(_SHARE_OR_0),
    "optimizer.eps": Key(domains.real("(0, 1]")),
    "optimizer.clip_norm": Key(domains.optional(_POSITIVE)),
}

PRETRAINING = {
    "seed": Key(domains.whole(0, 2**32 - 1)),

    "data.source": Key(domains.TEXT),
    "data.dir": Key(_PATH, free=True, place=True),
    "data.cache_dir": Key(_PATH, free=True, place=True),
    "data.tfds_dir": Key(_PATH, free=True, place=True),
    "data.text_fields": Key(domains.each(domains.TEXT, least=1)),
    "data.documents": Key(
        domains.choice("lines", "blank_lines"), before="lines"),
    "data.tokenizer": Key(_PATH),
    "data.tokenizer_kind": Key(
        domains.choice("unigram", "bpe"), before="unigram"),
    "data.add_tokens": Key(_PATH, before=None),
    "data.add_mask_token": Key(domains.YES_NO, before=False),
    "data.vocab_size": Key(domains.whole(1, _MOST_IDS)),
    "data.tokenizer_sample_bytes": Key(domains.whole(1)),
    # A row holds <s>, </s> and the shortest piece that is worth one.
    "data.length": Key(domains.whole(10, MOST_TOKENS)),
    "data.packing": Key(domains.choice("documents", "stream")),
    "data.fit": Key(
        domains.choice("best", "next"), before="next", kept=True),
    # Their names have five digits.
    "data.shards": Key(domains.optional(domains.whole(1, 99_999))),
    "data.max_bad_documents": Key(_COUNT, free=True),
    "data.workers": Key(
        domains.optional(domains.whole(1)), free=True, place=True),
    "data.eval_fraction": Key(_SHARE),
    "data.eval_source": Key(_PATH, before=None),

    "masking.rate": Key(_SHARE),
    "masking.phases": Key(domains.PHASES, before=[]),
    "masking.unit": Key(domains.choice("token", "word", "span")),
    "masking.word_starts": Key(
        domains.choice("spaces", "scripts"), before="spaces", kept=True),
    "masking.random_rate": Key(domains.real("[0, 1]")),
    "masking.same_rate": Key(domains.real("[0, 1]")),
    "masking.predict_rate": Key(domains.optional(_SHARE)),
    "masking.span_length": Key(domains.real("[1, inf)")),
    "masking.max_span_length": Key(domains.whole(1, domains.INT32)),

    "model.architecture": Key(
        domains.choice("roberta", "bert", "xlm_roberta", "camembert",
                       "roberta_prenorm", "modern")),
    "model.width": Key(domains.whole(1, _MOST_WIDTH)),
    "model.heads": Key(domains.whole(1, _MOST_WIDTH)),
    "model.mlp": Key(domains.whole(1, _MOST_WIDTH)),
    "model.layers": Key(domains.whole(1, _MOST_LAYERS)),
    "model.insertion_layer": Key(domains.whole(0, _MOST_LAYERS - 1)),
    "model.insertion": Key(domains.choice("append", "scatter")),
    "model.decoder": Key(domains.choice("self", "cross")),
    "model.decoder_queries": Key(domains.choice("targets", "all")),
    "model.vocab_size": Key(domains.optional(domains.whole(1, _MOST_IDS))),
    "model.max_length": Key(domains.whole(1, MOST_TOKENS)),
    "model.dropout": Key(_SHARE_OR_0),
    "model.attention_dropout": Key(_SHARE_OR_0),
    "model.rotary_theta": Key(_POSITIVE),
    "model.global_every": Key(domains.whole(1, _MOST_LAYERS), before=1),
    "model.local_window": Key(domains.even(2, MOST_TOKENS), before=128),
    "model.local_rotary_theta": Key(_POSITIVE, before=10_000.0),
    "model.tied_output": Key(domains.YES_NO, before=True, kept=True),
    "model.norm_eps": Key(domains.real("[0, 1]")),
    "model.dtype": Key(_DTYPE),
    "model.attention": Key(
        domains.choice("xla", "chunked", "splash", "splash_interpret",
                       "cudnn", "auto"),
        free=True, before="xla", kept=True),
    "model.unroll": Key(domains.whole(1), free=True),
    "model.remat": Key(domains.optional(
        domains.choice("elementwise", "dots", "layer")), free=True),
    "model.loss_tokens": Key(domains.whole(1), free=True, before=1024),
    "model.loss_chunk": Key(
        domains.optional(domains.whole(1)), instead="model.loss_tokens"),

    "train.init_from": Key(_PATH),
    "train.init_state": Key(
        domains.choice("parameters", "all"), before="parameters"),
    "train.phase": Key(domains.whole(1, 2**16), before=1),
    "train.init_late": Key(domains.choice("copy", "fresh"), before="fresh"),
    "train.init_kernels": Key(
        domains.choice("fan_in", "fixed"), before="fan_in"),
    "train.init_scale": Key(_POSITIVE, before=1.0),
    "train.mask_vector": Key(
        domains.choice("own", "embedding"), before="own"),
    "train.batch_size": Key(domains.whole(1, _MOST_ROWS)),
    "train.num_steps": Key(domains.whole(1, domains.INT32)),
    "train.total_flops": Key(domains.optional(_POSITIVE)),
    "train.accumulation": Key(domains.whole(1, _MOST_ROWS)),
    "train.average_share": Key(domains.optional(_SHARE), before=None),
    "train.on_nonfinite": Key(domains.choice("stop", "rollback"), free=True),
    "train.max_rollbacks": Key(_COUNT, free=True),
    "train.dropout_rng": Key(
        domains.choice("hash", "threefry2x32", "rbg", "unsafe_rbg")),

    "optimizer.name": Key(domains.choice("adamw", "muon"), before="adamw"),
    "optimizer.momentum": Key(_SHARE_OR_0, before=0.95),
    "optimizer.decay_fraction": Key(domains.real("(0, 1]"), before=0.2),
    "optimizer.learning_rate": Key(_POSITIVE),
    "optimizer.schedule": Key(
        domains.choice("linear", "cosine", "inverse_sqrt", "constant", "wsd")),
    "optimizer.warmup_fraction": Key(_SHARE_OR_0),
    "optimizer.warmup_steps": Key(
        domains.whole(0, domains.INT32), instead="optimizer.warmup_fraction"),
    "optimizer.final_learning_rate": Key(_NOT_NEGATIVE),
    **_ADAMW,

    "eval.every_steps": Key(_STEPS, free=True),
    "eval.rates": Key(domains.each(_SHARE)),
    "eval.masks": Key(
        domains.choice("fixed", "seeded"), before="seeded", kept=True),
    "eval.max_rows": Key(domains.whole(1)),
    "eval.batch_size": Key(domains.optional(domains.whole(1, _MOST_ROWS))),

    "checkpoint.every_steps": Key(_STEPS, free=True),
    "checkpoint.keep": Key(domains.whole(1), free=True),
    "checkpoint.max_failed_saves": Key(_COUNT, free=True),

    "metrics.every_steps": Key(_STEPS, free=True),
    "metrics.profile_step": Key(
        domains.optional(domains.whole(0, domains.INT32)), free=True),
    "metrics.profile_steps": Key(_STEPS, free=True),

    "mesh.data": Key(_DEVICES, free=True),
    "mesh.fsdp": Key(_DEVICES, free=True),
    "mesh.tensor": Key(_DEVICES, free=True),
}

# Of fine-tuning, whatever the task.
_FINETUNING = {
    "init_from": Key(_PATH, place=True),
    "from_scratch": Key(domains.YES_NO),
    "keep_layers": Key(domains.optional(domains.whole(1, _MOST_LAYERS))),
    # <s>, </s> and two texts of two tokens.
    "max_length": Key(domains.optional(domains.whole(6, MOST_TOKENS))),
    "dropout": Key(_SHARE_OR_0),
    "dtype": Key(_DTYPE),
    "predict_test": Key(domains.YES_NO, free=True),
    "export": Key(domains.YES_NO, free=True),

    "grid.learning_rates": Key(
        domains.each(_POSITIVE, least=1, distinct=True), free=True),
    "grid.batch_sizes": Key(domains.each(
        domains.whole(1, _MOST_ROWS), least=1, distinct=True), free=True),
    "grid.seeds": Key(domains.each(
        domains.whole(0, 2**32 - 1), least=1, distinct=True), free=True),
    "grid.num_epochs": Key(domains.optional(domains.whole(1, domains.INT32))),

    "optimizer.schedule": Key(domains.choice("linear", "cosine")),
    "optimizer.warmup_fraction": Key(_SHARE_OR_0),
    **_ADAMW,

    "adapter.name": Key(domains.choice(
        "none", "head", "bitfit", "lora"), before="none"),
    "adapter.rank": Key(domains.whole(1, _MOST_WIDTH), before=8),
    "adapter.alpha": Key(_POSITIVE, before=16.0),
    "adapter.dropout": Key(_SHARE_OR_0, before=0.0),
    "adapter.matrices": Key(domains.each(
        domains.choice("qkv", "out", "mlp_in", "mlp_out"), least=1,
        distinct=True), before=["qkv", "out", "mlp_in", "mlp_out"]),
}

# configs/glue.py.
GLUE = {
    "task": Key(domains.choice(
        "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli",
        "all"), free=True),
    "data_dir": Key(_PATH, free=True, place=True),
    "tfds_dir": Key(_PATH, free=True, place=True),
    **_FINETUNING,
}

# Where people's own rows lie. No record of a sweep had these once.
ROWS = ("data.train", "data.dev", "data.test")
# configs/finetune.py.
OWN = {
    "task.kind": Key(domains.choice(
        "classes", "multilabel", "number", "tokens", "span")),
    "task.class_weights": Key(domains.choice("none", "balanced")),
    # Rows are known by what they hold: a finished cell must agree.
    **dict.fromkeys(ROWS, Key(_PATH, free=True)),
    "data.text": Key(domains.each(domains.TEXT, least=1, distinct=True)),
    "data.label": Key(domains.TEXT),
    "data.labels": Key(domains.each(domains.TEXT, distinct=True)),
    "data.label_separator": Key(domains.TEXT),
    "data.stride": Key(domains.optional(domains.whole(0, MOST_TOKENS))),
    **_FINETUNING,
}


# Key -> the value by which it does what was done before it was there.
BEFORE = {key: row.before for key, row in PRETRAINING.items()
          if row.before is not _ALWAYS}
_BEFORE_OF_FINETUNING = {key: row.before for key, row in _FINETUNING.items()
                         if row.before is not _ALWAYS}


def table(config):
  """Returns the table of a config's kind: one with a task fine-tunes."""
  if "task" not in config:
    return PRETRAINING
  return OWN if hasattr(config["task"], "items") else GLUE


def names(rows, column):
  """Returns the keys of a table in whose column something stands."""
  return frozenset(key for key, row in rows.items() if getattr(row, column))


def flat(config, prefix=""):
  """Returns a config, or a dict of dicts, as {dotted key: value}."""
  found = {}
  for key, value in config.items():
    if hasattr(value, "items"):
      found |= flat(value, f"{prefix}{key}.")
    else:
      found[prefix + key] = value
  return found


def check(config):
  """Checks every key by itself.

  Args:
    config: a `ConfigDict`, or a dict of dicts.

  Raises:
    InputError: the first value that its key cannot have, a key that is not
      known, or one that is missing.
  """
  rows, found = table(config), flat(config)
  for key, value in found.items():
    if key not in rows:
      raise errors.InputError(f"the config has {key}, and there is no such key")
    domains.check(rows[key].domain, key, value)
  there = set(found) | {rows[key].instead for key in found}
  for key, row in rows.items():
    if key not in there and not row.instead:
      raise errors.InputError(f"the config says nothing of {key}")


def check_group(group, fields, where):
  """Checks a group of keys that was written to a file.

  Args:
    fields: what stands there, {key: value} if it is right.
    where: the file, for the message.

  Raises:
    InputError: as `check`, but for keys that are missing.
  """
  if not isinstance(fields, dict):
    raise errors.InputError(
        f"{where}: {group} is {fields!r:.60}; it must be an object of keys")
  for name, value in fields.items():
    key = f"{group}.{name}"
    if key not in PRETRAINING:
      raise errors.InputError(
          f"{where} has {key}, which is not known here; it was written by a "
          "later version")
    domains.check(PRETRAINING[key].domain, key, value, where)


def fill(found, wanted):
  """Returns what was written, with the keys that it is too old to have.

  Args:
    found: {dotted key: value} as it was written.
    wanted: the keys that there are today; no other is added.
  """
  before = BEFORE | _BEFORE_OF_FINETUNING
  return {key: before[key] for key in wanted
          if key in before and key not in found} | dict(found)


def as_begun(found, now):
  """Returns a config with what a run keeps that is older than a key.

  Args:
    found: {dotted key: value} as the run was begun.
    now: the same as it is given today.
  """
  kept = dict(now)
  for key, row in PRETRAINING.items():
    if row.kept and key in now and key not in found:
      kept[key] = row.before
    if row.instead in now and key in found:
      kept[key] = found[key]
      if row.instead not in found:
        del kept[row.instead]
  return kept
