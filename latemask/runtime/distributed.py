"""Start and end of a run of several processes, and what they agree on.

Who takes part comes from TPU metadata or from flags. Then a roll call: every
process tells process 0 that it is there, and each learns who is missing when
time is up. JAX is started only after that: it would abort without naming
anyone.

Source of the metadata: GKE sets TPU_WORKER_HOSTNAMES and TPU_WORKER_ID; a TPU
VM has worker-network-endpoints and agent-worker-number on its metadata server;
several slices add MEGASCALE_COORDINATOR_ADDRESS, _NUM_SLICES and _SLICE_ID.
"""

import contextlib
import dataclasses
import errno
import json
import os
import socket
import sys
import threading
import time
import traceback
import urllib.request
import zlib

import jax
from jax._src import distributed as jax_distributed
from jax.experimental import multihost_utils
import numpy as np

from latemask import errors
from latemask.runtime import signals

_PORT = 8476
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/"
# How long the others are waited for at the end, and may be silent before.
_END_SECS = 30
_SILENT_SECS = 60
# How much before that end a process goes that has an exit code to tell.
_EARLY_SECS = 5
# What is waited for ends with the processes, not with the time.
_FOREVER_SECS = 30 * 86400
_NAMES = "latemask/"


@dataclasses.dataclass(frozen=True)
class Team:
  """The processes of a run, and which of them this is.

  Fields:
    host, port: of process 0.
    num_processes, process_id: how many, and which.
    names: of the hosts, as far as they are known beforehand.
  """

  host: str
  port: int
  num_processes: int
  process_id: int
  names: tuple[str, ...] = ()


@contextlib.contextmanager
def together(spec, num_processes=None, process_id=None, start_secs=300):
  """Its body runs as one of several processes.

  Args:
    spec: off, tpu (from metadata) or HOST:PORT of process 0.
    num_processes, process_id: with HOST:PORT.
    start_secs: how long the processes wait for each other.

  Raises:
    InputError: the flags do not say who takes part, nor does metadata.
    MissingError: not all came in time; the message names the missing.
  """
  if spec in ("off", "tpu") and (num_processes, process_id) != (None, None):
    raise errors.InputError(
        "--num_processes and --process_id belong to --distributed=HOST:PORT, "
        f"and that is {spec}")
  if spec == "off":
    yield
    return
  team = _team(spec, num_processes, process_id)
  hosts = roll_call(team, start_secs)
  # It would take SIGTERM for itself, and hears no SIGINT.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
      f"{team.host}:{team.port}", team.num_processes, team.process_id,
      cluster_detection_method="deactivate",
      initialization_timeout=start_secs,
      heartbeat_timeout_seconds=_SILENT_SECS,
      shutdown_timeout_seconds=_END_SECS)
  signals.join(signals.Team(
      _Store(), team.process_id, team.num_processes))
  if team.process_id == 0:
    print(f"{len(hosts)} of {team.num_processes} processes are here: "
          + ", ".join(f"{i} {host}" for i, host in enumerate(hosts)),
          flush=True)
  try:
    yield
  # Also what ends all processes alike, such as a stop by a signal.
  except (errors.Ending, SystemExit) as ending:
    # JAX waits for the others. Where they know nothing of this end, and sit
    # in a collective, it raises or aborts the process when time is up, and
    # neither may take the place of the exit code.
    timer = threading.Timer(
        _END_SECS - _EARLY_SECS, os._exit, (ending.code,))
    timer.daemon = True
    timer.start()
    with contextlib.suppress(RuntimeError):
      jax.distributed.shutdown()
    timer.cancel()
    raise
  except BaseException:
    signals.wait_for_end()  # Others, told of it too, may have gone before.
    # The others are somewhere in a collective and will not come to an orderly
    # end: this process must not wait for them, and its end ends them.
    traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
  jax.distributed.shutdown()


def everywhere(holds):
  """Returns whether something holds on all processes, which all ask."""
  return bool(np.all(multihost_utils.process_allgather(np.bool_(holds))))


def is_same(text):
  """Returns whether all processes, which all ask, give the same text."""
  found = multihost_utils.process_allgather(
      np.uint32(zlib.crc32(text.encode())))
  return bool(np.all(found == found.flat[0]))


def from_first(text):
  """Returns, on all processes, the text of process 0: of 64 bytes at most."""
  sent_64 = np.frombuffer(text.encode().ljust(64, b"\0"), np.uint8)
  got_64 = np.asarray(multihost_utils.broadcast_one_to_all(sent_64))
  return got_64.tobytes().rstrip(b"\0").decode()


def share(items):
  """Returns those of the items that fall to this process."""
  return items[jax.process_index()::jax.process_count()]


def meet(name):
  """Returns once all processes have come here, be it hours later.

  In no collective, which does not wait for so long. `name` is used once.
  """
  if jax.process_count() > 1:
    _Store().meet(name, None)


class _Store:
  """The keys of JAX's coordination service; see `signals.Team`."""

  def set(self, key, text):
    """Sets a key, unless it is there."""
    try:
      _client().key_value_set(_NAMES + key, text)
    except jax.errors.JaxRuntimeError as error:
      if "ALREADY_EXISTS" not in str(error):
        raise

  def get(self, key, secs):
    """Waits for a key; returns its text."""
    return _client().blocking_key_value_get(
        _NAMES + key, 1000 * (secs or _FOREVER_SECS))

  def meet(self, key, secs):
    """Waits for all processes."""
    _client().wait_at_barrier(_NAMES + key, 1000 * (secs or _FOREVER_SECS))


