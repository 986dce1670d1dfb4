"""The small files of a run's folder that are written at its start: they are written again if somebody removes them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ds2f.files import write_atomically


class RunFiles:
    """The settings and the record of the data, as the run has written them."""

    def __init__(self, run_dir: Path) -> None:
        """Knows no files yet; takes the run's folder."""
        self._run_dir = run_dir
        self._texts: dict[str, Callable[[], str]] = {}

    def know(self, texts: Mapping[str, Callable[[], str]]) -> None:
        """Takes files that have been written: by name, a function that returns the content."""
        self._texts.update(texts)

    def restore(self) -> list[str]:
        """Makes the folder and the files that are missing, and returns their names.

        Raises:
          OSError: the file system refused.
        """
        missing = [name for name in self._texts if not (self._run_dir / name).exists()]
        for name in missing:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(self._run_dir / name, self._texts[name](), fsync=True)
        return missing
