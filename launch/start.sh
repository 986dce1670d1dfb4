# Sourced by train_*.sh: trains from configs/$1.flags, with the remaining arguments as further flags.

start_training() {
  local root flagfile=configs/$1.flags python=python3 device=auto previous="" argument arguments=()
  shift
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  local paths='--@(data_path|run_dir|flagfile|data.*_manifest|data.labels_path|augmentation.noise_dir|checkpointing.continue_from)'
  shopt -s extglob
  # The launcher runs in the repository's root, where flagfiles find each other; a path on the command line stays
  # relative to where it was typed.
  for argument in "$@"; do
    case $previous in
      $paths) [[ $argument == /* ]] || argument=$PWD/$argument ;;
      --device) device=$argument ;;
    esac
    case $argument in
      $paths=/*) ;;
      $paths=?* | --data_path= | --flagfile=) argument=${argument%%=*}=$PWD/${argument#*=} ;;
      --device=*) device=${argument#*=} ;;
    esac
    arguments+=("$argument")
    previous=$argument
  done

  export TORCH_DEVICE_BACKEND_AUTOLOAD=0
  # An NPU shows by the device files of its driver.
  if [[ $device == npu ]] || { [[ $device == auto ]] && compgen -G '/dev/davinci[0-9]*' >/dev/null; }; then
    source "$root/launch/env_npu.sh"
  fi
  if [[ -x $root/.venv/bin/python ]]; then
    python=$root/.venv/bin/python
  fi
  cd "$root"
  exec "$python" -m launch.train --flagfile="$flagfile" ${arguments[@]+"${arguments[@]}"}
}
