"""The process of a tracker's client: passes the events of a run from standard input to Weights & Biases or MLflow.

A process of its own, since a client may fail to import, start threads, wait for the network, or hang at its end: the
training goes on all the same. It runs by its path and imports nothing of ds2f:

    python -P tracker_process.py wandb < events

Events are JSON lines with the key ``event``: ``begin``, ``scalars``, ``text``, ``picture``, ``results``. Each line of
standard output is a message for the log; the last one of a process that fails begins with ``failed: ``.
"""

import base64
import io
import json
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

_LINGER = 600  # seconds after the end of the events in which a client may still send
_PARAMETERS = 100  # settings that MLflow takes at once
_NAME = "ds2f"  # project or experiment, unless the client's own variable names one


class Wandb:
    """Weights & Biases."""

    def begin(self, name: str, folder: str, settings: dict[str, Any]) -> str:
        """Begins a run; returns where it can be seen."""
        import wandb

        self._wandb = wandb
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        project = os.environ.get("WANDB_PROJECT") or _NAME
        self._run = wandb.init(project=project, name=name, dir=folder, config=settings, settings=quiet)
        return self._run.url or f"offline, in {self._run.dir}"

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Logs numbers."""
        self._run.log(values, step=step)

    def text(self, name: str, rows: list[list[str]], step: int) -> None:
        """Logs a table of texts, headings first."""
        self._run.log({name: self._wandb.Table(columns=rows[0], data=rows[1:])}, step=step)

    def picture(self, name: str, content: bytes) -> None:
        """Logs a PNG file."""
        from PIL import Image

        self._run.log({name: self._wandb.Image(Image.open(io.BytesIO(content)))}, step=0)

    def results(self, values: dict[str, float]) -> None:
        """Sets the summary."""
        self._run.summary.update(values)

    def end(self) -> None:
        """Ends the run."""
        self._run.finish(exit_code=0)


class Mlflow:
    """MLflow."""

    def begin(self, name: str, folder: str, settings: dict[str, Any]) -> str:
        """Begins a run; returns where it can be seen. The store is as ``MLFLOW_TRACKING_URI`` says."""
        import mlflow

        self._mlflow = mlflow
        if not os.environ.get("MLFLOW_EXPERIMENT_NAME") and not os.environ.get("MLFLOW_EXPERIMENT_ID"):
            mlflow.set_experiment(_NAME)
        mlflow.start_run(run_name=name)
        pairs = [(key, str(value)[:500]) for key, value in settings.items()]
        for first in range(0, len(pairs), _PARAMETERS):
            mlflow.log_params(dict(pairs[first : first + _PARAMETERS]))
        return str(mlflow.get_tracking_uri())

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Logs numbers."""
        self._mlflow.log_metrics(values, step=step)

    def text(self, name: str, rows: list[list[str]], step: int) -> None:
        """Logs a table of texts, headings first, as a file."""
        self._mlflow.log_text("\n".join("\t".join(row) for row in rows), f"{name}/{step}.tsv")

    def picture(self, name: str, content: bytes) -> None:
        """Logs a PNG file."""
        from PIL import Image

        self._mlflow.log_image(Image.open(io.BytesIO(content)), f"{name}.png")

    def results(self, values: dict[str, float]) -> None:
        """Logs the error rates."""
        self._mlflow.log_metrics(values)

    def end(self) -> None:
        """Ends the run."""
        self._mlflow.end_run()


def pass_on(lines: Iterable[str], client: Wandb | Mlflow) -> Iterable[str]:
    """Passes events to a client to their end; yields messages for the log."""
    for line in lines:
        event = json.loads(line)
        kind = event.pop("event")
        if kind == "picture":
            event["content"] = base64.b64decode(event["content"])
        if said := getattr(client, kind)(**event):
            yield said
    signal.alarm(_LINGER)
    client.end()


def main() -> None:
    """Runs the client that the command line names; the client itself writes to nowhere."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        for message in pass_on(sys.stdin, Wandb() if sys.argv[1] == "wandb" else Mlflow()):
            print(message, file=messages)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the log tells it
        said = str(error).strip().splitlines()
        print(f"failed: {type(error).__name__}: {said[0] if said else ''}"[:500], file=messages)
        messages.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
