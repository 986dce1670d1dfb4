"""The division of utterances into training, validation and test set: always the same, whole speakers or recordings."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ds2f.errors import InputError

SPLITS = ("train", "val", "test")
_MOST = 1000  # utterances of the validation set, and of the test set: more cost time and tell little


def by_groups(groups: Sequence[str], *, held_out: float, what: str, salt: str = "", most: int = _MOST) -> list[str]:
    """Divides utterances, those of a group together, until a set has its size.

    The groups come in the order of their names' SHA-256. The test set takes groups until the next would make it too
    large, then the validation set; each has at least one group.

    Args:
      groups: of every utterance, its speaker or recording.
      held_out: fraction of the utterances for validation, and again for the test.
      what: the groups, for messages: speakers, recordings.
      salt: stands before the names; another one gives another division.
      most: utterances of the validation set, and of the test set.

    Returns:
      The set of every utterance.

    Raises:
      InputError: there are fewer than three groups.
    """
    counts = Counter(groups)
    if len(counts) < len(SPLITS):
        raise InputError(f"{len(counts)} {what} cannot be divided into training, validation and test set; add some")
    shuffled = sorted(counts, key=lambda name: _digest(salt + name))
    limit = min(most, held_out * len(groups))
    split_of: dict[str, str] = {}
    for rest, split in ((2, "test"), (1, "val")):
        size = counts[shuffled[-1]]
        split_of[shuffled.pop()] = split
        while len(shuffled) > rest and size + counts[shuffled[-1]] <= limit:
            size += counts[shuffled[-1]]
            split_of[shuffled.pop()] = split
    return [split_of.get(group, "train") for group in groups]


def by_hash(names: Sequence[str], *, held_out: float, salt: str = "") -> list[str]:
    """Divides utterances by names alone, so that utterances which join later move no other.

    Args:
      names: of every utterance, such as its recording; equal names come to the same set.
      held_out: probability of the validation set, and again of the test set.
      salt: stands before the names; another one gives another division.

    Returns:
      The set of every utterance.
    """
    return [_of_fraction(fraction(salt + name), held_out) for name in names]


def speaker_in(path: Path, pattern: re.Pattern[str]) -> str:
    """The speaker that a regular expression finds in a recording's path, by its only group.

    Raises:
      InputError: it finds none; the message has an example.
    """
    path = path.absolute()
    found = pattern.search(path.as_posix())
    if not found or found[1] is None:
        above, name = path.parts[-3:-1] if len(path.parts) > 3 else ("wav", "")
        example = f"{re.escape(above)}/([^/]+)/"
        raise InputError(
            f"--speaker={pattern.pattern}: finds no speaker in {path}; correct the expression"
            + (f" ({example!r} finds {name!r})" if name else "")
        )
    return found[1]


def fraction(name: str) -> float:
    """A number from 0 to 1 that depends on the name alone, evenly distributed over names."""
    return int.from_bytes(_digest(name)[:8]) / 2**64


def _of_fraction(value: float, held_out: float) -> str:
    return "test" if value < held_out else "val" if value < 2 * held_out else "train"


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()
