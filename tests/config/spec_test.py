"""Configs as tools take them: overrides, and one line for what is wrong."""

import pytest

from latemask.config import spec as spec_lib
from latemask import errors


BROKEN = """
def get_config(how):
  if how == "value":
    raise ValueError("this size cannot be")
  return {"key": lambda: {}["model"], "zero": lambda: 1 / 0,
          "name": lambda: undefined, "none": lambda: None}[how]()
"""


def test_overrides():
  config = spec_lib.load(
      "configs/base.py:small,model.unroll=6,model.remat=None,"
      "model.dtype=float32,optimizer.learning_rate=1e-4")
  assert config.model.width == 256
  assert config.model.unroll == 6
  assert config.model.remat is None
  assert config.model.dtype == "float32"
  assert config.optimizer.learning_rate == 1e-4
  assert config.is_locked


def test_commas_in_values():
  config = spec_lib.load(
      "configs/base.py,data.source=text:/a/*.txt,builtin,eval.rates=(0.1,0.2),"
      "model.unroll=2")
  assert config.data.source == "text:/a/*.txt,builtin"
  assert config.eval.rates == (0.1, 0.2)
  assert config.model.unroll == 2


@pytest.mark.parametrize("spec, message", [
    ("configs/none.py", "no config file configs/none.py"),
    ("README.md", "no config file README.md"),
    ("configs/base.py:huge", "tiny, small, base, large"),
    ("configs/demo.py:tiny", "demo.py:tiny"),
    ("configs/base.py,model.widht=1", "model.widht"),
    ("configs/base.py,model.width=wide", "model.width=wide"),
    ("configs/base.py,model.width=0", "model.width is 0; it must be"),
    ("configs/base.py,model.width", "no KEY=VALUE"),
    ("configs/base.py,", "no KEY=VALUE"),
    ("latemask/errors.py", "no get_config"),
])
def test_bad_specs(spec, message):
  with pytest.raises(errors.InputError, match=message) as caught:
    spec_lib.load(spec)
  assert "\n" not in str(caught.value)


def test_bad_files(tmp_path):
  (tmp_path / "broken.py").write_text("def get_config(:\n")
  with pytest.raises(errors.InputError, match="cannot be read"):
    spec_lib.load(str(tmp_path / "broken.py"))


@pytest.mark.parametrize("size, message", [
    ("key", "KeyError: 'model'"), ("zero", "ZeroDivisionError: division by"),
    ("name", "NameError: name 'undefined'"), ("none", "returns no ConfigDict"),
    ("value", "broken.py:value: this size cannot be$")])
def test_files_that_raise(tmp_path, size, message):
  (tmp_path / "broken.py").write_text(BROKEN)
  with pytest.raises(errors.InputError, match=message) as told:
    spec_lib.load(f"{tmp_path}/broken.py:{size}")
  assert "\n" not in str(told.value)


def test_flags_of_main():
  assert spec_lib.flags("configs/base.py:tiny") == [
      "--config=configs/base.py:tiny"]
  assert spec_lib.flags(
      "configs/base.py,data.source=text:/a,builtin,model.unroll=2") == [
          "--config=configs/base.py", "--config.data.source=text:/a,builtin",
          "--config.model.unroll=2"]
