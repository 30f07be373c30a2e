#!/usr/bin/env bash
# Trains on a TPU VM, or on all workers of a pod slice, by way of gcloud.
#
#   bash launch/tpu_vm.sh create --project P --zone Z --name N
#       --type v5litepod-16 --version v2-alpha-tpuv5-lite
#       [--spot] [--network NETWORK] [--subnetwork SUBNETWORK]
#   bash launch/tpu_vm.sh setup  --project P --zone Z --name N [--prepare CMD]
#   bash launch/tpu_vm.sh run    --project P --zone Z --name N -- CMD [ARG...]
#   bash launch/tpu_vm.sh run    --keep [--restarts 10] (all options of create
#       and setup) -- CMD [ARG...]
#   bash launch/tpu_vm.sh logs   --project P --zone Z --name N
#       [--worker K] [--lines 50] [--follow]
#   bash launch/tpu_vm.sh status|stop|delete --project P --zone Z --name N
#
# create  asks for a queued resource and waits until it stands; Ctrl-C ends
#         the waiting only.
# setup   copies the last commit (not what is uncommitted) to ~/latemask of
#         each worker and installs it with jax[tpu]; CMD of --prepare runs
#         before that, in each worker's home (mount a disk, ...).
# run     starts the same CMD on all workers, in ~/latemask and through
#         launch/local.sh, and returns; it goes on without ssh.
# --keep  stays and watches, and makes what is missing: a slice that was
#         preempted, suspended, failed or deleted is created and set up anew,
#         and CMD starts again (from its checkpoints: let --workdir be on
#         gs://). Ends with CMD's exit code: 0; 2 or 3, which no restart
#         mends; any other after --restarts restarts (6: another program
#         holds the workdir). Ctrl-C ends the watching only, and the same
#         line watches again.
# logs, status, stop, delete: of all workers; stop lets CMD save.
#
# --dry_run prints the commands and runs none. The project, zone and name have
# no defaults. Several workers are reached through ssh-agent: first type
#   ssh-add ~/.ssh/google_compute_engine
# Exit codes: 0; 2 what was given cannot be used; else gcloud's or CMD's.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
poll_secs=30       # Between looks at a slice that works.
first_wait_secs=30 # Before a second try; doubled with each that follows,
last_wait_secs=600 # up to this; a life longer than it begins anew.
most_misses=10     # Polls in a row that a slice may leave unanswered.
# What ssh and gcloud say where this machine has no key.
no_key='permission denied (publickey\|not present in the ssh agent'

usage() { sed -n '2,38s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
say() { echo "launch/tpu_vm.sh: $*" >&2; }
fail() { say "$*"; exit 2; }

# ---- Options. Each is a variable of its name; a flag is set or empty.

action=""
project="" zone="" name="" type="" version="" network="" subnetwork=""
prepare="" worker=all lines=50 restarts=10
spot="" keep="" follow="" dry_run=""
arguments=()  # of run: what stands behind --.

options_of() {
  case "$1" in
    create) echo "type version spot network subnetwork";;
    setup) echo "prepare";;
    run) echo "keep restarts prepare $(options_of create)";;
    logs) echo "worker lines follow";;
    status|stop|delete) ;;
    *) return 1;;
  esac
}

is_one_of() { case " $2 " in *" $1 "*) ;; *) return 1;; esac; }

parse() {
  case "${1:-}" in
    -h|--help) usage; exit 0;;
    "") usage >&2; exit 2;;
  esac
  local known option value
  action=$1
  known=$(options_of "$action") || fail "no such command: $action; see --help"
  known="project zone name dry_run $known"
  shift
  while [ $# -gt 0 ]; do
    case "$1" in
      -h|--help) usage; exit 0;;
      --) shift; arguments=("$@"); break;;
      --*) ;;
      *) fail "unexpected argument $1; see --help";;
    esac
    option=${1#--} value=1
    option=${option%%=*}
    { [[ $option =~ ^[a-z_]+$ ]] && is_one_of "$option" "$known"; } ||
      fail "$action takes no --$option; see --help"
    if is_one_of "$option" "spot keep follow dry_run"; then
      [ "$1" = "--$option" ] || fail "--$option takes no value"
    elif [ "$1" != "--$option" ]; then
      value=${1#*=}
    else
      shift
      value=${1:-}
    fi
    case "$value" in
      ""|--*) fail "--$option needs a value";;
    esac
    printf -v "$option" %s "$value"
    shift
  done
  check
}

