"""Completion in bash and zsh: a script with the commands, their flags and the values of enumerations.

The script is static: nothing of the project runs when the TAB key is pressed. Flags are those of each command, which is
read in a process of its own, since commands have flags of the same name.
"""

import json
import os
import runpy
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ds2f.files import json_text
from launch import flagfiles

SHELLS = ("bash", "zsh")
_SHELL_PARTS = Path(__file__).with_name("completion")  # what is written by hand


class _Flag(NamedTuple):
    name: str
    boolean: bool
    choices: tuple[str, ...]
    takes_path: bool  # any text may be a path


class _Command(NamedTuple):
    name: str
    flags: tuple[_Flag, ...]
    sections: tuple[str, ...]
    words: tuple[str, ...]  # that may come first, such as the actions of launch.manifest


def script(shell: str, names: Sequence[str]) -> str:
    """The script for a shell, to be read by ``source``. No command may have been imported before.

    Args:
      shell: ``bash`` or ``zsh``.
      names: of the commands.
    """
    commands = [_read(name) for name in names]
    functions = [
        _function("_ds2f_commands", [("*", names)], "*"),
        _function("_ds2f_words", [(each.name, each.words) for each in commands if each.words], "$1"),
        _function("_ds2f_flags", [(each.name, _spelt(each.flags)) for each in commands], "$1"),
        _function("_ds2f_values", _values(commands), "$1 $2"),
        _function("_ds2f_paths", _paths(commands), "$1 $2"),
    ]
    written = _SHELL_PARTS.with_suffix(f".{shell}").read_text(encoding="utf-8")
    return "\n".join([f"# Written by python -m launch --completion={shell}.", *functions, written])


def _read(name: str) -> _Command:
    """Reads a command's flags in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as pipe:
                pipe.write(json_text(_of_this_process(name)))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    found = json.loads(text)
    flags = tuple(_Flag(each[0], each[1], tuple(each[2]), each[3]) for each in found["flags"])
    return _Command(name, flags, tuple(found["sections"]), tuple(found["words"]))


def _of_this_process(name: str) -> dict[str, Any]:
    from launch import flag_help, flags

    flags.run = lambda *_, **__: None  # the command is read and does not run
    sys.argv = [name]
    content = runpy.run_module(f"launch.{name}", run_name="__main__")
    sections = flag_help.by_section(sys.argv[0])
    found = [
        (flag.name, flag.boolean, flag_help.choices(flag), isinstance(flag.default, str | None))
        for members in sections.values()
        for flag in members
    ]
    return {"flags": found, "sections": list(filter(None, sections)), "words": list(content.get("_ACTIONS", ()))}


def _spelt(flags: Iterable[_Flag]) -> list[str]:
    """Flags as they are typed: with ``=`` where a value follows."""
    spelt = ["--flagfile=", "--help", "--help=", "--version"]
    for flag in flags:
        spelt += [f"--{flag.name}", f"--no{flag.name}"] if flag.boolean else [f"--{flag.name}="]
    return spelt


def _values(commands: Iterable[_Command]) -> list[tuple[str, Sequence[str]]]:
    cases: list[tuple[str, Sequence[str]]] = [("* --flagfile", [name for name, _ in flagfiles.shipped_files()])]
    for each in commands:
        cases.append((f"{each.name} --help", each.sections))
        cases += [(f"{each.name} --{flag.name}", flag.choices) for flag in each.flags if any(flag.choices)]
    return cases


def _paths(commands: Iterable[_Command]) -> list[tuple[str, Sequence[str]]]:
    """The flags whose value may be a path: ``yes`` for each."""
    cases: list[tuple[str, Sequence[str]]] = [("* --flagfile", ["flags"])]
    for each in commands:
        cases += [
            (f"{each.name} --{flag.name}", ["yes"]) for flag in each.flags if flag.takes_path and not any(flag.choices)
        ]
    return cases


def _function(name: str, cases: Iterable[tuple[str, Sequence[str]]], key: str) -> str:
    """A function of the shell that prints words by its arguments."""
    lines = [f"{name}() {{", f'  case "{key}" in']
    for pattern, words in cases:
        quoted = "*" if pattern == "*" else pattern.replace(" ", "\\ ")
        lines.append(f"    {quoted}) echo {' '.join(map(shlex.quote, filter(None, words)))} ;;")
    return "\n".join([*lines, "  esac", "}"])
