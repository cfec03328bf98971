# Sourced by the scripts beside it: makes .venv in the checkout, once, and
# installs the package with the extras given as $1.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "odqa_jax needs Python 3.11 or newer; set PYTHON to one." >&2
  exit 1
fi
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv || exit 1
# The stamp names what was installed; a changed setup.cfg installs again.
stamp=".venv/installed-$(echo "$1" "$(cksum <setup.cfg)" | tr -c 'a-z0-9\n' _)"
if [ ! -e "$stamp" ]; then
  .venv/bin/python -m pip install --quiet --editable ".[$1]" || exit 1
  touch "$stamp"
fi