check() {
  local needed="project zone name" option
  [ "$action" != create ] && [ -z "$keep" ] || needed="$needed type version"
  for option in $needed; do
    [ -n "${!option}" ] || fail "--$option is missing; see --help"
  done
  [[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    fail "--name $name: lower-case letters, digits and inner hyphens only"
  for option in lines restarts; do
    [[ ${!option} =~ ^[0-9]+$ ]] || fail "--$option ${!option}: not a number"
  done
  [[ $worker =~ ^(all|[0-9]+)$ ]] || fail "--worker $worker: a number or all"
  if [ "$action" = run ]; then
    [ ${#arguments[@]} -gt 0 ] || fail "run what? CMD stands behind --"
  elif [ ${#arguments[@]} -gt 0 ]; then
    fail "$action takes no command behind --"
  fi
  if [ "$action" = setup ] || [ -n "$keep" ]; then
    # Named once: what is set up days later is still what the run began with.
    commit=$(git -C "$root" rev-parse --verify HEAD 2> /dev/null) ||
      fail "setup sends the last commit, and $root is no git repository"
    [ -z "$(git -C "$root" status --porcelain 2> /dev/null)" ] ||
      say "uncommitted changes are not sent"
  fi
  [ -n "$dry_run" ] || command -v gcloud > /dev/null ||
    fail "no gcloud on PATH; see https://cloud.google.com/sdk/docs/install"
  where=(--project="$project" --zone="$zone" --quiet)
}

# ---- gcloud

# Runs a command, or prints it.
call() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@" < /dev/null
  fi
}

# Runs a gcloud command for all workers, and says which of them failed.
call_workers() {
  local code=0 named failed
  [ -z "$dry_run" ] || { call "$@"; return; }
  { call "$@" 2>&1 >&3 | tee "$scratch/errors" >&2; } 3>&1 || code=$?
  [ $code -ne 0 ] || return 0
  named='.*execution on \(worker [0-9]*\) failed with \(exit status [0-9]*\).*'
  sed -n "s/$named/\1: \2/p" "$scratch/errors" | sort -V |
    while read -r failed; do say "$failed"; done
  return $code
}

ssh_line() {  # ssh_line WORKER COMMAND
  ssh=(gcloud compute tpus tpu-vm ssh "$name" "${where[@]}"
       --worker="$1" --command="$2")
}

# Asks something of launch/tpu_worker.sh, everywhere. The words pass a shell
# there, and come out of it as they are.
ask() {
  ssh_line "$worker" \
    "bash latemask/launch/tpu_worker.sh$(printf ' %q' "$@")"
  call_workers "${ssh[@]}"
}

create() {
  call gcloud compute tpus queued-resources create "$name" --node-id="$name" \
    "${where[@]}" --accelerator-type="$type" --runtime-version="$version" \
    ${spot:+--spot} ${network:+"--network=$network"} \
    ${subnetwork:+"--subnetwork=$subnetwork"}
}

delete() {
  call gcloud compute tpus queued-resources delete "$name" "${where[@]}" \
    --force
}

setup() {
  local archive="$scratch/latemask.tar.gz" before="true"
  [ -z "$prepare" ] || before="bash -c $(printf %q "$prepare")"
  call git -C "$root" archive --format=tar.gz --output="$archive" "$commit" ||
    return
  call_workers gcloud compute tpus tpu-vm scp "$archive" \
    "$name:latemask.tar.gz" "${where[@]}" --worker=all || return
  # A second setup keeps the environment and what commands have written there
  # (.gitignore), and no other file that the commit has not.
  ssh_line all "set -e
worker=latemask/launch/tpu_worker.sh
if [ -e \$worker ]; then bash \$worker idle; fi
mkdir -p latemask
find latemask -mindepth 1 -maxdepth 1 \\
  ! -name '.venv*' ! -name runs ! -name exported ! -name 'report*' \\
  -exec rm -rf {} +
tar -xzf latemask.tar.gz -C latemask
$before
bash \$worker install"
  call_workers "${ssh[@]}"
}

# Prints the state of a queued-resources or tpu-vm, or MISSING.
describe() {
  local query=(gcloud compute tpus "$1" describe "$name" "${where[@]}"
               --format="value($2)")
  [ -z "$dry_run" ] || { call "${query[@]}"; return; }
  call "${query[@]}" 2> "$scratch/describe" && return
  if grep -qi 'not_found\|was not found' "$scratch/describe"; then
    echo MISSING
  else
    cat "$scratch/describe" >&2
    return 1
  fi
}

describe_both() {
  describe queued-resources state.state
  describe tpu-vm state
}

# Sets `condition` to ready, waiting, lost, missing or unknown (gcloud itself
# failed, which says nothing of the slice), and `state` to gcloud's words.
look() {
  condition=unknown state="unknown (gcloud failed)"
  local queued node
  queued=$(describe queued-resources state.state) || return 0
  state="queued resource $queued"
  case "$queued" in
    ACTIVE) ;;
    MISSING) condition=missing; return;;
    FAILED|SUSPENDED) condition=lost; return;;
    *) condition=waiting; return;;
  esac
  node=$(describe tpu-vm state) || { condition=unknown; return 0; }
  state="$state, node $node"
  case "$node" in
    READY) condition=ready;;
    PREEMPTED|TERMINATED|MISSING) condition=lost;;
    *) condition=waiting;;
  esac
}

