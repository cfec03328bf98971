#!/usr/bin/env bash
# Installs the package with its tests and runs them. Arguments go to pytest.
# Tests against torch are skipped unless the `parity` extra is installed.
set -u
. "$(dirname "$0")/venv.sh" demo,test
exec .venv/bin/python -m pytest "$@"
