"""Flags without effect beside the others: what a setting needs is declared with it, in ``ds2f.config``."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
from absl import flags

from ds2f.config import Config, sections
from ds2f.config.settings import Needs
from ds2f.errors import InputError

_from_files: dict[str, Path] = {}  # flags whose value a flagfile gave, with the file


def note(sources: Mapping[str, Path]) -> None:
    """Notes which flags have their value from which flagfile, as of ``flagfiles.sources``."""
    _from_files.clear()
    _from_files.update(sources)


def present(flag: str) -> bool:
    """Whether the flag is on the command line or in one of its flagfiles."""
    return flag in flags.FLAGS and flags.FLAGS[flag].present > 0


def typed(flag: str) -> bool:
    """Whether the value is from the command line itself, not from a flagfile."""
    return present(flag) and flag not in _from_files


def require(fields: Mapping[str, "attrs.Attribute[Any]"], value: Callable[[str], Any]) -> None:
    """Raises for flags that have no effect beside the others.

    The flags.txt of a run has every flag, some of them with defaults of another version. A flagfile's flags may lose
    their effect when the command line, or the flagfile around it, changes what they need. Neither is refused.

    Args:
      fields: the fields of settings, by flag.
      value: gives the value of a setting or of a property of a section.

    Raises:
      InputError: the message has all such flags, with what each of them needs.
    """
    idle = []
    for flag, field in fields.items():
        needs = [each for each in field.metadata["needs"] if not _met(each, value(each.setting))]
        if needs and present(flag) and _matters(flag, field.default, needs):
            idle.append(f"--{flag} needs {' and '.join(map(str, needs))}")
    if idle:
        raise InputError(f"flags without effect: {'; '.join(idle)}. Add what is needed, or leave the flag out.")


def _met(need: Needs, value: Any) -> bool:
    """Whether a need is met; for a lenient one it is enough that somebody has thought of it."""
    return need.met(value) or (need.lenient and any(map(present, need.decided_by)))


def _matters(flag: str, default: Any, needs: Iterable[Needs]) -> bool:
    """Whether somebody expects an effect of the flag: who typed it, or who wrote it into a flagfile beside others."""
    if typed(flag):
        return True
    every = sum(len(attrs.fields(cls)) for cls in (Config, *sections().values()))
    file = _from_files[flag]
    by_hand = sum(other == file for other in _from_files.values()) < every / 2
    others = [each for need in needs for each in need.decided_by if present(each)]
    return by_hand and flags.FLAGS[flag].value != default and all(_from_files.get(each) == file for each in others)
