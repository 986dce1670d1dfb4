"""Takes the place of the package under ``python launch/NAME.py``, where Python looks into this folder first."""

import sys
from pathlib import Path

_NAME, _ROOT = Path(sys.argv[0]).stem, Path(__file__).parents[1]
_COMMAND = "launch" if _NAME in ("__main__", "launch") else f"launch.{_NAME}"

sys.exit(f"{_NAME}: a command is started as a module, in the folder {_ROOT}: python -m {_COMMAND}")
