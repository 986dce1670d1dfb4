#!/usr/bin/env bash
# Formatting, lint, types, import contracts and tests, as .ci/run does.
# Arguments go to pytest, which then takes one process: launch/test.sh -m long, launch/test.sh tests/optim -n 2
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
help_if_asked "$@" <<'HELP'
Usage: bash launch/test.sh [ARGUMENT...]
Makes .venv/ with the extra "test", then checks formatting, lint, types and import contracts, and runs the tests.
Arguments go to pytest, which then takes one process: launch/test.sh tests/optim -k muon; launch/test.sh -m long
HELP
use_venv test

.venv/bin/ruff format --check .
.venv/bin/ruff check .
check_types_and_contracts() {
  .venv/bin/mypy && .venv/bin/lint-imports
}

if (($#)); then
  check_types_and_contracts
  exec "$PYTHON" -m pytest -q "$@"
fi

# A process more than processors, since some tests wait; one thread in each. The first tests run while types and
# contracts are checked, and what they print is shown afterwards. Real processes may be late on a busy machine: a test
# that fails runs once more, and the closing line counts such reruns.
colour=no
[[ -t 1 ]] && colour=yes
workers=$(($("$PYTHON" -c 'from ds2f.processes import cpu_count; print(cpu_count())') + 1))
OMP_NUM_THREADS=1 TORCH_CPP_LOG_LEVEL=FATAL "$PYTHON" -m pytest -q --color="$colour" -n "$workers" --dist=worksteal \
  --reruns=1 --reruns-delay=2 |
  { check_types_and_contracts && cat; }
