# Sourced by train_*.sh. start_training NAME FLAG...: trains with configs/NAME.flags and further flags.

# Fails with one line if PYTHON lacks packages of setup.cfg, as after an installation that was interrupted.
require_packages() {
  local python=$1 stamp missing again=""
  if [[ $python == */.venv/* ]]; then
    again=" again"
    for stamp in .venv/installed-*; do # use_venv of venv.sh leaves it
      cmp -s setup.cfg "$stamp" && return
    done
  fi
  missing=$(
    "$python" - <<'PYTHON'
import configparser, re, sys
from importlib import metadata

setup = configparser.ConfigParser()
setup.read("setup.cfg")
needed = re.findall(r"^[\w.-]+", setup["options"]["install_requires"], re.MULTILINE)
found = {re.sub("[-_.]+", "-", each.metadata["Name"] or "").lower() for each in metadata.distributions()}
missing = [name for name in needed if name not in found]
print(", ".join(missing))
sys.exit(bool(missing))
PYTHON
  ) || {
    [[ -z $missing ]] || echo "$python lacks packages: $missing. Install them by running$again: bash launch/quickstart.sh" >&2
    return 1
  }
}

start_training() {
  local root name=$1 flagfile=configs/$1.flags python=python3 device=auto previous="" argument arguments=()
  shift
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  local paths='--@(data_path|run_dir|flagfile|data.*_manifest|data.labels_path|augmentation.@(noise|reverb)_dir|checkpointing.continue_from|checkpointing.folder)'
  shopt -s extglob
  # launch.train runs in the root of the repository, since flagfiles include each other by paths from there. Relative
  # paths of the command line are made absolute; launch.train expands ~.
  for argument in "$@"; do
    case $previous in
      $paths) [[ $argument == [/~]* || $argument == *://* ]] || argument=$PWD/$argument ;;
      --device) device=$argument ;;
    esac
    case $argument in
      $paths=[/~]* | $paths=*://*) ;;
      $paths=?* | --data_path= | --flagfile=) argument=${argument%%=*}=$PWD/${argument#*=} ;;
      --device=*) device=${argument#*=} ;;
    esac
    arguments+=("$argument")
    previous=$argument
  done

  export TORCH_DEVICE_BACKEND_AUTOLOAD=0
  # The driver of an NPU makes these device files.
  if [[ $device == npu ]] || { [[ $device == auto ]] && compgen -G '/dev/davinci[0-9]*' >/dev/null; }; then
    source "$root/launch/env_npu.sh"
  fi
  if [[ -x $root/.venv/bin/python ]]; then
    python=$root/.venv/bin/python
  fi
  # From elsewhere, paths in messages begin at the root folder, so that they can be followed.
  [[ $PWD == "$root" || " ${arguments[*]-} " == *" --run_dir"[=\ ]* || " ${arguments[*]-} " == *" --flagfile"[=\ ]* ]] ||
    arguments+=("--run_dir=$root/runs/$name")
  cd "$root"
  require_packages "$python"
  exec "$python" -m launch.train --flagfile="$flagfile" ${arguments[@]+"${arguments[@]}"}
}