# Waits until the slice stands; fails where that will not come.
await() {
  local told="" wait_secs=$((first_wait_secs / 2))
  [ -z "$dry_run" ] || { describe_both; return; }
  while look; do
    [ "$state" = "$told" ] || { say "$name: $state"; told=$state; }
    case "$condition" in
      ready) return;;
      lost|missing) return 1;;
    esac
    sleep $wait_secs
    wait_secs=$((wait_secs < 120 ? wait_secs * 2 : 120))
  done
}

# ---- run --keep
#
# A life: 1. a slice that is lost is deleted, one that is missing created;
# 2. what is new, or did not start last time, is set up; 3. the command starts
# on all workers (where it runs already, it stays); 4. it is watched until it
# ends or the slice is lost. `outcome` says how the life ended:
#   ended   with an exit `code` that is the last word: 0, 2 or 3
#   lost    the slice is gone: tried again, always
#   failed  the command, or setting it up: tried again, --restarts times in
#           all, but if the slice turns out to be gone, that was the reason
#   stuck   no slice could be had, or reached: tried again as well, and counted
#   bare    it stood, but nothing was set up there: tried again, once

live() {
  code=1 outcome=stuck
  look
  [ "$condition" != waiting ] || await || true
  case "$condition" in
    lost) say "$name: $state; deleting it"; delete || return 0;;
  esac
  case "$condition" in
    lost|missing)
      say "$name: creating it"
      set_up=""
      create && await || return 0;;
    unknown) return 0;;
  esac
  outcome=failed
  if [ -z "$set_up" ]; then
    setup || return 0
    set_up=1
  fi
  code=0
  ask start "${arguments[@]}" || code=$?
  case $code in
    0) watch;;
    2) outcome=ended;;
    127)  # An empty home. Where others have started, setup waits for their end.
      [ "$set_up" != unknown ] || outcome=bare
      ask stop > /dev/null 2>&1 || true
      set_up="";;
    *) ;;  # ssh: those that have started will say so.
  esac
}

