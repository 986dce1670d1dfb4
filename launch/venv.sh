# Sourced by the scripts beside it: moves to the repository root and sets PYTHON to the interpreter to use.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Prints standard input and ends the script, if an argument asks for help. Comes before anything is installed.
help_if_asked() {
  local argument
  for argument in "$@"; do
    if [[ $argument == -h || $argument == --help ]]; then
      cat
      exit 0
    fi
  done
}

# Makes or reuses .venv and installs the project into it with the extra $1 (test or quickstart). Further arguments go to
# pip. Nothing is installed again until setup.cfg or the extension changes.
use_venv() {
  local extra=$1 stamp=".venv/installed-$1" source=ds2f/model/lstm_cell.c
  shift
  if [[ ! -x .venv/bin/python ]]; then
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "Python 3.11 or newer is needed; python3 is $(python3 --version 2>&1 || true)." >&2
      echo "Put a newer python3 first on PATH, or make the environment yourself: python3.12 -m venv .venv" >&2
      return 1
    fi
    echo "Making the virtual environment .venv"
    python3 -m venv .venv
  fi
  PYTHON=$PWD/.venv/bin/python
  if ! cmp -s setup.cfg "$stamp" || ! cmp -s "$source" "$stamp.c"; then
    echo "Installing the project with its '$extra' packages into .venv"
    "$PYTHON" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m ensurepip >/dev/null # making .venv may have been interrupted
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@" --editable ".[$extra]"
    cp "$source" "$stamp.c"
    cp setup.cfg "$stamp"
  fi
}
