"""One table of keys: it is complete, and what it lets through can be built."""

import json
import re

import pytest

from configs import base
from configs import finetune
from configs import glue
from latemask.config import domains
from latemask.config import keys
from latemask.data import packing
from latemask.data.sources import formats
from latemask.data.tokenizers import kinds
from latemask.data.tokenizers import sentencepiece
from latemask.data.tokenizers import word_starts
from latemask import errors
from latemask.finetune.adapters import lora
from latemask.finetune.adapters import table as adapters
from latemask.finetune import windows
from latemask.finetune.tasks import glue as tasks
from latemask.finetune.tasks import kinds as task_kinds
from latemask.masking import plan
from latemask.masking import units
from latemask.model import architecture
from latemask.model import attention_kinds
from latemask.model import insertion
from latemask.model import stack
from latemask.runtime import rng
from latemask.train import init_from
from latemask.train import initial
from latemask.train import mask_vector
from latemask.train import optimizer
from latemask.train import schedule
from tests import conftest

# The table of a module that each of these keys chooses from.
TABLES = {
    "data.documents": formats.DOCUMENTS,
    "data.packing": packing.PACKINGS,
    "data.fit": packing.FITS,
    "data.tokenizer_kind": kinds.TRAINED,
    "masking.unit": units.UNITS,
    "masking.word_starts": word_starts.WORD_STARTS,
    "model.architecture": architecture.ARCHITECTURES,
    "model.insertion": insertion.INSERTIONS,
    "model.decoder": insertion.DECODERS,
    "model.decoder_queries": insertion.QUERIES,
    "model.dtype": architecture.DTYPES,
    "model.attention": attention_kinds.KINDS,
    "model.remat": stack.REMAT,
    "train.init_state": ("parameters", "all"),  # An if.
    "train.init_late": init_from._INIT_LATE,
    "train.init_kernels": initial.KERNELS,
    "train.mask_vector": mask_vector.MASK_VECTORS,
    "train.on_nonfinite": ("stop", "rollback"),  # An if.
    "train.dropout_rng": rng.KINDS,
    "optimizer.name": optimizer.OPTIMIZERS,
    "optimizer.schedule": schedule._DECAYS,
    "eval.masks": plan.EVAL_MASKS,
}
_OF_BOTH = {
    "dtype": architecture.DTYPES,
    # These two come down to 0, and ask for nothing more.
    "optimizer.schedule": {"linear", "cosine"},
    "adapter.name": adapters.ADAPTERS,
    "adapter.matrices": lora.MATRICES,
}
TABLES_OF_GLUE = _OF_BOTH | {"task": tasks.TASKS | {"all": None}}
TABLES_OF_OWN = _OF_BOTH | {
    "task.kind": task_kinds.KINDS,
    "task.class_weights": {"none", "balanced"},  # An if.
}


def _names(domain):
  """Returns the names that a domain of choices lists."""
  return {None if name == "None" else name for name in
          re.sub(r"^.*one of |, none twice$", "", domain.says).replace(
              ", or ", ", ").split(", ")}


@pytest.mark.parametrize("rows_of_keys, tables", [
    (keys.PRETRAINING, TABLES), (keys.GLUE, TABLES_OF_GLUE),
    (keys.OWN, TABLES_OF_OWN)])
def test_names_are_those_of_the_modules(rows_of_keys, tables):
  for key, row in rows_of_keys.items():
    assert ("one of" in row.domain.says) == (key in tables), key
  for key, table in tables.items():
    assert _names(rows_of_keys[key].domain) == set(table), key
    is_one = rows_of_keys[key].domain.says.startswith("one of")
    assert all(rows_of_keys[key].domain.has(name if is_one else (name,))
               for name in table), key


