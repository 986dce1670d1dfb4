"""Plain values as bytes, for messages between ranks: JSON, because unpickling a message can execute code.

JSON alone has no tuples, sets and integer keys. Each container is written as a list with its kind in front.
"""

import json
from typing import Any

_CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set}


def encode(value: Any) -> bytes:
    """Writes None, booleans, numbers, texts, and lists, tuples, sets and dicts of them. A NamedTuple becomes a tuple.

    >>> encode({1: ("a", None)})
    b'["dict", [1, ["tuple", "a", null]]]'

    Raises:
      TypeError: for a value of another type; the message names the type.
    """
    return json.dumps(_tag(value)).encode()


def decode(message: bytes) -> Any:
    """The inverse of ``encode``.

    >>> decode(encode({1: ("a", None)}))
    {1: ('a', None)}

    Raises:
      ValueError: when ``message`` was not written by ``encode``.
    """
    try:
        return _untag(json.loads(message))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"{message[:80]!r} is no message of a rank: {error}") from error


def _tag(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        return ["dict", *([_tag(key), _tag(item)] for key, item in value.items())]
    for name, kind in _CONTAINERS.items():
        if isinstance(value, kind):
            return [name, *map(_tag, value)]
    raise TypeError(f"a value of type {type(value).__name__} cannot be sent between ranks; send its plain values")


def _untag(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    name, *items = value
    if name == "dict":
        return {_untag(key): _untag(item) for key, item in items}
    return _CONTAINERS[name](map(_untag, items))
