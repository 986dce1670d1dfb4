"""Sends the events of a run to a tracker's process, which may fail, wait or hang: the training never waits for it."""

import base64
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ds2f.files import json_text
from ds2f.text import shown

Report = Callable[[str], None]
_PATIENCE = 20.0  # seconds at the end in which the process may still send
_MOST_PENDING = 64 << 20  # bytes that wait for a process that does not read
_SAMPLES = ("recording", "reference", "hypothesis")


class TrackerClient:
    """A run at Weights & Biases (``wandb``) or MLflow (``mlflow``)."""

    def __init__(
        self, name: str, folder: Path, settings: Mapping[str, Any], report: Report, *, patience: float = _PATIENCE
    ) -> None:
        """Starts the process.

        Args:
          name: ``wandb`` or ``mlflow``, the module of the client.
          folder: of the run.
          settings: by flag.
          report: called with messages for the log.
          patience: seconds at the end in which the process may still send.
        """
        self._name, self._report, self._patience = name, report, patience
        self._pending, self._heard = bytearray(), b""
        program = [sys.executable, "-P", str(Path(__file__).with_name("tracker_process.py")), name]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(program, **pipes, start_new_session=True, bufsize=0)
        except OSError as error:
            self._give_up(str(error))
            return
        for pipe in (self._process.stdin, self._process.stdout):
            os.set_blocking(pipe.fileno(), False)  # type: ignore[union-attr]
        self._send("begin", name=folder.name, folder=str(folder), settings=dict(settings))

    def add(self, kind: str, iteration: int, values: Mapping[str, Any]) -> None:
        """Sends the numbers among ``values`` under ``kind/``."""
        numbers = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, (int, float))}
        self._send("scalars", values=numbers, step=iteration)

    def add_samples(self, split: str, iteration: int, samples: Sequence[tuple[str, str, str]]) -> None:
        """Sends recordings, references and hypotheses as a table."""
        rows = [list(_SAMPLES), *([shown(text) for text in sample] for sample in samples)]
        self._send("text", name=f"samples/{split}", rows=rows, step=iteration)

    def add_picture(self, name: str, draw: Callable[[], bytes]) -> None:
        """Sends the PNG file that ``draw`` returns."""
        if png := draw():
            self._send("picture", name=name, content=base64.b64encode(png).decode())

    def add_results(self, settings: Mapping[str, Any], rates: Mapping[str, float]) -> None:
        """Sends the final error rates; the settings are there."""
        self._send("results", values=dict(rates))

    def rewind(self, iteration: int) -> None:
        """Nothing has been sent yet."""

    def restore(self) -> bool:
        """Nothing of it is in the run's folder."""
        return False

    def close(self) -> None:
        """Sends what waits, and ends the process; kills it when it does not end in time."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return
        end = time.monotonic() + self._patience
        while self._process is not None and self._pending and time.monotonic() < end:
            select.select([process.stdout], [process.stdin], [], 0.2)
            self._exchange()
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            if self._process is not None:
                self._give_up(f"no answer within {self._patience:g} s")
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # its own processes, too
            process.wait()
        self._listen()
        if self._process is not None and process.returncode:
            self._give_up(f"its process ended with status {process.returncode}")
        process.stdout.close()
        self._process = None

    def _send(self, event: str, **values: Any) -> None:
        if self._process is None:
            return
        self._pending += (json_text({"event": event, **values}) + "\n").encode()
        if len(self._pending) > _MOST_PENDING:
            self._give_up("it does not read what the run sends")
        else:
            self._exchange()

    def _exchange(self) -> None:
        """Writes and reads what the pipes take and have, without waiting."""
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            while self._pending:
                written = os.write(process.stdin.fileno(), self._pending)
                del self._pending[:written]
        except BlockingIOError:
            pass
        except OSError as error:
            self._listen()  # it may have said why
            if self._process is not None:
                self._give_up(error.strerror or str(error))
            return
        self._listen()

    def _listen(self) -> None:
        """Passes on the messages of the process."""
        if self._process is None or self._process.stdout is None:
            return
        with contextlib.suppress(BlockingIOError):
            while block := os.read(self._process.stdout.fileno(), 1 << 16):
                self._heard += block
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            said = shown(line.decode(errors="replace"))
            if said.startswith("failed: "):
                self._give_up(said.removeprefix("failed: "))
            else:
                self._report(f"{self._name}: {said}")

    def _give_up(self, cause: str) -> None:
        """Drops this and all later events, with one message."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process, self._pending = None, bytearray()
        self._report(
            f"{self._name} gets nothing more, and training goes on (metrics.jsonl has all): {cause}{self._hint(cause)}"
        )

    def _hint(self, cause: str) -> str:
        if "ModuleNotFoundError" in cause:
            return f". Install it: pip install 'ds2f[{self._name}]'"
        if self._name == "wandb":
            return ". Without a network: WANDB_MODE=offline, and later wandb sync"
        return ". Without a server: MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
