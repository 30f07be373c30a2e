"""launch/tpu_vm.sh against a gcloud that is not there, and launch/jobset.yaml.

The fake gcloud logs what it is asked. Its workers are folders that stand for
their homes: scp copies into them, and ssh runs the command there with bash, so
that launch/tpu_worker.sh is the real one.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from latemask.runtime import claims
from tests import conftest

ROOT = conftest.ROOT
WHERE = ["--project=p", "--zone=z", "--quiet"]
SLICE = ["--project", "p", "--zone", "z", "--name", "n"]
KIND = ["--type", "v4-16", "--version", "tpu-ubuntu2204-base"]

# Under FAKE: state.json {"queued": ..., "node": ...} as describe tells it (a
# list: one item a call, the last stays), log.jsonl, workers/K/, and falls-K,
# which asks for another state: once all workers do, what runs there dies and
# the next describe says why, both in one moment.
GCLOUD = '''#!%(python)s -IS
import glob, json, os, sys
fake, argv = os.environ["FAKE"], sys.argv[1:]
with open(fake + "/log.jsonl", "a") as log:
  log.write(json.dumps(argv) + "\\n")
with open(fake + "/state.json") as file:
  state = json.load(file)

def save(**changes):
  with open(fake + "/state.json", "w") as file:
    json.dump(state | changes, file)

def flag(name):
  return next(a for a in argv if a.startswith(name + "=")).split("=", 1)[1]

workers = sorted(os.listdir(fake + "/workers"))
kind, verb = argv[2:4]
falls = glob.glob(fake + "/falls-?")
if (kind, verb, len(falls)) == ("queued-resources", "describe", len(workers)):
  for path in falls:
    with open(path) as file:
      key, found, *processes = file.read().split()
    for process in processes:
      os.kill(int(process), 9)  # No exit code is left.
    os.remove(path)
  state[key] = found
  save()
if verb == "describe":
  key = "queued" if kind == "queued-resources" else "node"
  found = state[key]
  if isinstance(found, list):
    found, *rest = found
    save(**{key: rest or [found]})
  if found == "DENIED":
    sys.exit("ERROR: (gcloud) PERMISSION_DENIED: no")
  if found == "MISSING":
    sys.exit("ERROR: (gcloud) NOT_FOUND: Resource 'n' was not found.")
  print(found)
elif verb == "create":
  if "quota" in state:
    sys.exit("ERROR: (gcloud) RESOURCE_EXHAUSTED")
  save(**state["created"])
elif verb == "delete":
  save(queued="MISSING", node="MISSING")
  for worker in workers:
    home = f"{fake}/workers/{worker}"
    os.rename(home, f"{fake}/deleted{os.getpid()}{worker}")
    os.mkdir(home)
else:
  import shutil, subprocess
  codes = []
  for worker in workers:
    if flag("--worker") not in ("all", worker):
      continue
    print(f"SSH: Attempting to connect to worker {worker}...", file=sys.stderr)
    home = f"{fake}/workers/{worker}"
    if verb == "scp":
      shutil.copy(argv[4], home + "/" + argv[5].split(":")[1])
      continue
    code = subprocess.run(
        ["bash", "-c", flag("--command")], cwd=home,
        env=os.environ | {"HOSTNAME": "t1v-n-w-" + worker}).returncode
    if code:
      print(f"##### Command execution on worker {worker} failed with exit "
            f"status {code}. Continuing.", file=sys.stderr)
      codes.append(code)
  sys.exit(codes[0] if codes else 0)
'''

# In place of local.sh: no environment, and a pip that has nothing to do.
LOCAL = '''[ "$1" != --python ] || exit "${PYTHON_CODE:-0}"
echo "$0 $*" >> "$FAKE/local.txt"
case "$*" in *"pip install"*) exit "${PIP_CODE:-0}";; esac
exec "$@"
'''

# Nothing is installed on the machine of the tests.
SUDO = '''#!/bin/sh
echo "$*" >> "$FAKE/sudo.txt"
[ "$(wc -l < "$FAKE/sudo.txt")" -gt "${LOCKED:-0}" ] || {  # By an update.
  echo "E: Could not get lock /var/lib/apt/lists/lock." >&2
  exit 100
}
'''

# Waits are written down, not waited for.
SLEEP = '''#!/bin/sh
echo "$1" >> "$FAKE/sleeps.txt"
exec /bin/sleep 0.03
'''


class Cloud:
  """A repository to launch from, and the slice that it launches on."""

  def __init__(self, folder):
    self.fake = folder / "fake"
    self.repository = folder / "repository"
    for worker in ("0", "1"):
      (self.fake / "workers" / worker).mkdir(parents=True)
    (self.fake / "bin").mkdir()
    for name, text in (("gcloud", GCLOUD % {"python": sys.executable}),
                       ("sleep", SLEEP), ("sudo", SUDO)):
      (self.fake / "bin" / name).write_text(text)
      (self.fake / "bin" / name).chmod(0o755)
    (self.repository / "launch").mkdir(parents=True)
    for name in ("tpu_vm.sh", "tpu_worker.sh"):
      shutil.copy(ROOT / "launch" / name, self.repository / "launch")
    (self.repository / "launch" / "local.sh").write_text(LOCAL)
    (self.repository / "requirements.txt").write_text("# nothing\n")
    for command in (["init", "-q", "--template="], ["add", "."],
                    ["-c", "user.name=n", "-c", "user.email=e", "commit",
                     "-qm", "all"]):
      subprocess.run(["git", *command], cwd=self.repository, check=True)
    self.set(queued="ACTIVE", node="READY")

  def set(self, **state):
    state = {"created": {"queued": "ACTIVE", "node": "READY"}} | state
    (self.fake / "state.json").write_text(json.dumps(state))

  def __call__(self, *arguments, **environment):
    path = f"{self.fake / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(self.repository / "launch" / "tpu_vm.sh"), *arguments],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        env=os.environ | {"PATH": path, "FAKE": str(self.fake),
                          "STOP_SECS": "20"} | environment)

  def set_up(self):
    done = self("setup", *SLICE)
    assert done.returncode == 0, done.stderr
    (self.fake / "log.jsonl").unlink()

  def log(self):
    log = self.fake / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line) for line in lines]

  def verbs(self):
    """What was asked, in short: create, delete, scp, ssh start, ..."""
    verbs = []
    for argv in self.log():
      command = argv[-1].split()
      verbs.append(f"ssh {command[2]}" if argv[-1].startswith("--command=bash")
                   else "ssh setup" if argv[3] == "ssh" else argv[3])
    return [verb for verb in verbs if verb != "describe"]

  def sleeps(self):
    """Seconds that tpu_vm.sh would have slept (the worker's are 0.5)."""
    return [int(line) for line in
            (self.fake / "sleeps.txt").read_text().split() if line != "0.5"]

  def worker(self, number):
    return self.fake / "workers" / str(number) / "latemask"

  def wait(self, number, name="exit"):
    """Returns what a worker left in runs/worker/NAME, once it is there."""
    path = self.worker(number) / "runs" / "worker" / name
    for _ in range(500):
      if path.exists() and path.read_text().endswith("\n"):
        return path.read_text().strip()
      time.sleep(0.01)
    raise AssertionError(f"no {path}")


@pytest.fixture
def cloud(tmp_path):
  cloud = Cloud(tmp_path)
  yield cloud
  # Commands that run on, on machines that were deleted or in tests that failed.
  for path in cloud.fake.glob("**/runs/worker/pid"):
    pid = int(path.read_text())
    line = pathlib.Path(f"/proc/{pid}/cmdline")
    if line.exists() and str(tmp_path) in line.read_text():
      os.killpg(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
  """One for all tests that reach no gcloud."""
  return Cloud(tmp_path_factory.mktemp("cloud"))


@pytest.mark.parametrize("line, message", [
    ("", ""),
    ("fly", "no such command: fly"),
    ("status", "--project is missing"),
    ("status --project p", "--zone is missing"),
    ("status --project p --zone z", "--name is missing"),
    ("create --project p --zone z --name n", "--type is missing"),
    ("create --project p --zone z --name n --type t", "--version is missing"),
    ("run --keep --project p --zone z --name n -- true", "--type is missing"),
    ("run --project p --zone z --name n", "run what?"),
    ("run --project p --zone z --name n --", "run what?"),
    ("run --project p --zone z --name n true", "unexpected argument true"),
    ("stop --project p --zone z --name n -- true", "stop takes no command"),
    ("status --project p --zone z --name N", "--name N"),
    ("status --project p --zone z --name n --what", "status takes no --what"),
    ("status --project p --zone z --name n --spot", "status takes no --spot"),
    ("status --project p --zone z --name n --=", "status takes no --"),
    ("status -p p", "unexpected argument -p"),
    ("status --project", "--project needs a value"),
    ("status --project --zone z", "--project needs a value"),
    ("status --project= --zone z", "--project needs a value"),
    ("create --spot=yes", "--spot takes no value"),
    ("logs --project p --zone z --name n --worker x", "--worker x"),
    ("logs --project p --zone z --name n --lines x", "--lines x"),
    ("run --keep --restarts -1 --project p --zone z --name n --type t "
     "--version v -- true", "--restarts -1"),
])
def test_refusals(untouched, line, message):
  done = untouched(*line.split())
  assert done.returncode == 2
  if line:
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
  else:
    assert "create --project" in done.stderr
  assert not untouched.log()


def test_no_gcloud_no_repository_and_help(cloud, tmp_path):
  for line in (["--help"], ["-h"], ["run", "--help"]):
    helped = cloud(*line)
    assert helped.returncode == 0 and "--dry_run" in helped.stdout
    assert "set -euo" not in helped.stdout
  bare = tmp_path / "bare"
  bare.mkdir()
  for tool in ("bash", "dirname", "sed", "git"):
    (bare / tool).symlink_to(shutil.which(tool))
  done = cloud("status", *SLICE, PATH=str(bare))
  assert done.returncode == 2 and "no gcloud on PATH" in done.stderr
  shutil.rmtree(cloud.repository / ".git")
  done = cloud("setup", *SLICE)
  assert done.returncode == 2 and "no git repository" in done.stderr


def test_dry_run_prints_what_a_run_does(cloud):
  cloud.set_up()
  for line in (["create", *SLICE, *KIND, "--spot"], ["status", *SLICE],
               ["logs", *SLICE], ["delete", *SLICE],
               ["run", "--keep", *SLICE, *KIND, "--", "echo", "a b"],
               ["setup", *SLICE], ["run", *SLICE, "--", "echo", "a b"],
               ["stop", *SLICE]):
    done = cloud(line[0], "--dry_run", *line[1:])
    assert done.returncode == 0, done.stderr
    assert not cloud.log() and not (cloud.fake / "sleeps.txt").exists()
    # Printed lines are shell: a gcloud that prints gets the words from them.
    words = subprocess.run(
        ["bash", "-c", "gcloud() { printf '%s\\0' \"$@\" ''; }\ngit() { :; }\n"
         + done.stdout], capture_output=True, text=True, check=True).stdout
    printed = [command.split("\0") for command in words.split("\0\0")[:-1]]
    assert printed
    cloud(*line)
    # The archive lies in a folder of its own each time.
    ran, printed = (
        [[re.sub("^/.*/(?=latemask.tar.gz$)", "", a) for a in argv]
         for argv in argvs] for argvs in (cloud.log(), printed))
    assert [argv for argv in ran if argv not in printed] == []
    if "--keep" in line:  # This slice was missing, so none was deleted.
      ran.append(printed[0])
    elif line[0] == "run":  # Whatever comes next finds it ended.
      cloud.wait(1)
    assert [argv for argv in printed if argv not in ran] == []
    for name in ("log.jsonl", "sleeps.txt"):
      (cloud.fake / name).unlink(missing_ok=True)


def test_create_waits_until_it_stands(cloud):
  cloud.set(created={
      "queued": ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
      "node": ["CREATING", "READY"]})
  done = cloud("create", *SLICE, *KIND, "--spot", "--network=net",
               "--subnetwork", "sub")
  assert done.returncode == 0, done.stderr
  assert cloud.log()[0] == [
      "compute", "tpus", "queued-resources", "create", "n", "--node-id=n",
      *WHERE, "--accelerator-type=v4-16",
      "--runtime-version=tpu-ubuntu2204-base", "--spot", "--network=net",
      "--subnetwork=sub"]
  describe = ["describe", "n", *WHERE]
  assert cloud.log()[1] == ["compute", "tpus", "queued-resources", *describe,
                            "--format=value(state.state)"]
  assert cloud.log()[-1] == ["compute", "tpus", "tpu-vm", *describe,
                             "--format=value(state)"]
  assert cloud.sleeps() == [15, 30, 60]
  for state in ("PROVISIONING", "CREATING", "READY"):
    assert state in done.stderr
  cloud.set(created={"queued": ["PROVISIONING", "FAILED"], "node": "MISSING"})
  failed = cloud("create", *SLICE, *KIND)
  assert failed.returncode == 1 and "cannot be had" in failed.stderr
  assert "--spot" not in cloud.log()[-3]


def test_setup_copies_the_commit_and_installs(cloud):
  stale = cloud.worker(1) / "stale.py"
  for kept in (".venv/pip", "runs/worker/log", "exported/m", "report-1/r",
               "stale.py"):
    (cloud.worker(1) / kept).parent.mkdir(parents=True, exist_ok=True)
    (cloud.worker(1) / kept).write_text("")
  (cloud.repository / "uncommitted.py").write_text("")
  done = cloud("setup", *SLICE, "--prepare", "echo \"it's  $PWD\" > prepared")
  assert done.returncode == 0, done.stderr
  assert "uncommitted changes are not sent" in done.stderr
  scp, ssh = cloud.log()
  assert scp[:4] == ["compute", "tpus", "tpu-vm", "scp"]
  assert scp[5:] == ["n:latemask.tar.gz", *WHERE, "--worker=all"]
  assert ssh[:-1] == ["compute", "tpus", "tpu-vm", "ssh", "n", *WHERE,
                      "--worker=all"]
  assert not os.path.exists(scp[4])  # The archive is cleaned up.
  for worker in (0, 1):
    home = cloud.worker(worker).parent
    assert (home / "latemask" / "launch" / "tpu_worker.sh").exists()
    assert not (home / "latemask" / "uncommitted.py").exists()
    assert (home / "prepared").read_text() == f"it's  {home}\n"
  assert not stale.exists()
  for kept in (".venv/pip", "runs/worker/log", "exported/m", "report-1/r"):
    assert (cloud.worker(1) / kept).exists()
  installed = (cloud.fake / "local.txt").read_text().splitlines()
  assert len(installed) == 2
  assert all(line.endswith("requirements.txt jax[tpu]") for line in installed)
  assert not (cloud.fake / "sudo.txt").exists()
  # No Python that will do: each worker installs Ubuntu's.
  assert cloud("setup", *SLICE, PYTHON_CODE="2", LOCKED="3").returncode == 0
  asked = (cloud.fake / "sudo.txt").read_text()
  assert asked.count("install python3.11 python3.11-venv\n") == 2
  assert asked.count(" update\n") == 5 and cloud.sleeps() == [10] * 3
  failed = cloud("setup", *SLICE, PIP_CODE="5")
  assert failed.returncode == 5
  assert "launch/tpu_vm.sh: worker 1: exit status 5" in failed.stderr


AWKWARD = ["two  words", "it's", 'say "so"', "$HOME `id` \\", "a\nb", "", "*",
           "--flag=é;|&", "#", "~", "!!"]
SHOW = "import json, sys; open('got.json', 'w').write(json.dumps(sys.argv[1:]))"


def test_run_starts_the_same_words_on_all_workers(cloud):
  cloud.set_up()
  done = cloud("run", *SLICE, "--", sys.executable, "-c", SHOW, *AWKWARD)
  assert done.returncode == 0, done.stderr
  ssh, = cloud.log()
  assert ssh[:-1] == ["compute", "tpus", "tpu-vm", "ssh", "n", *WHERE,
                      "--worker=all"]
  assert ssh[-1].startswith("--command=bash latemask/launch/tpu_worker.sh "
                            "start ")
  for worker in (0, 1):
    assert cloud.wait(worker) == "0"
    got = json.loads((cloud.worker(worker) / "got.json").read_text())
    assert got == AWKWARD
  assert "/launch/local.sh " + sys.executable in (
      cloud.fake / "local.txt").read_text()


def test_run_outlives_ssh_and_stop_lets_it_save(cloud):
  cloud.set_up()
  program = ("import pathlib, signal, sys, time\n"
             "def save(*_):\n"
             "  time.sleep(.3)\n  print('saved', flush=True)\n  sys.exit(143)\n"
             "signal.signal(signal.SIGTERM, save)\n"
             "signal.signal(signal.SIGHUP, lambda *_: print('hung', 'up'))\n"
             "print('stepping', flush=True)\n"
             "pathlib.Path('ready').touch()\n"
             "while True: time.sleep(.02)\n")
  line = ["run", *SLICE, "--", sys.executable, "-c", program]
  assert cloud(*line).returncode == 0
  try:
    for worker in (0, 1):
      for _ in range(500):
        if (cloud.worker(worker) / "ready").exists():
          break
        time.sleep(0.01)
      pid = int(cloud.wait(worker, "pid"))
      assert os.getsid(pid) == pid  # No terminal, no ssh session.
    # The same again changes nothing; another is refused.
    again = cloud(*line)
    assert again.returncode == 0 and "running already" in again.stdout
    assert int(cloud.wait(1, "pid")) == pid
    other = cloud("run", *SLICE, "--", "true")
    assert other.returncode == 2
    assert "another command is running" in other.stderr
    assert "worker 1: exit status 2" in other.stderr
    refused = cloud("setup", *SLICE)
    assert refused.returncode == 2 and "stop it first" in refused.stderr
    status = cloud("status", *SLICE)
    assert status.returncode == 0, status.stderr
    assert "node READY" in status.stdout
    assert status.stdout.count(": running\n") == 2
    logs = cloud("logs", *SLICE, "--lines", "1")
    assert logs.stdout.splitlines() == ["0: stepping", "1: stepping"]
    one = cloud("logs", *SLICE, "--worker", "1")
    assert cloud.log()[-1][-2] == "--worker=1"
    assert "0: " not in one.stdout and "1: stepping" in one.stdout
  finally:
    stopped = cloud("stop", *SLICE)
  assert stopped.returncode == 0, stopped.stderr
  assert stopped.stdout.count(": exit 143\n") == 2
  assert "saved" in cloud("logs", *SLICE).stdout
  assert "hung up" not in cloud("logs", *SLICE).stdout
  status = cloud("status", *SLICE)
  assert status.returncode == 1  # 143 is no success.


def test_one_worker_that_does_not_start_is_named(cloud):
  cloud.set_up()
  shutil.rmtree(cloud.worker(1))
  done = cloud("run", *SLICE, "--", "true")
  assert done.returncode == 127
  assert done.stderr.splitlines()[-1] == (
      "launch/tpu_vm.sh: worker 1: exit status 127")
  assert cloud.wait(0) == "0"  # The other was not held up.


def test_status_of_what_is_gone(cloud):
  for state, word in ((dict(queued="MISSING", node="MISSING"), "MISSING"),
                      (dict(queued="SUSPENDED", node="MISSING"), "SUSPENDED"),
                      (dict(queued="ACTIVE", node="PREEMPTED"), "PREEMPTED"),
                      (dict(queued="DENIED", node="DENIED"), "gcloud failed")):
    cloud.set(**state)
    done = cloud("status", *SLICE)
    assert done.returncode == 1 and word in done.stdout
  assert "PERMISSION_DENIED" in done.stderr
  assert cloud("delete", *SLICE).returncode == 0
  assert cloud.log()[-1] == ["compute", "tpus", "queued-resources", "delete",
                             "n", *WHERE, "--force"]


# ---- run --keep

KEEP = ["run", "--keep", *SLICE, *KIND]
LIFE = ["scp", "ssh setup", "ssh start"]

# Each start of a worker's command takes the next word of its plan: an exit
# code, `held` by another program, or a state that the slice falls into while it
# runs on all workers.
PLAN = '''
import os, pathlib, sys, time
fake, worker = pathlib.Path(os.environ["FAKE"]), os.environ["HOSTNAME"][-1]
path = fake / ("plan" + worker)
word, *rest = path.read_text().split()
path.write_text(" ".join(rest or [word]))
if word == "held":
  word = os.environ["LATEMASK_HELD_CODE"]
if word.isdigit():
  sys.exit(int(word))
if word != "hang":
  new = fake / ("new" + worker)
  new.write_text(f"{word.replace('=', ' ')} {os.getppid()} {os.getpid()}")
  new.rename(fake / ("falls-" + worker))
while True:
  time.sleep(.02)
'''


def _keep(cloud, *plans, options=()):
  for worker, plan in enumerate(plans):
    (cloud.fake / f"plan{worker}").write_text(plan)
  return cloud(*KEEP, *options, "--", sys.executable, "-S", "-c", PLAN)


def test_keep_makes_what_is_missing_and_ends_with_the_command(cloud):
  cloud.set(queued="MISSING", node="MISSING")
  done = _keep(cloud, "0", "0")
  assert done.returncode == 0, done.stderr
  verbs = cloud.verbs()
  assert verbs[:4] == ["create", *LIFE]
  assert set(verbs[4:-1]) == {"ssh poll"} and verbs[-1] == "ssh stop"
  assert set(cloud.sleeps()) == {30}  # Between polls; none was in vain.


@pytest.mark.slow
def test_keep_creates_a_lost_slice_anew(cloud):
  cloud.set_up()
  falls = ["queued=SUSPENDED", "queued=FAILED", "node=PREEMPTED",
           "node=TERMINATED", "queued=MISSING"]
  plan = " ".join([*falls, "0"])
  # No restart is allowed: none is used up by the machines that go.
  done = _keep(cloud, plan, plan, options=["--restarts", "0", "--spot"])
  assert done.returncode == 0, done.stderr
  verbs = [verb for verb in cloud.verbs() if verb != "ssh poll"]
  anew = ["create", *LIFE]
  assert verbs == ["ssh start", *["delete", *anew] * 4, *anew, "ssh stop"]
  starts = [argv for argv in cloud.log() if " start " in argv[-1]]
  assert all(argv == starts[0] for argv in starts)
  creations = [argv for argv in cloud.log() if argv[3] == "create"]
  assert all(argv == creations[0] and "--spot" in argv for argv in creations)
  assert [s for s in cloud.sleeps() if s > 30] == [60, 120, 240, 480]
  assert min(cloud.sleeps()) == 30


@pytest.mark.parametrize("code", [2, 3])
def test_keep_does_not_restart_what_no_restart_mends(cloud, code):
  cloud.set_up()
  # The other worker, which waits for the one that ended, is stopped.
  done = _keep(cloud, "hang", str(code))
  assert done.returncode == code, done.stderr
  assert f"w-1: exit {code}" in done.stderr
  verbs = cloud.verbs()
  assert verbs.count("ssh start") == 1 and verbs[-1] == "ssh stop"
  assert cloud.wait(0) == "143"


def test_keep_tries_again_what_another_program_holds(cloud):
  """Its own predecessor, perhaps, which is known to be dead a minute later."""
  cloud.set_up()
  done = _keep(cloud, "held held 0", "held held 0")
  assert done.returncode == 0, done.stderr
  assert cloud.verbs().count("ssh start") == 3
  assert "w-0: exit 6" in done.stderr


# Answers as a list of them says, one a poll.
ANSWER = """
case "$1" in poll)
  answers="$FAKE/answers-${HOSTNAME##*-}"
  echo "worker $HOSTNAME: $(head -n 1 "$answers")"
  sed -i 1d "$answers";;
esac
"""


@pytest.mark.parametrize("polls, code", [
    # One that falls may take others with it before the culprit has said why.
    ((["exit 134", "exit 134"], ["running", "exit 3"]), 3),
    ((["exit 134", "exit 134"], ["running", "running"]), 134),
    ((["exit 134"], ["exit 3"]), 3),
    ((["exit 2"], ["running"]), 2),
    ((["exit 0", "exit 0", "exit 0"], ["running", "running", "exit 0"]), 0),
    ((["exit 0", "exit 0", "exit 0"], ["running", "running", "exit 9"]), 9),
    ((["running", "running"], ["gone", "gone"]), 1),
    ((["gone"], ["gone"]), 1),
], ids=str)
def test_keep_judges_by_all_workers(cloud, polls, code):
  for worker, answers in enumerate(polls):
    script = cloud.worker(worker) / "launch" / "tpu_worker.sh"
    script.parent.mkdir(parents=True)
    script.write_text(ANSWER)
    (cloud.fake / f"answers-{worker}").write_text("\n".join(answers) + "\n")
  done = cloud(*KEEP, "--restarts", "0", "--", "true")
  assert done.returncode == code, done.stderr
  assert cloud.verbs().count("ssh poll") == len(polls[0])
  assert cloud.verbs()[-1] == "ssh stop"


def test_keep_replaces_a_slice_that_does_not_answer(cloud):
  cloud.set_up()
  script = cloud.worker(1) / "launch" / "tpu_worker.sh"
  script.write_text('''[ "$1" = poll ] || exit 0
echo "Failed to execute command on multiple workers. This may have happened if \
you have not added your SSH key to your ssh-agent." >&2
exit 255
''')
  done = _keep(cloud, "hang 0", "0")
  assert done.returncode == 0, done.stderr
  verbs = cloud.verbs()
  assert verbs[:12] == ["ssh start", *["ssh poll"] * 10, "delete"]
  assert [v for v in verbs[12:] if v != "ssh poll"] == [
      "create", *LIFE, "ssh stop"]


def test_keep_deletes_nothing_for_want_of_a_key(cloud):
  """The command runs on: that it cannot be asked is this machine's trouble."""
  cloud.set_up()
  script = cloud.worker(1) / "launch" / "tpu_worker.sh"
  script.write_text('''[ "$1" = poll ] || exit 0
echo >> "$FAKE/polls"
[ "$(wc -l < "$FAKE/polls")" -gt 15 ] && { echo "worker 1: exit 0"; exit; }
echo "user@1.2.3.4: Permission denied (publickey)." >&2
exit 255
''')
  done = _keep(cloud, "0", "0", options=["--restarts", "0"])
  assert done.returncode == 0, done.stderr
  assert "Permission denied" in done.stderr
  assert set(cloud.verbs()) == {"ssh start", "ssh poll", "ssh stop"}


def test_keep_starts_those_that_could_not_be_reached(cloud):
  """What runs on the others stays as it is."""
  cloud.set_up()
  script = cloud.worker(1) / "launch" / "tpu_worker.sh"
  worker = script.read_text()
  script.write_text('''if [ "$1" = start ] && ! [ -e "$FAKE/once" ]; then
  touch "$FAKE/once"
  exit 255
fi
''' + worker.partition("set -euo pipefail\n")[2])
  done = _keep(cloud, "0", "0", options=["--restarts", "1"])
  assert done.returncode == 0, done.stderr
  assert [v for v in cloud.verbs() if v != "ssh poll"] == [
      "ssh start", "ssh start", "ssh stop"]


@pytest.mark.slow
def test_keep_restarts_other_failures_so_often(cloud):
  cloud.set_up()
  done = _keep(cloud, "hang", "7", options=["--restarts", "1"])
  assert done.returncode == 7
  assert "giving up after 1 restarts" in done.stderr
  assert "w-1: exit 7" in done.stderr and "w-0" not in done.stderr.replace(
      "w-0: running", "")
  verbs = [verb for verb in cloud.verbs() if verb != "ssh poll"]
  assert verbs == ["ssh start", "ssh stop"] * 2
  assert [s for s in cloud.sleeps() if s > 30] == [60]
  # And then it goes well.
  done = _keep(cloud, "7 0", "0")
  assert done.returncode == 0, done.stderr


def test_keep_sets_up_a_worker_that_is_empty(cloud):
  done = _keep(cloud, "0", "0", options=["--restarts", "0"])
  assert done.returncode == 0, done.stderr
  assert [v for v in cloud.verbs() if v != "ssh poll"] == [
      "ssh start", "ssh stop", *LIFE, "ssh stop"]


@pytest.mark.parametrize("state", [
    dict(queued="MISSING", node="MISSING", quota=0),
    dict(queued="DENIED", node="DENIED")])
def test_keep_gives_up_and_waits_longer_and_longer(cloud, state):
  cloud.set(**state)
  done = _keep(cloud, "0", "0", options=["--restarts", "6"])
  assert done.returncode == 1
  assert cloud.sleeps() == [30, 60, 120, 240, 480, 600, 600]
  assert "delete" not in cloud.verbs() and "ssh start" not in cloud.verbs()


def test_keep_holds_on_while_gcloud_is_out_of_order(cloud):
  cloud.set_up()
  cloud.set(queued=["ACTIVE"] * 2 + ["DENIED"] * 3 + ["ACTIVE"],
            node=["READY", "REPAIRING", "READY"])
  done = _keep(cloud, "0", "0", options=["--restarts", "0"])
  assert done.returncode == 0, done.stderr
  assert not {"delete", "create"} & set(cloud.verbs())


# ---- Files

def test_shellcheck():
  shellcheck = shutil.which("shellcheck")
  if not shellcheck:
    pytest.skip("no shellcheck on PATH")
  subprocess.run([shellcheck, *map(str, (ROOT / "launch").glob("*.sh"))],
                 check=True)


def test_jobset():
  text = (ROOT / "launch" / "jobset.yaml").read_text()
  jobset = yaml.safe_load(text)
  assert (jobset["apiVersion"], jobset["kind"]) == (
      "jobset.x-k8s.io/v1alpha2", "JobSet")
  assert jobset["metadata"]["annotations"] == {
      "alpha.jobset.sigs.k8s.io/exclusive-topology":
          "cloud.google.com/gke-nodepool"}
  policy = jobset["spec"]["failurePolicy"]
  assert policy["maxRestarts"] > 0
  assert policy["rules"] == [{"action": "FailJobSet",
                              "onJobFailureReasons": ["PodFailurePolicy"]}]
  (replicated,) = jobset["spec"]["replicatedJobs"]
  assert replicated["replicas"] == 2
  job = replicated["template"]["spec"]
  assert job["backoffLimit"] == 0
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  assert job["podFailurePolicy"]["rules"] == [{
      "action": "FailJob",
      "onExitCodes": {"containerName": container["name"], "operator": "In",
                      "values": [2, 3]}}]
  assert pod["restartPolicy"] == "Never"
  selector = pod["nodeSelector"]
  assert selector["cloud.google.com/gke-tpu-accelerator"] == (
      "tpu-v5-lite-podslice")
  rows, columns = map(
      int, selector["cloud.google.com/gke-tpu-topology"].split("x"))
  chips = container["resources"]["limits"]["google.com/tpu"]
  assert container["resources"]["requests"]["google.com/tpu"] == chips
  assert job["parallelism"] == job["completions"] == rows * columns // chips
  # Held by another program is none of those that end it all.
  held, = container["env"]
  assert held["name"] == claims.CODE_VARIABLE
  assert int(held["value"]) not in (0, 2, 3)
  command = container["command"] + container["args"]
  assert command[:5] == ["bash", "launch/local.sh", "python", "-m",
                         "latemask.main"]
  assert "--distributed=tpu" in command
  assert (ROOT / command[command.index("--config") + 1]).exists()
  # The header's sed leaves no placeholder, as a reader would type it.
  start = text.index("sed -e")
  sed = text[start:text.index("| kubectl apply -f -")].replace("\n#", "\n")
  filled = subprocess.run(["bash", "-c", sed], cwd=ROOT, check=True,
                          capture_output=True, text=True).stdout
  assert "REPLACE_" in text
  assert "REPLACE_" not in json.dumps(yaml.safe_load(filled))
