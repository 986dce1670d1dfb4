"""The report as text: a table for terminals of 80 columns, and a bundle for bug reports that names nobody.

The bundle has no paths, no names of hosts and users, and no addresses.
"""

import getpass
import re
import socket
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ds2f.text import shown
from launch.doctor.verdict import OK, Line

WIDTH = 80
_NAME, _VERDICT = 27, 8
_INDENT = " " * (2 + _NAME + 1 + _VERDICT)
_SHARED = r"(?!/dev/shm(?![/\w]))"  # a name that every Linux has
_START = r"(?<![\w.])(?<!https:/)(?<!https:)"
_PATH = re.compile(rf"{_START}{_SHARED}(?:~|\.{{1,2}})?(?:/[^\s:;,'\"()/]+){{2,}}/?|{_START}/[\w.-]+/?(?![\w/])")
_ADDRESS = re.compile(
    r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[?\b[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){3,7}\b\]?", re.IGNORECASE
)


def heading(group: str) -> str:
    """The line above a group."""
    return f"\n{group}"


def rows(line: Line) -> list[str]:
    """The lines of the terminal for one line of the report: verdict and figures, below them the remedy."""
    found = _wrapped(line.found)
    first = f"  {_name(line.name)} {line.verdict:{_VERDICT}}{found[0]}".rstrip()
    remedy = line.remedy if line.needed else f"not needed; {line.remedy}"
    rest = found[1:] + (_wrapped(f"-> {remedy}") if line.remedy and line.verdict != OK else [])
    return [first, *(f"{_INDENT} {text}".rstrip() for text in rest)]


def paragraph(text: str) -> list[str]:
    """A text as lines of the terminal."""
    return textwrap.wrap(shown(text), WIDTH, break_on_hyphens=False)


def bundle(facts: Mapping[str, str], lines: Sequence[Line]) -> list[str]:
    """Versions and all lines that are not ok, indented as a code block of Markdown."""
    texts = [", ".join(f"{name} {value}" for name, value in facts.items() if value)]
    for line in lines:
        if line.verdict != OK:
            texts.append(
                f"{line.group}, {line.name}: {line.verdict}{'' if line.needed else ' (not needed)'}. {line.found}"
            )
    width = WIDTH - 8
    return [
        ("    " if index == 0 else "      ") + part
        for text in texts
        for index, part in enumerate(textwrap.wrap(anonymous(text), width, break_long_words=True) or [""])
    ]


def anonymous(text: str) -> str:
    """The text without paths, addresses, and the names of this host, its users and their folders.

    >>> anonymous("cannot open /home/ann/ds2f/run.json at 10.0.0.7:29500")
    'cannot open PATH at ADDRESS'
    """
    text = _PATH.sub("PATH", text)
    text = _ADDRESS.sub("ADDRESS", text)
    for name in _private_names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "NAME", text)
    return shown(text)


def _private_names() -> list[str]:
    names = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    with suppress(KeyError, OSError, RuntimeError):  # a user without a name or a home
        names |= {getpass.getuser(), Path.home().name}
    return sorted(
        (name for name in names if len(name) > 2 and name not in ("root", "localhost")), key=len, reverse=True
    )


def _name(name: str) -> str:
    return f"{name[:_NAME]:{_NAME}}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(shown(text), WIDTH - len(_INDENT) - 1, break_long_words=True, break_on_hyphens=False) or [""]
