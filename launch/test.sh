#!/usr/bin/env bash
# Formatting, lint, types, import contracts and tests, as .ci/run does. Arguments go to pytest: launch/test.sh -m long
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
use_venv test

.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/lint-imports
"$PYTHON" -m pytest -q "$@"