def _client():
  # JAX has no public name for it; Orbax takes it from here, too.
  return jax_distributed.global_state.client


def _team(spec, num_processes, process_id):
  if spec == "tpu":
    return _tpu_team()
  host, colon, port = spec.rpartition(":")
  if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16):
    raise errors.InputError(
        f"--distributed is {spec!r}; give off, tpu or HOST:PORT of process 0")
  if num_processes is None or process_id is None:
    raise errors.InputError(
        f"--distributed={spec} needs --num_processes and --process_id")
  if not 0 <= process_id < num_processes:
    raise errors.InputError(
        f"--process_id is {process_id}; of --num_processes={num_processes} "
        f"it must be one of 0 to {num_processes - 1}")
  return Team(host, int(port), num_processes, process_id)


def _tpu_team():
  names = os.environ.get("TPU_WORKER_HOSTNAMES")
  worker = os.environ.get("TPU_WORKER_ID")
  if not names or worker is None:
    names = _metadata("attributes/worker-network-endpoints")
    worker = _metadata("attributes/agent-worker-number")
  # A host, or name:id:address of older TPU VMs.
  names = tuple(name.split(":")[-1].strip() for name in names.split(","))
  slices = int(os.environ.get("MEGASCALE_NUM_SLICES") or 1)
  process_id = int(worker) + len(names) * int(
      os.environ.get("MEGASCALE_SLICE_ID") or 0)
  host = (os.environ.get("MEGASCALE_COORDINATOR_ADDRESS")
          or names[0]).split(":")[0]
  return Team(host, _PORT, len(names) * slices, process_id,
              names if slices == 1 else ())


def _metadata(key):
  request = urllib.request.Request(
      _METADATA + key, headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(request, timeout=10) as response:
      return response.read().decode()
  except OSError as error:
    raise errors.InputError(
        f"--distributed=tpu: no TPU metadata ({key}: {error}); on other "
        "machines give HOST:PORT, --num_processes and --process_id") from error


def roll_call(team, secs):
  """Returns the host names of all processes, once all are there.

  Raises:
    MissingError: they did not all come within `secs`, or two have the same
      number.
  """
  deadline = time.monotonic() + secs
  answer = (_collect if team.process_id == 0 else _answer)(team, deadline)
  if "error" in answer:
    raise errors.MissingError(answer["error"])
  return answer["hosts"]


def _collect(team, deadline):
  """Process 0: waits for all others, and tells each of them the outcome."""
  hosts, others = {0: socket.gethostname()}, []
  problem = None
  with _server(team, deadline) as server:
    while len(hosts) < team.num_processes and not problem:
      server.settimeout(max(deadline - time.monotonic(), 0.001))
      try:
        connection, _ = server.accept()
      except TimeoutError:
        problem = _missing(team, hosts)
        break
      found = _receive(connection, 5)
      if found is None:  # Not one of us: a port scan, a health check.
        connection.close()
        continue
      others.append(connection)
      if found["num_processes"] != team.num_processes:
        problem = (f"process {found['process_id']} on {found['host']} expects "
                   f"{found['num_processes']} processes, process 0 "
                   f"{team.num_processes}")
      elif found["process_id"] in hosts:
        problem = (f"two processes have the number {found['process_id']}: on "
                   f"{hosts[found['process_id']]} and on {found['host']}")
      hosts[found["process_id"]] = found["host"]
    answer = {"error": problem} if problem else {
        "hosts": [hosts[i] for i in range(team.num_processes)]}
    for connection in others:
      with contextlib.suppress(OSError):
        connection.sendall(json.dumps(answer).encode() + b"\n")
    # They close first: else the port, which JAX wants next, stays taken.
    for connection in others:
      _receive(connection, 5)
      connection.close()
  return answer


def _server(team, deadline):
  """Returns a server at the port, which a run before may still have."""
  while True:
    try:
      return socket.create_server(("", team.port), backlog=team.num_processes)
    except OSError as error:
      if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
        raise errors.MissingError(
            f"process 0 cannot have port {team.port} of this host "
            f"({error.strerror})") from error
    time.sleep(0.2)


def _answer(team, deadline):
  """The others: tell process 0, and hear the outcome."""
  error = None
  while time.monotonic() < deadline:
    try:
      with socket.create_connection((team.host, team.port), 5) as connection:
        connection.sendall(json.dumps({
            "process_id": team.process_id, "host": socket.gethostname(),
            "num_processes": team.num_processes}).encode() + b"\n")
        # Process 0 has a deadline of its own, and may have come later.
        outcome = _receive(connection, 2 * (deadline - time.monotonic()) + 10)
      if outcome:
        return outcome
      error = "it hung up"
    except OSError as found:
      error = found
    time.sleep(0.2)
  return {"error": f"process 0 at {team.host}:{team.port} is missing: "
                   f"process {team.process_id} of {team.num_processes} could "
                   f"not reach it ({error})"}


def _receive(connection, secs):
  """Returns the object of a line; None where none comes."""
  connection.settimeout(max(secs, 0.001))
  try:
    with connection.makefile("rb") as file:
      found = json.loads(file.readline(1 << 20))
  except (OSError, ValueError):
    return None
  return found if isinstance(found, dict) else None


def _missing(team, hosts):
  missing = [f"{i} ({team.names[i]})" if team.names else str(i)
             for i in range(team.num_processes) if i not in hosts]
  return (f"{len(hosts)} of {team.num_processes} processes are here; missing: "
          + ", ".join(missing))


def say(text):
  """Prints a line of progress, on process 0 alone."""
  if jax.process_index() == 0:
    print(text, flush=True)
