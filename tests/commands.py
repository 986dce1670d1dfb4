"""Runs launchers in processes forked off one that has imported everything, so that a command takes milliseconds.

As a program it is that process: it reads commands from its input, a JSON object a line, and answers each likewise.
"""

import atexit
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MEMORY = 16 << 30  # bytes of address space: what asks for all there is must not take it from others
PRELOADED = (
    *("ds2f.runner.trainer", "ds2f.runner.distributed.agent", "ds2f.runner.evaluator"),
    *("orbax.checkpoint", "torch.fx.experimental.symbolic_shapes"),
    *("ds2f.data.corpora.an4", "ds2f.data.corpora.synthetic", "launch.flags", "rich.progress", "rich.traceback"),
)


class Ended(NamedTuple):
    """What became of a command."""

    status: int  # negative: the signal that ended it
    out: str
    err: str
    seconds: float


class Commands:
    """Runs launchers, one at a time."""

    def __init__(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
        environment |= {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(Path(__file__)), str(os.getpid())]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=ROOT)

    def run(self, module, *arguments, folder, limit=30.0):
        """Runs ``python -m launch.MODULE ARGUMENTS`` in ``folder``; after ``limit`` seconds it is killed."""
        order = {"module": module, "arguments": list(map(str, arguments)), "folder": str(folder), "limit": limit}
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        said = [(Path(folder) / f".{name}").read_text(errors="replace") for name in ("out", "err")]
        return Ended(answer["status"], *said, answer["seconds"])

    def close(self):
        """Ends the server."""
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()


def _serve():
    for name in PRELOADED:
        __import__(name)
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if not child:
            _become(order)
        status = _await(child, began + order["limit"])
        print(json.dumps({"status": status, "seconds": time.monotonic() - began}), flush=True)


def _await(child, deadline):
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become(order):
    """Turns a forked process into the command, to its very end: what would run at exit runs."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(order["folder"])
    for number, name in ((1, ".out"), (2, ".err")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    sys.argv = [f"launch/{order['module']}.py", *order["arguments"]]
    status = 0
    try:
        runpy.run_module(f"launch.{order['module']}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    _serve()
