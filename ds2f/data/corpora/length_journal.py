"""The lengths of a corpus's recordings, noted while they are read: a preparation that was interrupted goes on."""

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Self

from ds2f.errors import InputError
from ds2f.files import json_text, open_regular

_EVERY = 1000  # new lengths that are written at a time
_log = logging.getLogger(__name__)


class LengthJournal:
    """A file with a line for each recording: path, size in bytes, time of the last change, length in seconds.

    A recording that has changed is read again. The file is removed when the preparation ends well.
    """

    def __init__(self, path: Path) -> None:
        """Reads what an interrupted preparation has noted; a last line that is cut short is passed over."""
        self._path, self._noted, self._lines = path, set[str](), list[str]()
        self._known: dict[str, tuple[int, int, float]] = {}
        if path.exists():
            with open_regular(path) as file:
                for line in file:
                    self._take(line)
            if self._known:
                _log.warning("%s: goes on with %d lengths that were read before", path, len(self._known))

    def _take(self, line: bytes) -> None:
        try:
            name, size, changed, seconds = json.loads(line)
            self._known[str(name)] = (int(size), int(changed), float(seconds))
        except (ValueError, TypeError):
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._path.unlink(missing_ok=True)
        elif not issubclass(kind, InputError):  # after a mistake of the user's nothing is left behind
            self._write()

    def length(self, recording: Path) -> float | None:
        """The length that was noted, if the recording is as it was."""
        known = self._known.get(str(recording))
        if known is None:
            return None
        try:
            status = recording.stat()
        except OSError:
            return None
        return known[2] if known[:2] == (status.st_size, status.st_mtime_ns) else None

    def note(self, recording: Path, seconds: float) -> None:
        """Notes a length, unless it is noted; lengths are written by the thousand, and when the preparation fails."""
        if str(recording) in self._noted:
            return
        self._noted.add(str(recording))
        with suppress(OSError):  # it has just been removed
            status = recording.stat()
            fields = (str(recording), status.st_size, status.st_mtime_ns, seconds)
            self._lines.append(json_text(fields) + "\n")
        if len(self._lines) >= _EVERY:
            self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(self._lines))
        self._lines.clear()
