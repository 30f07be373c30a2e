#!/usr/bin/env bash
# What launch/tpu_vm.sh asks of each worker; it lies there in ~/latemask.
#
#   tpu_worker.sh install         the Python environment, with jax[tpu]
#   tpu_worker.sh start CMD...    run CMD from here on, whoever logs out
#   tpu_worker.sh poll            running, exit N, gone (died with the machine,
#                                 or was killed) or idle (nothing was started)
#   tpu_worker.sh logs N [-F]     the last N lines of its output
#   tpu_worker.sh stop            SIGTERM; SIGKILL after STOP_SECS (120)
#
# At most one command runs at a time: it, and all that it starts, hold a lock
# on runs/worker/lock. A lock ends with its holders, so neither a reboot nor a
# process number that is used again can make a dead command look alive.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
run="$root/runs/worker"
worker=${HOSTNAME:-$(hostname)}

usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { echo "launch/tpu_worker.sh on $worker: $*" >&2; exit 2; }
say() { echo "worker $worker: $*"; }
running() { [ -e "$run/lock" ] && ! flock --nonblock "$run/lock" true; }

# A fresh machine updates itself at first and holds apt's locks meanwhile; of
# those on its lists apt-get itself waits for none.
apt() {
  local tries=60 said
  until said=$(sudo apt-get --quiet "$@" 2>&1); do
    { [[ $said == *"get lock"* ]] && [ $((tries -= 1)) -gt 0 ]; } ||
      { echo "$said" >&2; return 1; }
    sleep 10
  done
}

install() {
  # Ubuntu 22.04, which most runtime versions are, has 3.10 as its python3.
  if ! bash "$root/launch/local.sh" --python > /dev/null 2>&1; then
    apt update
    apt --yes install python3.11 python3.11-venv
  fi
  bash "$root/launch/local.sh" python -m pip install --quiet \
    --disable-pip-version-check -r "$root/requirements.txt" "jax[tpu]"
  say installed
}

start() {
  [ $# -gt 0 ] || fail "start what?"
  mkdir -p "$run"
  local line
  line=$(printf '%q ' "$@")
  # 8, because local.sh closes its 9.
  exec 8>> "$run/lock"
  if ! flock --nonblock 8; then
    # ssh may deliver a command twice, and a watcher may come back to its run.
    [ "$(cat "$run/command")" = "$line" ] ||
      fail "another command is running: $(cat "$run/command")"
    say "running already"
    return
  fi
  rm -f "$run/exit" "$run/pid"
  echo "$line" > "$run/command"
  # A session of its own: no terminal and no ssh to be hung up with.
  setsid bash "$root/launch/tpu_worker.sh" supervise "$@" \
    < /dev/null >> "$run/log" 2>&1 &
  say started
}

supervise() {
  echo $$ > "$run/pid"
  # SIGTERM is for the command, which saves and ends; this waits for its code.
  trap : TERM INT
  echo "$(date -u +%FT%TZ) $(cat "$run/command")"
  local code=0
  # Of a workdir that another program holds: other than 2, which no second try
  # mends. What held it may be dead, and is known to be a minute later.
  LATEMASK_HELD_CODE=6 bash "$root/launch/local.sh" "$@" || code=$?
  echo "$(date -u +%FT%TZ) exit $code"
  echo "$code" > "$run/exit.new"
  mv "$run/exit.new" "$run/exit"
}

poll() {
  if running; then say running
  elif [ -e "$run/exit" ]; then say "exit $(cat "$run/exit")"
  elif [ -e "$run/command" ]; then say gone
  else say idle; fi
}

logs() {
  [ -e "$run/log" ] || fail "there is no log; nothing was started"
  tail -n "${1:-50}" ${2:+"$2"} "$run/log" |
    sed --unbuffered "s/^/${worker##*-w-}: /"
}

stop() {
  if running; then
    local group="" tries=$((${STOP_SECS:-120} * 2))
    # What was just started has not said its number yet.
    until group=$(cat "$run/pid" 2> /dev/null) && [ -n "$group" ]; do
      { running && [ $((tries -= 1)) -gt 0 ]; } || { poll; return; }
      sleep 0.5
    done
    kill -TERM -- "-$group" 2> /dev/null || true
    while running && [ $((tries -= 1)) -gt 0 ]; do sleep 0.5; done
    ! running || kill -KILL -- "-$group" 2> /dev/null || true
    say stopped
  fi
  poll
}

# setup replaces the files under a running command otherwise.
idle() { ! running || fail "a command is running; stop it first"; }

case "${1:-}" in
  install|start|supervise|poll|logs|stop|idle) cd "$root"; "$@";;
  -h|--help) usage;;
  *) usage >&2; exit 2;;
esac
