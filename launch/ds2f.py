"""Takes the place of the package under ``python launch/NAME.py``, where Python looks into this folder first."""

import sys
from pathlib import Path

_SCRIPT, _HERE = Path(sys.argv[0]), Path(__file__).parent
_COMMAND = "launch" if _SCRIPT.stem in ("__main__", "launch") else f"launch.{_SCRIPT.stem}"

if _HERE.resolve() not in (_SCRIPT.resolve(), _SCRIPT.resolve().parent):  # a tool has put this folder on the path
    raise ImportError(f"{_HERE} is on Python's path; put {_HERE.parent} there in its place")
sys.exit(f"{_SCRIPT.stem}: a command is started as a module, in the folder {_HERE.parent}: python -m {_COMMAND}")
