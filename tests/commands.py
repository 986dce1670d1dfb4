"""Runs programs in processes forked off one that has imported everything: a start takes milliseconds.

As a program this file is that process, the server. It takes orders at a socket, one a connection: a JSON object and the
three files that become the program's standard input, output and error. It answers with the process's number, and at
the end of the process with its exit status.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MEMORY = 16 << 30  # bytes of address space: what asks for all there is must not take it from others
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "100",
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "FATAL",  # as launchers do
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
}
NETWORK = 0x40000000  # CLONE_NEWNET, of sched.h
PRELOADED = (
    "launch.flags",
    *("ds2f.runner.trainer", "ds2f.runner.distributed.agent", "ds2f.runner.evaluator"),
    *("orbax.checkpoint", "torch.fx.experimental.symbolic_shapes"),
    *("launch.report.run_page.run_report", "launch.report.error_analysis", "ds2f.inference", "PIL.Image"),
    *("ds2f.data.corpora.an4", "ds2f.data.corpora.synthetic", "rich.progress", "rich.traceback"),
)


def variables(more=None):
    """This process's environment variables with those of ``ENVIRONMENT`` and ``more``, where None removes one."""
    return {name: value for name, value in (os.environ | ENVIRONMENT | (more or {})).items() if value is not None}


class Ended(NamedTuple):
    """How a program ended."""

    status: int  # negative: the signal that ended it
    out: str
    err: str
    seconds: float


class Program:
    """A running program, with the methods of ``subprocess.Popen`` that tests use."""

    def __init__(self, connection):
        self._connection, self.returncode = connection, None
        self.pid = self._receive()

    def _receive(self):
        answer = self._connection.recv(32)
        if not answer:
            raise RuntimeError("the server of tests/commands.py has ended")
        return int(answer)

    def poll(self):
        """The exit status, negative for a signal; None while the program runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout=None):
        """The exit status, once the program has ended."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self._end()
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def _end(self):
        self.returncode = self._receive()
        self._connection.close()


class Commands:
    """The server's other end."""

    def __init__(self, **more):
        """Starts the server; ``more``: its variables beside this process's and those of ``ENVIRONMENT``."""
        self._address = f"{tempfile.mkdtemp()}/socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self._address)
            listener.listen(64)
            self._server = subprocess.Popen(
                [sys.executable, str(Path(__file__)), str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=os.environ | ENVIRONMENT | more,
                cwd=ROOT,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    def start(self, program, *arguments, folder, out, err, given=os.devnull, environment=None, network=None):
        """Starts a program in a session of its own.

        Args:
          program: a module, as ``launch.train``, or a script's path.
          arguments: what follows on its command line.
          folder: where it runs.
          out: an open file, its standard output.
          err: likewise its standard error.
          given: path of its standard input.
          environment: variables beside this process's and those of ``ENVIRONMENT``; None removes one.
          network: a network namespace as ``ip netns`` names it; None takes this process's.

        Returns:
          The ``Program``.
        """
        order = {
            "program": str(program),
            "arguments": list(map(str, arguments)),
            "folder": str(folder),
            "environment": variables(environment),
            "network": network,
        }
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(self._address)
        with Path(given).open("rb") as standard_input:
            files = [file.fileno() for file in (standard_input, out, err)]
            socket.send_fds(connection, [json.dumps(order).encode()], files)
        return Program(connection)

    def run(self, module, *arguments, folder, limit=120.0, given=os.devnull, environment=None):
        """Runs ``python -m launch.MODULE ARGUMENTS < given`` in ``folder``; after ``limit`` seconds it is killed."""
        with (Path(folder) / ".out").open("wb") as out, (Path(folder) / ".err").open("wb") as err:
            program = self.start(
                f"launch.{module}", *arguments, folder=folder, out=out, err=err, given=given, environment=environment
            )
            began = time.monotonic()
            try:
                program.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(program.pid, signal.SIGKILL)
            status, seconds = program.wait(), time.monotonic() - began
            said = [Path(file.name).read_text(errors="replace") for file in (out, err)]
        return Ended(status, *said, seconds)

    def close(self):
        """Ends the server."""
        self._server.stdin.close()
        self._server.wait(10)
        Path(self._address).unlink()
        Path(self._address).parent.rmdir()


@functools.cache
def commands():
    """The one server of this process, started when it is first needed."""
    found = Commands()
    atexit.register(found.close)
    return found


def _serve(listener):
    for name in PRELOADED:
        __import__(name)
    sys.modules["jax"].config.update("jax_platforms", "cpu")  # as orbax_io does, which finds it imported
    gc.collect()
    gc.freeze()  # what is imported is not looked through again, and so stays shared
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    clients = {}
    while True:
        ready, _, _ = select.select([listener, woken, sys.stdin], [], [])
        if sys.stdin in ready:  # closed: the tests have ended
            return
        if woken in ready:
            os.read(woken, 4096)
            _tell_ends(clients)
        if listener in ready:
            connection, _ = listener.accept()
            order, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
            child = os.fork()
            if not child:
                try:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for end in (woken, wake, *(each.detach() for each in (listener, connection, *clients.values()))):
                        os.close(end)
                    _become(json.loads(order), files)
                finally:
                    os._exit(1)
            for file in files:
                os.close(file)
            clients[child] = connection
            _say(connection, child)


def _tell_ends(clients):
    """Tells the exit statuses of the programs that have ended."""
    while clients:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        connection = clients.pop(child)
        _say(connection, os.waitstatus_to_exitcode(status))
        connection.close()


def _say(connection, number):
    with contextlib.suppress(OSError):  # the client has gone
        connection.send(str(number).encode())


def _become(order, files):
    """Turns a forked process into the program, to its very end: what would run at exit runs."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    if group := os.environ.pop("DS2F_TEST_CGROUP", None):  # a folder of tests/memory_groups.py
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    if order["network"]:
        namespace = os.open(f"/run/netns/{order['network']}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(namespace, NETWORK):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {order['network']}")
        os.close(namespace)
    program, status = order["program"], 0
    is_script = program.endswith(".py")
    sys.argv = [program if is_script else f"{program.replace('.', '/')}.py", *order["arguments"]]
    try:
        if is_script:
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
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
    _serve(socket.socket(fileno=int(sys.argv[1])))
