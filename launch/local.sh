#!/usr/bin/env bash
# Runs one odqa command as N processes on this machine, over loopback:
#   launch/local.sh 2 train --config configs/ict.py:debug --workdir work/ict …
# Each process sees DEVICES_PER_PROCESS fake CPU devices (1 unless set); on a
# machine with GPUs, use one process for all of them instead.
set -u
processes=$1
shift
odqa=${ODQA:-$(dirname "$0")/../.venv/bin/odqa}
port=${PORT:-$((20000 + RANDOM % 20000))}
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# These devices wait for each other, and XLA's threads wait with them.
export NPROC=${NPROC:-16}
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES_PER_PROCESS:-1}"
pids=()
# jax.distributed catches SIGTERM, so what is left is killed outright.
trap 'kill -KILL "${pids[@]}" 2>/dev/null' EXIT
for ((i = 0; i < processes; i++)); do
  "$odqa" --coordinator "127.0.0.1:$port" --num-processes "$processes" \
    --process-id "$i" "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  # One failed process leaves the others waiting for it for ever.
  wait "$pid" || { status=$?; break; }
done
exit "$status"
