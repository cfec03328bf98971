#!/usr/bin/env bash
# Runs one odqa command on every worker of a Cloud TPU VM or pod slice; JAX
# reads the topology from the TPU runtime.
#   launch/tpu_vm.sh NAME ZONE train --config configs/ict.py --workdir gs://…
# The checkout must be at ~/odqa_jax on every worker, with
#   python3 -m venv .venv && .venv/bin/pip install -e '.[tpu]'
set -u
name=$1 zone=$2
shift 2
exec gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
  --command "cd ~/odqa_jax && .venv/bin/odqa --distributed $(printf '%q ' "$@")"