def test_shortest_rows_are_those_of_the_modules():
  shortest = packing.MIN_PIECE_TOKENS + 2  # <s> and </s>.
  for domain, least in (
      (keys.PRETRAINING["data.length"].domain, shortest),
      (keys.GLUE["max_length"].domain, windows.min_length(
          sentencepiece.Tokenizer(b"")))):
    assert domain.has(least) and not domain.has(least - 1)


def test_a_run_may_change_how_its_model_is_computed():
  """But for the dtype: what is rounded to bfloat16 is another function."""
  free = {key.removeprefix("model.") for key in keys.names(
      keys.PRETRAINING, "free") if key.startswith("model.")}
  assert free | {"dtype", "loss_chunk"} == set(architecture.COMPUTING)


@pytest.mark.parametrize("config, rows_of_keys", [
    (base.get_config(), keys.PRETRAINING), (glue.get_config(), keys.GLUE),
    (finetune.get_config(), keys.OWN)])
def test_every_key_has_its_row(config, rows_of_keys):
  older = {key for key, row in rows_of_keys.items() if row.instead}
  assert set(keys.flat(config)) == set(rows_of_keys) - older
  assert {rows_of_keys[key].instead for key in older} <= set(rows_of_keys)
  keys.check(config)


@pytest.mark.parametrize("domain, inside, outside", [
    (domains.whole(1, 2**16), (1, 2**16), (0, 2**16 + 1, 1.0, True, "1",
                                            None, float("nan"))),
    (domains.real("(0, 1]"), (1, 0.5, 1e-30), (
        0, 1.1, 1e-50, True, "1", None, float("nan"), float("inf"))),
    (domains.real("[0, inf)"), (0, 1e38), (
        -1, 1e39, 10**400, -10**400, float("inf"))),
    (domains.real("[0, 1)"), (0, 0.999), (1, 0.99999999999)),
    (domains.choice("a", "b"), ("a",), ("c", "", None, 0, ["a"])),
    (domains.optional(domains.TEXT), (None, "a"), ("", "a\0b", 0, b"a")),
    (domains.each(domains.whole(1), 1, True), ((1,), [1, 2]), (
        (), 1, (0,), (1, 1), "1")),
    (domains.each(domains.real("(0, 1)")), ((), (0.1, 0.1)), ((1.0,),)),
])
def test_domains(domain, inside, outside):
  for value in inside:
    assert domain.has(value), value
  for value in outside:
    assert not domain.has(value), value
    with pytest.raises(errors.InputError) as refused:
      domains.check(domain, "a.key", value, "a file")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("a file: a.key is ")
    assert str(refused.value).endswith(f"; it must be {domain.says}")


def test_unknown_and_missing_keys():
  config = base.get_config().to_dict()
  config["model"]["widht"] = config["model"].pop("width")
  with pytest.raises(errors.InputError, match="model.widht, and there is no"):
    keys.check(config)
  del config["model"]["widht"]
  with pytest.raises(errors.InputError, match="says nothing of model.width"):
    keys.check(config)


def test_what_was_done_before_is_as_json_has_it():
  """Or a run that is older than a key would never be as begun."""
  for table in (keys.PRETRAINING, keys.GLUE, keys.OWN):
    for key, row in table.items():
      if row.before is not keys._ALWAYS:
        assert json.loads(json.dumps(row.before)) == row.before, key
        assert not isinstance(row.before, tuple), key


def test_the_page_says_what_may_change_on_the_way():
  text = (conftest.ROOT / "configs/README.md").read_text()
  told, = (line for line in text.splitlines()
           if line.startswith("A workdir belongs to one config."))
  told = told.partition("may change,")
  groups = re.findall(r"`(\w+)`", told[0])
  named = set(re.findall(r"`([a-z_]+\.\w+)`", told[0] + told[2]))
  free = keys.names(keys.PRETRAINING, "free")
  assert named == {key for key in free if key.split(".")[0] not in groups}
  assert all(key in free for key in keys.PRETRAINING
             if key.split(".")[0] in groups)
