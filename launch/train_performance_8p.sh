#!/usr/bin/env bash
# Trains on AN4 for 3 epochs, for speed, on eight devices. Takes --data_path=./data/ and any other flag of launch.train.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start_training an4_performance_8p "$@"
