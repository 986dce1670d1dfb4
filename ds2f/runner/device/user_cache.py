"""Small JSON files in the user's cache folder: what was measured or found on this machine, by key.

The folder is ``$XDG_CACHE_HOME/ds2f`` (default ``~/.cache/ds2f``). A missing, damaged or read-only file costs what is
in it and is no error.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

from ds2f.files import json_text, write_atomically

_log = logging.getLogger(__name__)


def read(name: str, key: str) -> Any:
    """The value that was stored for ``key`` in the file ``name``; None without one."""
    try:
        return _content(name).get(key)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return None


def write(name: str, key: str, value: Any) -> None:
    """Stores a JSON value for ``key`` in the file ``name``, if the file can be written."""
    try:
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            known = _content(name)
        except OSError:
            known = {}
        known[key] = value
        write_atomically(path, json_text(dict(sorted(known.items())), indent=1) + "\n")
    except (OSError, RuntimeError) as error:
        _log.debug("%s is not stored: %s", name, error)


def _path(name: str) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ds2f" / name


def _content(name: str) -> dict[str, Any]:
    try:
        found = json.loads(_path(name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
