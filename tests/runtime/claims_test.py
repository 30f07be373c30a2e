"""Claims: a folder has one holder, whatever dies, sleeps or has another clock.

Another host is a record with another name; another program is a process that
is started and, where it must be dead, killed.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from latemask import errors
from latemask.runtime import claims
from latemask.runtime import files


@pytest.fixture(autouse=True)
def fast(monkeypatch):
  """A minute of silence takes 0.3 s."""
  monkeypatch.setattr(claims, "BEAT_SECS", 0.05)
  monkeypatch.setattr(claims, "SILENT_SECS", 0.3)
  monkeypatch.setattr(claims, "LOOK_SECS", 0.02)
  monkeypatch.setattr(claims, "SETTLE_SECS", 0.05)
  monkeypatch.setattr(claims, "_TRY_SECS", 0.01)


@pytest.fixture(params=["disk", "gs://"])
def path(request, tmp_path, monkeypatch):
  """Where a claim is to lie: on a disk, or where no file can be created alone.
  """
  if request.param == "gs://":
    monkeypatch.setattr(files, "is_remote", lambda path: True)
  return claims.inside(tmp_path / "run")


def _record(**changes):
  """Returns what the claim of a living program of this host says."""
  return claims._here() | {
      "token": "other", "process": os.getpid(), "start":
      claims._start_of(os.getpid()), "since": "then", "beats": 0} | changes


def _elsewhere(**changes):
  return _record(host="far", system="another boot", **changes)


def _place(path, record):
  path.parent.mkdir(exist_ok=True)
  text = record if isinstance(record, str) else json.dumps(record)
  path.write_text(text)


def _read(path):
  return json.loads(path.read_text())


def _wait_until(condition):
  deadline_secs = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < deadline_secs
    time.sleep(0.01)


@pytest.fixture
def sleeper():
  """A program of this host that does nothing."""
  process = subprocess.Popen(["sleep", "60"])
  yield process
  process.kill()
  process.wait()


# ---- On one host


def test_held_while_it_is_held_and_gone_afterwards(path, capsys):
  with claims.held(path) as claim:
    record = _read(path)
    assert record["host"] == socket.gethostname()
    assert record["process"] == os.getpid()
    with pytest.raises(claims.HeldError) as refused:
      claims.take(path)
    claim.check()
    assert claims.living(path) in str(refused.value)
  assert claims.living(path) == ""
  words = str(refused.value)
  assert words.startswith(f"{path.parent} belongs to") and "\n" not in words
  for known in (socket.gethostname(), str(os.getpid()), record["since"]):
    assert known in words
  assert capsys.readouterr().out == ""  # At once, with no watching.
  # Nothing is left, not even a folder that was made for it.
  assert not path.exists()
  assert files.is_remote(path) or not path.parent.exists()
  claims.take(path).release()


@pytest.mark.parametrize("ending", [KeyError, KeyboardInterrupt, SystemExit])
def test_however_it_ends_it_is_released(path, ending):
  with pytest.raises(ending):
    with claims.held(path):
      (path.parent / "file").write_text("kept")
      raise ending
  assert os.listdir(path.parent) == ["file"]


def test_of_another_program_alive_and_dead(path, sleeper):
  _place(path, _record(
      process=sleeper.pid, start=claims._start_of(sleeper.pid)))
  with pytest.raises(claims.HeldError, match=f"process {sleeper.pid},"):
    claims.take(path)
  sleeper.kill()
  # Dead as soon as it ends, though its parent has not asked after it yet.
  _wait_until(lambda: not claims._start_of(sleeper.pid))
  claims.take(path).release()
  assert not path.exists()
  sleeper.wait()
  _place(path, _record(process=sleeper.pid, start=5))
  claims.take(path).release()


def test_a_number_that_is_used_again_is_another_program(path):
  _place(path, _record(start=claims._start_of(os.getpid()) - 1))
  with claims.held(path) as claim:
    assert _read(path)["token"] == claim.token


_KILLED = """
import sys, time
from latemask.runtime import signals
signals.listen()
from latemask.runtime import claims
from latemask.runtime import files
with claims.held(sys.argv[1], wait=bool(sys.argv[2:])):
  print("ready", flush=True)
  time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_stopped_and_killed(tmp_path, name):
  path = claims.inside(tmp_path / "run")
  with subprocess.Popen([sys.executable, "-c", _KILLED, path],
                        stdout=subprocess.PIPE) as program:
    assert program.stdout.readline() == b"ready\n"
    with pytest.raises(claims.HeldError, match=f"process {program.pid},"):
      claims.take(path)
    program.send_signal(getattr(signal, name))
  assert path.exists() == (name == "SIGKILL")
  claims.take(path).release()


