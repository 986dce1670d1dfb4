"""Flagfiles: a flag per line, comments after # or //, further flagfiles inside. Read here, before absl sees the flags.

Files are read as people have them: UTF-8 with or without a byte-order mark, UTF-16, Windows line ends, a value in
quotation marks, ``--flagfile`` with a path from the folder of the file that names it.
"""

import codecs
import itertools
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ds2f.errors import InputError
from ds2f.files import RECORD_BYTES, expand_home, read_bounded
from ds2f.nearest import nearest

_LINE_END = re.compile(r"\r\n|\r|\n")  # of all systems; str.splitlines knows more, which are characters of names
_QUOTES = "\"'"


class Argument(NamedTuple):
    """An argument of a command, after its flagfiles are read."""

    text: str
    file: Path | None = None  # the flagfile that holds it; None: the command line


def expanded(arguments: Iterable[str]) -> Iterator[Argument]:
    """The arguments of a command line, with the lines of a flagfile in place of ``--flagfile``.

    ``~`` at the beginning of an argument is expanded: in quotation marks, or from a program, it comes as it is.

    Args:
      arguments: the command line without the program.

    Raises:
      InputError: a flagfile cannot be read, holds something else than flags, or names itself.
    """
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            yield Argument(argument)
            yield from (Argument(expand_home(each)) for each in rest)
            return
        option, equals, value = argument.partition("=")
        if option in ("--flagfile", "-flagfile"):
            name = value if equals else next(rest, "")
            if not equals and not name:
                raise InputError("--flagfile has no file: give --flagfile=FILE")
            if name:  # as absl does, an empty name is no file
                yield from _lines(shipped(Path(expand_home(name))), inside=())
        else:
            yield Argument(expand_home(argument))


def before_end(arguments: Iterable[Argument]) -> Iterator[Argument]:
    """The arguments before ``--``."""
    return itertools.takewhile(lambda each: each.text != "--", arguments)


def sources(arguments: Iterable[Argument], known: Container[str]) -> dict[str, Path]:
    """The flags that have their value, the last one given, from a flagfile; with the file.

    Args:
      arguments: as of ``expanded``.
      known: the names of the command's flags.
    """
    found: dict[str, Path] = {}
    for text, file in before_end(arguments):
        name = text.lstrip("-").partition("=")[0]
        flag = name if name in known else name.removeprefix("no")
        found.pop(flag, None)
        if file is not None and flag in known:
            found[flag] = file
    return found


def last_name(arguments: Iterable[str]) -> str | None:
    """The stem of the last ``--flagfile`` in a command line without the program, or None."""
    name = None
    rest = iter(arguments)
    for argument in itertools.takewhile(lambda each: each != "--", rest):
        option, equals, value = argument.partition("=")
        if option in ("--flagfile", "-flagfile"):
            name = value if equals else next(rest, None)
    return Path(name).stem if name else None


def quoted(value: str) -> str:
    """A value as a flagfile holds it: in quotation marks if a reader would take something away from it."""
    bare = value == value.strip() and (len(value) < 2 or value[0] not in _QUOTES or value[0] != value[-1])
    return value if bare else f'"{value}"'


def shipped(path: Path) -> Path:
    """The path, or the project's own file of this name, such as configs/an4_1p.flags, if nothing is there."""
    own = Path(__file__).parent / path
    return own if path.parts[:1] == ("configs",) and own.exists() and not path.exists() else path


def shipped_files() -> list[tuple[str, str]]:
    """The project's own flagfiles: name, such as configs/an4_1p.flags, and purpose, by its comment."""
    folder = Path(__file__).parent / "configs"
    return [(f"configs/{path.name}", _purpose(path)) for path in sorted(folder.glob("*.flags"))]


def _purpose(path: Path) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.strip("# ") for line in lines).partition(". ")[0].rstrip(".")


def _lines(path: Path, *, inside: tuple[Path, ...]) -> Iterator[Argument]:
    if path.resolve() in inside:
        raise InputError(f"{path}: a flagfile that names itself; remove the line --flagfile={path}")
    for number, line in enumerate(_LINE_END.split(_text(path)), 1):
        flag = line.strip()
        if not flag or flag.startswith(("#", "//")):
            continue
        if not flag.startswith("-"):
            raise InputError(f"{path}, line {number}: {flag[:80]!r} is no flag; a line reads --name=value")
        option, equals, value = flag.partition("=")
        value = _unquoted(value.strip())
        if option in ("--flagfile", "-flagfile"):
            named = shipped(Path(expand_home(value)))
            beside = path.parent / named
            yield from _lines(
                named if named.exists() or not beside.exists() else beside, inside=(*inside, path.resolve())
            )
        else:
            yield Argument(f"{option.rstrip()}{equals}{value}", path)


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] in _QUOTES and value[0] == value[-1] else value


def _text(path: Path) -> str:
    try:
        content = read_bounded(path, RECORD_BYTES, remedy="A flagfile has a flag per line.")
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except FileNotFoundError as error:
        near = _near(path)
        remedy = f"Did you mean {' or '.join(near)}?" if near else "Check the path; --help lists the project's own."
        raise InputError(f"cannot read the flagfile {path}: no such file. {remedy}") from error
    except OSError as error:
        raise InputError(f"cannot read the flagfile {path}: {error.strerror or error}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read the flagfile {path}, it is not text in UTF-8 or UTF-16: {error}") from error


def _near(path: Path) -> list[str]:
    """Flagfiles with a similar name: beside the one that is missing, in the folder of the command, and shipped."""
    own = dict(shipped_files())
    beside = [str(each) for folder in (path.parent, Path()) for each in folder.glob("*.flags")]
    names = {Path(each).stem: each for each in (*own, *beside)}
    return [names[stem] for stem in nearest(path.stem, names)]
