"""``setting``: an attrs field with help text, type and admissible values; flags are made from it."""

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from ds2f.errors import InputError
from ds2f.nearest import did_you_mean

T = TypeVar("T")


@attrs.frozen
class OneOf:
    """Admits the values of an enumeration; of a tuple, every element is checked."""

    choices: tuple[str, ...]

    def problem(self, value: Any) -> str | None:
        """What is wrong with ``value``, or None."""
        strange = [each for each in (value if isinstance(value, tuple) else (value,)) if each not in self.choices]
        if not strange:
            return None
        return f"{strange[0]!r} is not one of {', '.join(self.choices)}{did_you_mean(str(strange[0]), self.choices)}"


@attrs.frozen
class Within:
    """Admits a range of finite numbers, without ``lowest`` if ``open_low``; of a tuple, every element is checked."""

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
    """A check for an enumeration.

    >>> one_of("lstm", "gru").problem("cnn")
    "'cnn' is not one of lstm, gru"
    """
    return OneOf(choices)


def within(lowest: float, highest: float = float("inf"), *, open_low: bool = False) -> Within:
    """A check for a range of finite numbers, inclusive; without ``lowest`` itself if ``open_low``.

    >>> within(0, 1).problem(2)
    '2 is out of range, it must be >= 0 and <= 1'
    """
    return Within(lowest, highest, open_low)


@attrs.frozen
class Needs:
    """What gives a setting its effect: another setting, or a property of a section, with one of some values."""

    setting: str  # with its section, such as optim.schedule
    values: tuple[Any, ...]  # empty: any value that is neither zero, false nor empty
    flags: str  # for the message, such as --lm.path; empty: made from the setting and its values
    decided_by: tuple[str, ...]  # the settings that decide a property; the setting itself, unless it is a property
    lenient: bool  # whether it is enough that one of these settings is named, with whatever value

    def met(self, value: Any) -> bool:
        """Whether ``value`` of the other setting gives the effect."""
        return value in self.values if self.values else bool(value)

    def __str__(self) -> str:
        if self.flags:
            return self.flags
        if self.values == (False,):
            return f"--no{self.setting}"
        return f"--{self.setting}" + (f"={' or '.join(map(str, self.values))}" if self.values else "")


def needs(
    setting: str, *values: Any, flags: str = "", decided_by: tuple[str, ...] = (), lenient: bool = False
) -> Needs:
    """What gives a setting its effect; see ``Needs``.

    >>> str(needs("optim.schedule", "exponential")), needs("model.dropout").met(0.0)
    ('--optim.schedule=exponential', False)
    """
    return Needs(setting, values, flags, decided_by or (setting,), lenient)


def setting(
    default: T,
    description: str,
    check: Check | None = None,
    *,
    derived: bool = False,
    needs: tuple[Needs, ...] = (),
    yields_to: str = "",
) -> T:
    """Makes an attrs field with a help text; a tuple may be given as a list, as in JSON.

    A value of another type than the default, or a value that ``check`` rejects, raises an InputError that starts with
    the field's name. A float field takes integers.

    Args:
      default: the default value; its type is the setting's type.
      description: the help text, with the unit.
      check: the admissible values; None: all of the type.
      derived: whether ``config.resolve`` sets it from other settings; a derived setting has no flag.
      needs: what gives the setting its effect, all of it together; empty: the setting always has one.
      yields_to: a setting that a run makes this one from. A flagfile's value of this one gives way to that one on the
        command line.
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
            raise InputError(f"{attribute.name}: {value!r} is not UTF-8 and could not be written to flags.txt")
        if isinstance(value, str) and {"\n", "\r"} & set(value):
            raise InputError(f"{attribute.name}: {value!r} has a line break and could not be written to flags.txt")

    metadata = {"help": description, "check": check, "derived": derived, "needs": needs, "yields_to": yields_to}
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
    """Makes a ``cls`` from settings by name.

    Args:
      cls: an attrs class whose fields are settings.
      values: settings by name, as from JSON.
      prefix: the section's name and a dot, written before the setting's name in messages.

    Raises:
      InputError: if a setting is unknown, of the wrong type or out of range; the message names it.
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