# ---- On another


def test_another_host_that_is_alive(path, capsys):
  """It touches its claim while it is watched."""
  _place(path, _elsewhere())
  is_over = threading.Event()
  def touch():
    for beats in range(10**6):
      with files.writing(path) as part:
        part.write_text(json.dumps(_elsewhere(beats=beats)))
      if is_over.wait(0.02):
        return
  thread = threading.Thread(target=touch)
  thread.start()
  with pytest.raises(claims.HeldError, match="host far, process"):
    claims.take(path)
  is_over.set()
  thread.join()
  assert _read(path)["token"] == "other"
  line, = capsys.readouterr().out.splitlines()
  assert "host far" in line and "watching for 0.3 s" in line


@pytest.mark.parametrize("text", [
    json.dumps({"token": "t", "host": "far"}), "", "[1]",
    json.dumps({"token": 7}), "\x00\xff"])
def test_silent_or_damaged_is_watched_and_taken_over(tmp_path, text):
  path = claims.inside(tmp_path / "run")
  _place(path, text)
  begin_secs = time.monotonic()
  claim = claims.take(path)
  assert time.monotonic() - begin_secs >= 0.3
  assert _read(path)["token"] == claim.token
  claim.release()


def test_being_written_counts_as_alive(path):
  _place(path, json.dumps(_elsewhere())[:20])
  watch = claims.Watch(path)
  assert watch.take() is None and not watch.is_held
  _place(path, _elsewhere())
  assert watch.take() is None and watch.is_held
  assert "host far" in watch.holder


def test_released_while_it_is_watched(path):
  _place(path, _elsewhere())
  watch = claims.Watch(path)
  assert watch.take() is None
  path.unlink()
  claim = watch.take()
  assert claim.is_there() and watch.holder == ""
  claim.release()


def test_clocks_and_pauses_mean_nothing(path, monkeypatch):
  """Dates of files and hosts may lie years off; a watcher may be stopped."""
  _place(path, _elsewhere(since="1970"))
  watch = claims.Watch(path)
  assert watch.take() is None
  now_secs = time.monotonic()
  for years in (-30, 30, 0):
    then_secs = time.time() + years * 3e7
    os.utime(path, (then_secs, then_secs))
    monkeypatch.setattr(time, "time", lambda: then_secs)
    assert watch.take() is None and not watch.is_held
  # An hour in which nobody looked is a beat of silence, no more.
  monkeypatch.setattr(time, "monotonic", lambda: now_secs + 3600)
  assert watch.take() is None
  for beats in range(2, 20):
    monkeypatch.setattr(time, "monotonic", lambda: now_secs + 3600 * beats)
    claim = watch.take()
    if claim:
      break
  assert beats == 6 and claim.is_there()
  claim.release()


def test_its_own_clock_may_jump(path, monkeypatch):
  with claims.held(path) as claim:
    for years in (-30, 30):
      monkeypatch.setattr(time, "time", lambda: 1.8e9 + years * 3e7)
      _wait_for_beat(path)
      claim.check()


def _wait_for_beat(path):
  before = _read(path)["beats"]
  _wait_until(lambda: _read(path)["beats"] > before)


# ---- Fencing


