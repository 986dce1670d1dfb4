"""What a local user with another user id can do to running processes. As a program this file is that user."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from strangers import GUESSES, JUNK, descendants, inodes, listening, store_message

NOBODY = 65534


def attempts(pid, folders):
    """What another user can read, write, enter and connect to of a process and its children.

    Args:
      pid: the process.
      folders: where the processes keep files.

    Returns:
      By kind, the names of what was reached: ``read``, ``written``, ``connected`` and ``answered``.
    """
    asked = {
        "processes": descendants(pid),
        "tcp": sorted(listening(pid)),
        "unix": unix_sockets(pid),
        "folders": [str(folder) for folder in folders],
    }
    command = [sys.executable, __file__, json.dumps(asked)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def unix_sockets(pid):
    """The names of the Unix sockets that a process and its children hold; abstract ones begin with @."""
    held = inodes(pid)
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [row[7] for row in rows if len(row) > 7 and row[6] in held]


def _try(asked):
    found = {"read": [], "written": [], "connected": [], "answered": []}
    for process in asked["processes"]:
        for name in ("environ", "mem", "maps", "fd/0"):
            _read(f"/proc/{process}/{name}", found)
    for folder in asked["folders"]:
        for place, _, names in os.walk(folder):
            if place != folder:
                found["read"].append(place)
                _write(f"{place}/stranger", found)
            for name in names:
                _read(f"{place}/{name}", found)
                _write(f"{place}/{name}", found)
    messages = [*JUNK, *GUESSES, store_message("stranger", b"1")]
    for family, name in [(socket.AF_INET, tuple(place)) for place in asked["tcp"]] + [
        (socket.AF_UNIX, name.replace("@", "\0", 1) if name.startswith("@") else name) for name in asked["unix"]
    ]:
        for message in messages:
            with contextlib.suppress(OSError), socket.socket(family) as connection:
                connection.settimeout(0.2)
                connection.connect(name)
                found["connected"].append(str(name))
                connection.sendall(message)
                if connection.recv(4096):
                    found["answered"].append(str(name))
    return found


def _read(path, found):
    with contextlib.suppress(OSError), open(path, "rb") as file:  # noqa: PTH123  # /proc/PID/mem has no text
        file.read(1)
        found["read"].append(path)


def _write(path, found):
    with contextlib.suppress(OSError), open(path, "ab"):  # noqa: PTH123
        found["written"].append(path)


if __name__ == "__main__":
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    print(json.dumps(_try(json.loads(sys.argv[1]))))
