"""The values of flags: their text, and the checks of their settings."""

import typing
from typing import Any

from absl import flags

from ds2f.config.settings import Check, Within


class Parser(flags.ArgumentParser[Any]):
    """Converts the text of a flag to the type of its setting, and applies the check of the setting.

    absl shares one parser between flags with equal arguments, so the parser stores its arguments only.
    """

    def __init__(self, kind: type, check: Check | None, *_: Any) -> None:
        """Takes the type of the setting and its check."""
        self._element, self.check = (typing.get_args(kind) or (kind,))[0], check
        self._is_list = typing.get_origin(kind) is tuple
        noun = {int: "an integer", float: "a number", str: ""}[self._element]
        if self._is_list:
            noun = "a comma-separated list" + (f", each {noun}" if noun else "")
        self.syntactic_help = f"{noun} {check}" if isinstance(check, Within) else noun

    def parse(self, argument: Any) -> Any:
        """The value of a text, checked.

        Raises:
          ValueError: the text is of another type or not admissible.
        """
        value = self._convert(argument) if isinstance(argument, str) else argument
        problem = self.check.problem(value) if self.check else None
        if problem:
            raise ValueError(problem)
        return value

    def _convert(self, text: str) -> Any:
        parts = text.split(",") if self._is_list and text else [text]
        try:
            values = tuple(self._element(part) for part in parts) if text or not self._is_list else ()
        except ValueError:
            raise ValueError(f"expected {self.syntactic_help}") from None
        return values if self._is_list else values[0]


class Serializer(flags.ArgumentSerializer[Any]):
    """Writes a value as its flag is written."""

    def serialize(self, value: Any) -> str:
        """The text after ``--name=``."""
        return text_of(value)


def text_of(value: Any) -> str:
    """The text after ``--name=`` that the flag parses back to ``value``."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
