#!/usr/bin/env bash
# Checks a device in at most eight minutes: launch.doctor, the tests for hardware, the benchmark, three epochs.
# bash launch/check_device.sh --device=cuda --data_path=data
set -uo pipefail

usage() {
  echo "Usage: bash launch/check_device.sh [--device=auto|npu|cuda|cpu] [--data_path=data] [--output=runs/check_device]"
  echo "Runs launch.doctor, pytest -m hardware, the benchmark of 5 x 1024 at batches of 10, 32, 64 and 128, and three"
  echo "epochs of configs/an4_performance_1p.flags, on AN4 if --data_path has it, otherwise on the synthetic corpus."
  echo "Each part has its own limit of time; a part that fails is noted, and the rest goes on. Leaves OUTPUT/NAME.json"
  echo "and OUTPUT/NAME.md. For a quick try: --presets=1x16 --batch_sizes=2, and flags of launch.train such as"
  echo "--training.max_steps=3."
}

device=auto data_path=data output=runs/check_device preset=5x1024 batch_sizes=10,32,64,128 training=()
for argument in "$@"; do
  value=${argument#*=}
  case $argument in
    -h | --help) usage && exit 0 ;;
    --device=auto | --device=npu | --device=cuda | --device=cpu) device=$value ;;
    --data_path=?*) data_path=$value ;;
    --output=?*) output=$value ;;
    --presets=[1-9]*x[1-9]*) preset=$value ;;
    --batch_sizes=[1-9]*) batch_sizes=$value ;;
    --training.?*=* | --data.?*=* | --apex.?*=* | --optim.?*=* | --spect.?*=*) training+=("$argument") ;;
    *)
      echo "check_device: cannot take $argument" >&2
      usage >&2
      exit 2
      ;;
  esac
done
[[ $data_path == /* ]] || data_path=$PWD/$data_path
[[ $output == /* ]] || output=$PWD/$output

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export TORCH_DEVICE_BACKEND_AUTOLOAD=0
if [[ $device == npu ]] || { [[ $device == auto ]] && compgen -G '/dev/davinci[0-9]*' >/dev/null; }; then
  source launch/env_npu.sh || true # launch.doctor says what is missing
fi
python=python3
[[ ! -x .venv/bin/python ]] || python=$PWD/.venv/bin/python
work=$(mktemp -d "${TMPDIR:-/tmp}/ds2f-check-XXXXXX") || exit 1
trap 'rm -rf -- "$work"' EXIT
mkdir -p "$output" || exit 1

# part NAME SECONDS COMMAND...: runs a part with a limit of time; its output, status and seconds are kept. A part that
# ignores its end is killed 5 s later. All limits, these seconds and the 20 s of the last command come to eight minutes.
part() {
  local name=$1 limit=$2 began=$SECONDS status
  shift 2
  echo "== $name (at most $limit s)"
  timeout --kill-after=5 "$limit" "$@" >"$work/$name.log" 2>&1 </dev/null
  status=$?
  printf '{"status": %d, "seconds": %d, "limit": %d}\n' "$status" "$((SECONDS - began))" "$limit" >"$work/$name.status.json"
  if ((status)); then
    echo "   failed with status $status$( ((status == 124 || status == 137)) && echo ", its time is over"):"
    tail -n 3 "$work/$name.log" | sed 's/^/   /'
  fi
}

model=(--model.hidden_layers="${preset%x*}" --model.hidden_size="${preset#*x}")
part doctor 75 "$python" -m launch.doctor --device="$device" --run_dir="$work/run" --json="$work/doctor.json" "${model[@]}"
part hardware 70 "$python" -m pytest -q -m hardware -p no:cacheprovider tests/runner/device/test_hardware.py
part bench 140 "$python" -m launch.bench --device="$device" --parts=step --presets="$preset" \
  --batch_sizes="$batch_sizes" --contestants=ours,usual,best --json="$work/bench.json" --trace="$work/trace.json"
corpus=an4
if [[ ! -e $data_path/an4_train_manifest.csv ]]; then
  corpus=synthetic data_path=$work/data
  part prepare 45 "$python" -m launch.prepare --dataset=synthetic --data_path="$data_path"
fi
echo "   the training takes the corpus: $corpus"
part training 105 "$python" -m launch.train --flagfile=configs/an4_performance_1p.flags --device="$device" \
  --data_path="$data_path" --data.dataset="$corpus" --run_dir="$work/run" "${model[@]}" ${training[@]+"${training[@]}"}
timeout --kill-after=1 19 "$python" -m launch.report.device_check "$work" "$output" "$corpus"
