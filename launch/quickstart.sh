#!/usr/bin/env bash
# A corpus, a trained model and its error rates in a few minutes, on a CPU and without a download.
# Arguments go to the training: launch/quickstart.sh --training.epochs=3
set -euo pipefail
caller=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
help_if_asked "$@" <<'HELP'
Usage: bash launch/quickstart.sh [FLAG...]
Makes .venv/, a synthetic corpus in data/ and a trained model in runs/quickstart-TIME/, and prints its error
rates: three minutes on two cores, without a download but for the installation. Flags go to launch.train,
such as --training.epochs=3; all of them: python -m launch.train --help
HELP
# Python compiles bytecode at the first import, for a quarter of the installed modules; pip would compile all of them.
# Processor time of installation and first import: 26 s instead of 48 s.
use_venv quickstart --no-compile
unset PYTHONDONTWRITEBYTECODE
export TORCH_DEVICE_BACKEND_AUTOLOAD=0
run_dir=runs/quickstart-$(date +%Y%m%d-%H%M%S) data=data
if [[ $caller != "$PWD" ]]; then # paths in messages can be followed from elsewhere, too
  run_dir=$PWD/$run_dir data=$PWD/$data
fi

echo "== A synthetic corpus in $data/"
"$PYTHON" -m launch.prepare --dataset=synthetic --data_path="$data"

echo "== Training; everything it leaves is in $run_dir"
"$PYTHON" -m launch.train --flagfile=configs/quickstart.flags "$@" --data_path="$data" --run_dir="$run_dir"

echo "== The best model on the test set"
"$PYTHON" -m launch.evaluate --run_dir="$run_dir"

echo "== Three test recordings: what was said, and what the model heard"
recordings=() said=()
while IFS=, read -r audio transcript; do
  recordings+=("$data/$audio")
  said+=("$(<"$data/${transcript%$'\r'}")")
done < <(head -n 3 "$data/synthetic_test_manifest.csv")
"$PYTHON" -m launch.transcribe --run_dir="$run_dir" "${recordings[@]}" |
  for text in "${said[@]}"; do
    IFS=$'\t' read -r path heard
    printf '%s\n  said   %s\n  heard  %s\n' "$path" "$text" "$heard"
  done
