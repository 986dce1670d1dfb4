"""The progress bar over the steps of an epoch."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class StepProgress:
    """A progress bar with free text behind it."""

    def __init__(self, console: Console, description: str, total: int, completed: int, *, disable: bool) -> None:
        """Prepares the bar; it is shown inside a ``with`` statement."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=disable)
        self._task = self._progress.add_task(description, total=total, completed=completed, text="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def advance(self, text: str | None = None) -> None:
        """Counts one step, and shows ``text`` if given."""
        self._progress.advance(self._task)
        if text is not None:
            self._progress.update(self._task, text=text)
