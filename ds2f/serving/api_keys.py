"""Bearer tokens that clients must know, compared in constant time."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from ds2f.errors import InputError
from ds2f.files import read_bounded

_BYTES = 1 << 20
_SHORTEST = 16  # characters of a key
_REMEDY = "Give a file with a key on every line, such as: openssl rand -hex 32 > FILE"


class ApiKeys:
    """The keys, as hashes: all have one length, and a comparison takes the same time whatever the difference.

    >>> ApiKeys(["correct horse battery"]).known("correct horse battery")
    True
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [sha256(key.encode()).digest() for key in keys]

    def known(self, key: str) -> bool:
        """Whether a client's key is one of the keys; all are compared."""
        given = sha256(key.encode("utf-8", "surrogateescape")).digest()
        return bool(sum([hmac.compare_digest(given, each) for each in self._hashes]))


def read_keys(path: Path) -> ApiKeys:
    """Reads a file with a key on every line; empty lines, and lines that begin with #, are left out.

    Raises:
      InputError: the file cannot be read, has no key, or a key that is too short. The message shows no key.
    """
    try:
        content = read_bounded(path, _BYTES, remedy=_REMEDY)
    except OSError as error:
        raise InputError(f"--api_keys={path}: {error.strerror}. {_REMEDY}") from error
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise InputError(f"--api_keys={path}: no key in the file. {_REMEDY}")
    for number, line in enumerate(lines, start=1):
        if line in keys and (len(line) < _SHORTEST or not line.isascii() or " " in line):
            raise InputError(
                f"--api_keys={path}: line {number}: a key has {_SHORTEST} or more ASCII characters, no space. {_REMEDY}"
            )
    return ApiKeys(keys)
