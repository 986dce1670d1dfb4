#!/usr/bin/env bash
# Trains on AN4 for 70 epochs, for accuracy, on one device. Takes --data_path=./data/ and any other flag of launch.train.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/start.sh"
start_training an4_1p "$@"
