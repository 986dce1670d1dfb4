"""What shows a run beside its log: TensorBoard, Weights & Biases, MLflow. Training goes on without them."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ds2f.config import Config, to_dict
from ds2f.runner.tracker_client import TrackerClient
from ds2f.text import shown

Report = Callable[[str], None]
_CODES = re.compile(r"[\\`*_\[\]<>|#~]")  # characters that Markdown or HTML would act on


def samples_text(samples: Sequence[tuple[str, str, str]]) -> str:
    """A table in Markdown: recording, reference and hypothesis of utterances.

    >>> print(samples_text([("a|b.wav", "GO", "NO")]))
    | recording | reference | hypothesis |
    |---|---|---|
    | a\\|b.wav | GO | NO |
    """
    rows = [" | ".join(_CODES.sub(r"\\\g<0>", shown(text)) for text in sample) for sample in samples]
    return "\n".join(["| recording | reference | hypothesis |", "|---|---|---|", *(f"| {row} |" for row in rows)])


class Tracker(Protocol):
    """What a run is shown by."""

    def add(self, kind: str, iteration: int, values: Mapping[str, Any]) -> None:
        """Adds the numbers among ``values`` under ``kind/``."""

    def add_samples(self, split: str, iteration: int, samples: Sequence[tuple[str, str, str]]) -> None:
        """Adds recordings, references and hypotheses."""

    def add_picture(self, name: str, draw: Callable[[], bytes]) -> None:
        """Adds the PNG file that ``draw`` returns; empty: no picture."""

    def add_results(self, settings: Mapping[str, Any], rates: Mapping[str, float]) -> None:
        """Adds the settings with the final error rates."""

    def rewind(self, iteration: int) -> None:
        """Forgets what came after a checkpoint from which the run goes on, where that can be."""

    def restore(self) -> bool:
        """Writes again what somebody has removed. Returns whether it did."""

    def close(self) -> None:
        """Writes what is buffered."""


class TensorBoard:
    """The scalars of a run in TensorBoard's format. After an error there are no more, until the next start.

    The file of events is opened with the first scalars, after the first step: TensorBoard takes a while to import.
    Pictures wait until then.
    """

    def __init__(self, folder: Path, report: Report) -> None:
        """Opens nothing yet.

        Args:
          folder: for TensorBoard's files.
          report: called with a message after an error.
        """
        self._folder, self._report = folder, report
        self._purge_step: int | None = None  # TensorBoard forgets earlier scalars from this step on
        self._writer: Any = None
        self._waits, self._works = True, True  # whether the file is opened at the next event; whether it could be
        self._pictures: list[tuple[str, Callable[[], bytes]]] = []  # that wait for it
        _silence_writer_thread()

    def _ready(self) -> bool:
        """Opens a new file of events if one is due. Returns whether events can be added."""
        if self._waits:
            self._waits = False
            self._try(self._open)
            self._works = self._writer is not None
            while self._pictures and self._writer is not None:
                self._try(partial(self._draw, *self._pictures.pop()))
        return self._writer is not None

    def _open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step)

    def restore(self) -> bool:
        """Begins a new file of events if somebody has removed the folder. Returns whether it did."""
        if not self._works or self._waits or self._folder.exists():
            return False
        if self._writer is not None:
            with suppress(Exception):  # of its thread, whose file is gone
                self._writer.close()
        self._waits = True
        return self._ready()

    def rewind(self, iteration: int) -> None:
        """Begins a file of events that takes the place of the scalars after the checkpoint."""
        if self._writer is not None:
            self._try(self._writer.close)
            self._writer = None
        self._purge_step, self._waits = iteration + 1, True

    def add(self, kind: str, iteration: int, values: Mapping[str, Any]) -> None:
        """Adds the numbers among ``values`` under ``kind/``."""
        for name, value in values.items():
            if isinstance(value, (int, float)) and self._ready():
                self._try(partial(self._writer.add_scalar, f"{kind}/{name}", value, iteration))

    def add_samples(self, split: str, iteration: int, samples: Sequence[tuple[str, str, str]]) -> None:
        """Adds recordings, references and hypotheses as a text."""
        if self._ready():
            self._try(partial(self._writer.add_text, f"samples/{split}", samples_text(samples), iteration))

    def add_picture(self, name: str, draw: Callable[[], bytes]) -> None:
        """Adds the PNG file that ``draw`` returns; empty: no picture."""
        if self._waits:
            self._pictures.append((name, draw))
        elif self._writer is not None:
            self._try(partial(self._draw, name, draw))

    def _draw(self, name: str, draw: Callable[[], bytes]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        png = draw()
        if not png:
            return
        width, height = (int.from_bytes(png[first : first + 4], "big") for first in (16, 20))  # of the header
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), 0)

    def add_results(self, settings: Mapping[str, Any], rates: Mapping[str, float]) -> None:
        """Adds the settings as hyperparameters, with the final error rates."""
        if self._ready():
            self._try(partial(self._add_results, settings, rates))

    def _add_results(self, settings: Mapping[str, Any], rates: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams  # add_hparams would begin a run of its own

        for summary in hparams(dict(settings), dict(rates)):
            self._writer.file_writer.add_summary(summary)
        for name, rate in rates.items():
            self._writer.add_scalar(name, rate)

    def close(self) -> None:
        """Writes what is buffered."""
        if self._pictures:
            self._ready()
        self._waits = False
        if self._writer is not None:
            self._try(self._writer.close)
            self._writer = None

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  # a broken installation raises anything; training goes on
            self._writer = None
            cause = f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)
            self._report(f"TensorBoard gets no more scalars (metrics.jsonl goes on): {cause}")


def _silence_writer_thread() -> None:
    """Keeps TensorBoard's thread from printing a traceback: ``add`` and ``close`` report the same error."""
    before = threading.excepthook
    if getattr(before, "silences_tensorboard", False):
        return

    def hook(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            before(args)

    hook.silences_tensorboard = True  # type: ignore[attr-defined]
    threading.excepthook = hook


def open_trackers(folder: Path, cfg: Config, report: Report) -> list[Tracker]:
    """The trackers that the settings ask for."""
    settings, shows = flat_settings(cfg), cfg.visualization
    trackers: list[Tracker] = []
    if shows.tensorboard:
        trackers.append(TensorBoard(folder / "tensorboard", report))
    for name in ("wandb", "mlflow"):
        if getattr(shows, name):
            trackers.append(TrackerClient(name, folder, settings, report))
    return trackers


def flat_settings(cfg: Config) -> dict[str, str | int | float | bool]:
    """The settings by flag; lists as texts."""
    flat: dict[str, str | int | float | bool] = {}
    for name, value in to_dict(cfg).items():
        members = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        for flag, each in members.items():
            flat[flag] = each if isinstance(each, (str, int, float)) else ",".join(map(str, each))
    return flat
