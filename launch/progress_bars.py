"""Progress of slow work as bars on standard error, which vanish at its end."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def shown_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A context with a function that shows progress: of the activity, the number done, and the total (0: unknown)."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield show


def counted(items: Iterable[T], stage: str, total: int) -> Iterator[T]:
    """Iterates over items and shows how many are done of how many; a total of 0 is unknown."""
    with shown_progress() as show:
        show(stage, 0, total)
        for done, item in enumerate(items, start=1):
            yield item
            show(stage, done, total)


@contextmanager
def waiting(stage: str) -> Iterator[None]:
    """Shows that an activity goes on whose length is unknown."""
    with shown_progress() as show:
        show(stage, 0, 0)
        yield
