"""The text of ``--help``: the flags of a command by section, each with its default, and the flagfiles there are."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from absl import flags

from ds2f.errors import InputError
from ds2f.nearest import did_you_mean
from launch import flagfiles
from launch.flag_values import Parser, text_of

_WIDEST = 100  # columns; longer lines read badly
_OWN = "flags"  # heading of the flags without a section

_titles: dict[str, str] = {}  # of sections


def name_section(name: str, cls: type) -> None:
    """Gives a section its title, the first sentence of its class's docstring."""
    _titles[name] = (cls.__doc__ or "").partition("\n")[0].partition(": section")[0].rstrip(".")


def page(program: str, *, section: str = "") -> str:
    """The page of help for a command.

    Args:
      program: ``sys.argv[0]``, by which absl knows the command's flags.
      section: show the flags of this section only; empty: all.

    Raises:
      InputError: there is no such section.
    """
    sections = by_section(program)
    if section and section not in sections:
        hint = did_you_mean(section, list(sections)) or f"; the sections are {', '.join(filter(None, sections))}"
        raise InputError(f"--help={section}: no section of flags{hint}")
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    lines = []
    if not section:
        lines += [*_introduction(sys.modules["__main__"].__doc__ or "", width), ""]
        one = f" --help={max(sections)} shows one section." * bool(max(sections))
        lines += _wrapped(f"Each flag stands with its default.{one}", width)
    for name in [section] if section else sections:
        lines += ["", *map(_bold, _wrapped(f"{name or _OWN}: {_titles.get(name, '')}".rstrip(": "), width))]
        for flag in sections[name]:
            lines += _entry(flag, width)
    if not section:
        lines += ["", *_flagfiles("data.batch_size" in flags.FLAGS, width)]
    return "\n".join(lines)


def by_section(program: str) -> dict[str, list["flags.Flag[Any]"]]:
    """The flags of a command by section, those without a section first."""
    found: dict[str, list[flags.Flag[Any]]] = {"": []}
    for flag in dict.fromkeys(flags.FLAGS.flags_by_module_dict().get(program, [])):
        found.setdefault(flag.name.rpartition(".")[0], []).append(flag)
    return {name: members for name, members in found.items() if members}


def choices(flag: "flags.Flag[Any]") -> tuple[str, ...]:
    """The values of an enumeration; empty for other flags."""
    check = flag.parser.check if isinstance(flag.parser, Parser) else None
    return tuple(getattr(flag.parser, "enum_values", ()) or getattr(check, "choices", ()))


def _introduction(text: str, width: int) -> Iterator[str]:
    """The docstring of a command, with the examples on lines of their own.

    >>> list(_introduction("Trains: python -m launch.train.\\n\\nThe ``flags`` follow.", 60))
    ['Trains.', '  python -m launch.train', '', 'The flags follow.']
    """
    apart = re.sub(r"^(.*?): (python -m .*?)(?:(?<=[^.])\.)?$", r"\1.\n\n  \2", text.strip(), flags=re.MULTILINE)
    for number, paragraph in enumerate(apart.replace("``", "").split("\n\n")):
        if paragraph.startswith("  "):
            yield from paragraph.splitlines()[:1]
            yield from _wrapped(" ".join(paragraph.splitlines()[1:]), width)
        else:
            yield from [""] * (number > 0)
            yield from _wrapped(paragraph, width)


def _entry(flag: "flags.Flag[Any]", width: int) -> Iterator[str]:
    default = "" if flag.default is None else text_of(_plain(flag.default))
    if flag.boolean:
        yield f"  --[no]{flag.name}  (default: {'on' if flag.default else 'off'})"
    else:
        kind = ", ".join(map(_named, choices(flag))) or flag.parser.syntactic_help
        yield from _wrapped(f"  --{flag.name}={default}" + (f"  ({kind})" if kind else ""), width, indent=8)
    text = re.sub(r"^<[^>]*>: ", "", flag.help or "")  # absl writes the values of an enumeration there
    yield from _wrapped(f"      {text}", width, indent=6)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _named(choice: str) -> str:
    return choice or "empty"


def _wrapped(text: str, width: int, *, indent: int = 0) -> list[str]:
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, subsequent_indent=" " * indent, drop_whitespace=True, **options)


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else text


def _flagfiles(trains: bool, width: int) -> Iterator[str]:
    """How to name a flagfile; for commands with the settings of a training, the flagfiles there are."""
    yield _bold("flagfiles: a flag per line")
    yield from _wrapped("  --flagfile=FILE, also several; later flags win.", width, indent=6)
    if trains:
        for name, purpose in flagfiles.shipped_files():
            yield from _wrapped(f"  {name}: {purpose}", width, indent=6)


def asked_section(argument: str) -> str | None:
    """The section of ``--help=SECTION``, empty for ``--help`` and ``-h``; None for another argument."""
    name, _, section = argument.partition("=")
    return section if name in ("--help", "-help", "-h", "--helpfull", "--helpshort") else None
