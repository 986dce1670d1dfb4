"""What shows a run beside its log: TensorBoard. Training goes on without it."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

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


class TensorBoard:
    """The scalars of a run in TensorBoard's format. After an error there are no more, until the next start."""

    def __init__(self, folder: Path, report: Report, *, purge_step: int | None = None) -> None:
        """Opens a new file of events.

        Args:
          folder: for TensorBoard's files.
          report: called with a message after an error.
          purge_step: TensorBoard forgets earlier scalars from this step on.
        """
        self._folder, self._report, self._purge_step = folder, report, purge_step
        self._writer: Any = None
        _silence_writer_thread()
        self._try(self._open)
        self._works = self._writer is not None

    def _open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and not every run needs it

        self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step)

    def restore(self) -> bool:
        """Begins a new file of events if somebody has removed the folder. Returns whether it did."""
        if not self._works or self._folder.exists():
            return False
        if self._writer is not None:
            with suppress(Exception):  # of its thread, whose file is gone
                self._writer.close()
        self._try(self._open)
        return self._writer is not None

    def add(self, kind: str, iteration: int, values: Mapping[str, Any]) -> None:
        """Adds the numbers among ``values`` under ``kind/``."""
        for name, value in values.items():
            if self._writer is not None and isinstance(value, (int, float)):
                self._try(partial(self._writer.add_scalar, f"{kind}/{name}", value, iteration))

    def add_text(self, name: str, iteration: int, markdown: str) -> None:
        """Adds a text in Markdown under ``name``."""
        if self._writer is not None:
            self._try(partial(self._writer.add_text, name, markdown, iteration))

    def close(self) -> None:
        """Writes what is buffered."""
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