@pytest.mark.parametrize("text", [None, json.dumps(_elsewhere())])
def test_a_claim_that_is_lost_keeps_nothing_more(path, text):
  """Another took it over, or did and has ended since."""
  with pytest.raises(claims.HeldError) as lost:
    with claims.held(path) as claim:
      claim.notice()
      path.unlink() if text is None else _place(path, text)
      with pytest.raises(claims.HeldError):
        claim.check()
      assert claim.is_lost
      claim.notice()
  assert "is not this program's any more" in str(lost.value)
  # Neither a beat nor the release touched what is another's.
  assert (path.read_text() if path.exists() else None) == text


def test_a_beat_finds_out_as_well(path):
  with claims.held(path) as claim:
    _wait_for_beat(path)
    _place(path, _elsewhere())
    _wait_until(lambda: claim.is_lost)
  assert _read(path) == _elsewhere()


def test_a_holder_puts_a_damaged_claim_right(path):
  with claims.held(path) as claim:
    _place(path, "{")
    claim.check()
    _wait_until(claim.is_there)


def test_another_process_of_the_run_checks_the_same_claim(path):
  with claims.held(path) as claim:
    other = claims.Claim(path, claim.token)
    other.check()
    _place(path, _elsewhere())
    with pytest.raises(claims.HeldError):
      other.check()


# ---- Several at once


@pytest.mark.parametrize("before", [None, _elsewhere()])
def test_of_several_at_once_one_wins(path, before):
  """None there, or one that is silent; on one host all else are refused."""
  if before:
    _place(path, before)
  barrier, found = threading.Barrier(6), []
  def contend():
    barrier.wait()
    try:
      found.append(claims.take(path))
    except claims.HeldError:
      found.append(None)
  threads = [threading.Thread(target=contend) for _ in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  claim, = filter(None, found)
  assert claim.is_there() and len(found) == 6
  claim.release()


def test_without_links(tmp_path, monkeypatch):
  """A file system that knows none: written, and read again."""
  def link(*_):
    raise PermissionError("no links")
  monkeypatch.setattr(os, "link", link)
  path = claims.inside(tmp_path / "run")
  with claims.held(path):
    assert os.listdir(path.parent) == ["claim.json"]
    with pytest.raises(claims.HeldError):
      claims.take(path)


def test_waiting_for_another(path, sleeper, capsys):
  _place(path, _record(
      process=sleeper.pid, start=claims._start_of(sleeper.pid)))
  threading.Timer(0.2, sleeper.kill).start()
  with claims.held(path, wait=True) as claim:
    assert claim.is_there()
  line, = capsys.readouterr().out.splitlines()
  assert f"process {sleeper.pid}," in line and "waiting for its end" in line


def test_waiting_ends_with_ctrl_c(tmp_path):
  with claims.held(claims.inside(tmp_path / "rows")) as claim:
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, claim.path, "wait"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
      assert b"waiting for its end" in program.stdout.readline()
      program.send_signal(signal.SIGINT)
    assert program.returncode == 130
    claim.check()


# ---- The exit code


def test_exit_code_is_a_wrong_input_or_what_the_launcher_wants(monkeypatch):
  monkeypatch.delenv(claims.CODE_VARIABLE, raising=False)
  assert claims.HeldError("x").code == errors.InputError.code == 2
  monkeypatch.setenv(claims.CODE_VARIABLE, "6")
  with pytest.raises(SystemExit) as ended, errors.one_line_exit():
    raise claims.HeldError("x")
  assert ended.value.code == 6


def test_where_the_claim_lies():
  assert str(claims.inside("gs://b/run")) == "gs://b/run/claim.json"
  assert str(claims.beside("gs://b/run/")) == "gs://b/run.claim"
  assert str(claims.beside("out/lr=1e-3")) == "out/lr=1e-3.claim"
  for here in (".", "./", "a/.."):
    assert str(claims.beside(here)) == f"{os.path.realpath('.')}.claim"
  for path in (claims.inside("a/b=0.5"), claims.beside("a/b=0.5")):
    assert str(claims._folder(path)) == "a/b=0.5"
