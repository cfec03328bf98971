#!/usr/bin/env bash
# From a fresh machine to a system that answers: makes .venv, installs, runs
# `odqa demo`. Arguments are passed on: launch/demo.sh --serve --seed 1
set -u
caller=$PWD
. "$(dirname "$0")/venv.sh" demo
root=$PWD
cd "$caller" || exit 1
# A step's temporaries in pages of 2 MiB; see README.md beside this file.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
exec "$root/.venv/bin/odqa" demo "$@"
