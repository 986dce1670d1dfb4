"""What a setting is: an attrs field that carries its help text, its type and its admissible values."""

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from ds2f.errors import InputError

T = TypeVar("T")


@attrs.frozen
class OneOf:
    """Admits an enumeration; the flag becomes an enum flag."""

    choices: tuple[str, ...]

    def problem(self, value: Any) -> str | None:
        """What is wrong with ``value``, or None."""
        return None if value in self.choices else f"{value!r} is not one of {', '.join(self.choices)}"


@attrs.frozen
class Within:
    """Admits a range of numbers, inclusive unless ``open_low``; every element of a tuple is looked at."""

    lowest: float
    highest: float
    open_low: bool

    def __str__(self) -> str:
        low = f"{'>' if self.open_low else '>='} {self.lowest:g}"
        return low if self.highest == float("inf") else f"{low} and <= {self.highest:g}"

    def problem(self, value: Any) -> str | None:
        """What is wrong with ``value``, or None."""
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, (int, float)):
                return f"{number!r} is not a number"
            low_enough = number > self.lowest if self.open_low else number >= self.lowest
            if not (low_enough and number <= self.highest and number < float("inf")):
                return f"{number} is out of range, it must be {self}"
        return None


Check = OneOf | Within


def one_of(*choices: str) -> OneOf:
    """A check for an enumeration."""
    return OneOf(choices)


def within(lowest: float, highest: float = float("inf"), *, open_low: bool = False) -> Within:
    """A check for a range of finite numbers, inclusive unless ``open_low``."""
    return Within(lowest, highest, open_low)


def setting(default: T, description: str, check: Check | None = None, *, derived: bool = False) -> T:
    """An attrs field with its help text; a tuple may be given as a list, as JSON does.

    The field refuses values of another type than the default's (a float field takes integers) and what ``check``
    finds a problem with, by an InputError that starts with the field's name.

    Args:
      default: the default value; its type is the setting's.
      description: the help text.
      check: the admissible values.
      derived: whether ``config.resolve`` sets it from other settings, so that it has no flag.
    """
    kind = type(default)
    converter: Callable[[Any], Any] | None = _to_tuple if kind is tuple else None

    def validate(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        accepted = (int, float) if kind is float else (kind,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise InputError(f"{attribute.name}: {value!r} is not of type {kind.__name__}")
        problem = check.problem(value) if check else None
        if problem:
            raise InputError(f"{attribute.name}: {problem}")
        if isinstance(value, str) and not _is_unicode(value):
            raise InputError(f"{attribute.name}: {value!r} is not UTF-8, so that no file could name it")

    metadata = {"help": description, "check": check, "derived": derived}
    return attrs.field(default=default, validator=validate, converter=converter, metadata=metadata)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def build(cls: type[T], values: dict[str, Any], *, prefix: str = "") -> T:
    """Makes ``cls`` from settings by name; what goes wrong is told with ``prefix``, the section and a dot.

    Raises:
      InputError: when a setting is unknown, of the wrong type or out of range; the message names it.
    """
    if not isinstance(values, dict):
        raise InputError(f"{prefix.rstrip('.')}: {values!r} is not a section of settings")
    unknown = values.keys() - {field.name for field in attrs.fields(cls)}  # type: ignore[arg-type]
    if unknown:
        names = sorted(prefix + name for name in unknown)
        raise InputError(f"unknown settings {names}; were they written by a newer version?")
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{prefix}{error}") from error
