#!/usr/bin/env bash
# Spreads one sweep over several TPU VMs, one run at a time on each of them.
#
#   bash launch/sweep.sh start  --project P --zone Z --names A,B,C --
#       --config configs/sweeps/lr.py:base --out /mnt/shared/lr
#   bash launch/sweep.sh setup  --project P --zone Z --names A,B,C
#       [--prepare CMD]
#   bash launch/sweep.sh status|stop --project P --zone Z --names A,B,C
#   bash launch/sweep.sh logs   --project P --zone Z --names A,B,C [--lines 50]
#
# start  runs the same `python -m latemask.tools.sweep` on every VM, with what
#        stands behind --; each goes on until all runs have ended. --out must
#        lie where all of them see it (gs://, or NFS such as Filestore): there
#        they claim runs, so that none is done twice, and the runs of a VM that
#        goes away are taken over.
# setup, status, logs, stop: launch/tpu_vm.sh's, for one VM after the other;
#        the VMs are those of launch/tpu_vm.sh create, single machines each.
#
# --dry_run prints the commands and runs none. One VM that fails stops no other.
# Exit codes: 0; 2 what was given cannot be used; else the first VM's that
# failed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
usage() { sed -n '2,22s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { echo "launch/sweep.sh: $*" >&2; exit 2; }

case "${1:-}" in
  -h|--help) usage; exit 0;;
  start) action=run;;
  setup|status|logs|stop) action=$1;;
  "") usage >&2; exit 2;;
  *) fail "no such command: $1; see --help";;
esac
shift

names="" options=() sweep=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h|--help) usage; exit 0;;
    --) shift; sweep=("$@"); break;;
    --names=*) names=${1#*=};;
    --names) shift; names=${1:-};;
    --name|--name=*|--keep) fail "takes --names A,B,C, and no $1; see --help";;
    *) options+=("$1");;
  esac
  [ $# -eq 0 ] || shift
done
[[ $names =~ ^[^,]+(,[^,]+)*$ ]] || fail "--names A,B,C is missing; see --help"
command=()
if [ "$action" = run ]; then
  [ ${#sweep[@]} -gt 0 ] ||
    fail "which sweep? --config and --out stand behind --"
  command=(-- python -m latemask.tools.sweep "${sweep[@]}")
elif [ ${#sweep[@]} -gt 0 ]; then
  fail "$action takes nothing behind --"
fi

IFS=, read -ra vms <<< "$names"
# Nothing is done for the first before all can be used.
for vm in "${vms[@]}"; do
  code=0
  bash "$root/launch/tpu_vm.sh" "$action" --name "$vm" --dry_run \
    ${options[@]+"${options[@]}"} ${command[@]+"${command[@]}"} > /dev/null ||
    code=$?
  [ $code -ne 2 ] || exit 2
done
first=0
for vm in "${vms[@]}"; do
  code=0
  bash "$root/launch/tpu_vm.sh" "$action" --name "$vm" \
    ${options[@]+"${options[@]}"} ${command[@]+"${command[@]}"} || code=$?
  if [ $code -ne 0 ]; then
    echo "launch/sweep.sh: $vm: exit code $code" >&2
    [ $first -ne 0 ] || first=$code
  fi
done
exit $first