watch() {
  local report misses=0 troubled="" told="" locked_out=""
  while true; do
    sleep $poll_secs
    look
    [ "$state" = "$told" ] || { say "$name: $state"; told=$state; }
    case "$condition" in
      lost|missing) outcome=lost; return;;
      waiting|unknown) continue;;  # Repairs, or gcloud without a network.
    esac
    if ! report=$(ask poll 2> "$scratch/poll") || [ -z "$report" ]; then
      # A key that this machine has no more says nothing of the slice.
      if grep -qi "$no_key" "$scratch/poll"; then
        [ -n "$locked_out" ] || cat "$scratch/poll" >&2
        locked_out=1
        continue
      fi
      # Ready, they say, and yet nobody there: then it is as good as lost.
      if [ $((misses += 1)) -ge $most_misses ]; then
        cat "$scratch/poll" >&2
        say "$name: no answer for $misses polls"
        outcome=stuck code=1
        delete || true
        return 0
      fi
      continue
    fi
    misses=0 locked_out=""
    judge
    [ -n "$outcome" ] || continue
    ask stop > /dev/null 2>&1 || true  # Those that wait for the one that fell.
    return 0
  done
}

# Reads the workers' `report`: sets outcome, or empties it to watch on.
judge() {
  local fallen
  outcome=ended code=0
  grep -qv ': exit 0$' <<< "$report" || return 0
  fallen=$(grep -v ': exit 0$\|: running$' <<< "$report") || fallen=""
  for code in 2 3; do
    grep -q ": exit $code\$" <<< "$fallen" && { say "$fallen"; return; }
  done
  # One that falls takes others with it: a poll later all have said why.
  outcome=""
  [ -n "$fallen" ] || { troubled=""; return 0; }
  if [ -z "$troubled" ] && grep -q ': running$' <<< "$report"; then
    troubled=1
    return
  fi
  say "$fallen"
  code=$(sed -n 's/.*: exit \([1-9][0-9]*\)$/\1/p' <<< "$fallen" | head -n 1)
  outcome=failed code=${code:-1}
}

keep() {
  local failures=0 wait_secs=$first_wait_secs born
  set_up=unknown
  while true; do
    born=$SECONDS
    live
    if [ "$outcome" = ended ]; then
      say "$name: exit code $code; the slice stands until it is deleted"
      return "$code"
    fi
    [ $((SECONDS - born)) -lt $last_wait_secs ] || wait_secs=$first_wait_secs
    say "$name: $outcome; trying again in $wait_secs s"
    sleep $wait_secs
    wait_secs=$((wait_secs * 2))
    [ $wait_secs -le $last_wait_secs ] || wait_secs=$last_wait_secs
    if [ "$outcome" = failed ]; then
      look
      [ "$condition" = ready ] || outcome=lost
    fi
    is_one_of "$outcome" "lost bare" || failures=$((failures + 1))
    if [ $failures -gt "$restarts" ]; then
      say "$name: giving up after $restarts restarts (exit code $code)"
      return "$code"
    fi
  done
}

# Prints what can be said of the slice and its workers; fails where it is bad.
status() {
  local report
  [ -z "$dry_run" ] || { describe_both; ask poll; return; }
  look
  echo "$name: $state"
  [ "$condition" = ready ] || return 1
  report=$(ask poll) || return
  echo "$report"
  ! grep -qv ': \(idle\|running\|exit 0\)$' <<< "$report"
}

plan() {
  echo "# If it is missing; if it was lost, after the first of these:"
  delete
  create
  echo "# Then, and again until it stands:"
  await
  setup
  ask start "${arguments[@]}"
  echo "# Every $poll_secs s, with the two lines above that describe it:"
  ask poll
  echo "# If one of the workers failed, before the start of all:"
  ask stop
}

# ---- What can be asked for

main() {
  parse "$@"
  scratch=/tmp/latemask
  if [ -z "$dry_run" ]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
  fi
  case "$action" in
    create)
      create
      await || { say "$name: cannot be had"; exit 1; };;
    run)
      if [ -z "$keep" ]; then ask start "${arguments[@]}"
      elif [ -n "$dry_run" ]; then plan
      else keep; fi;;
    logs) ask logs "$lines" ${follow:+-F};;
    stop) ask stop;;
    status) status;;
    setup) setup;;
    delete) delete;;
  esac
}

# In one line: bash reads a script while it runs it, and this one may change.
main "$@"; exit
