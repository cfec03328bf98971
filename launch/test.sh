#!/usr/bin/env bash
# Installs the package with its tests and runs them. Arguments go to pytest.
# Tests against torch are skipped unless the `parity` extra is installed.
# Most of the time goes into compiling on one core, so two processes share it:
# each takes files that stand together, whose tests compile the same programs.
set -u
. "$(dirname "$0")/venv.sh" demo,test,wikipedia
exec .venv/bin/python -m pytest --numprocesses="${TEST_PROCESSES:-2}" \
  --dist=worksteal "$@"
