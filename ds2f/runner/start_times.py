"""The times of a training's start: when each of its stages ended, in a file that an environment variable names.

``launch.bench --parts=startup`` sets the variable and reads the file. Without it, a mark looks at the environment only.
"""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from ds2f.files import json_text, read_bounded

VARIABLE = "DS2F_START_TIMES"  # a file to which the stages are added
_MOST_BYTES = 2**20


class Mark(NamedTuple):
    """The end of a stage."""

    stage: str
    time: float  # seconds of ``time.monotonic``, which all processes of a machine share


def mark(stage: str) -> None:
    """Notes that a stage of the start has ended, where somebody measures it."""
    file = os.environ.get(VARIABLE)
    if file:
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.write(json_text([stage, time.monotonic()]) + "\n")


def read(file: Path) -> list[Mark]:
    """The marks of a start, by time; a stage that ended several times, as that of several ranks, at its first end.

    Raises:
      OSError: the file is not there: nothing was marked.
    """
    marks: dict[str, Mark] = {}
    for line in read_bounded(file, _MOST_BYTES, remedy="Start the training anew.").decode().splitlines():
        stage, ended = json.loads(line)
        marks.setdefault(stage, Mark(stage, ended))
    return sorted(marks.values(), key=lambda each: each.time)
