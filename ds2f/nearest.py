"""The known names that are nearest to a mistyped one, for messages."""

import difflib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_SIMILAR = 0.66  # of difflib's ratio: one wrong letter of three
_MOST = 3  # names that a message offers


def nearest(name: str, known: Collection[str]) -> list[str]:
    """The names that a mistyped one may stand for, the nearest first; capitals and hyphens make no difference.

    >>> nearest("lstn", ["lstm", "gru"]), nearest("Dev-Clean", ["dev_clean", "test_clean"]), nearest("x", ["lstm"])
    (['lstm'], ['dev_clean'], [])
    """
    plain = {each: _plain(each) for each in known}
    if same := [each for each in known if plain[each] == _plain(name)]:
        return same
    ratios = {each: difflib.SequenceMatcher(None, _plain(name), text).ratio() for each, text in plain.items()}
    near = sorted((each for each in known if ratios[each] >= _SIMILAR), key=lambda each: -ratios[each])
    return [each for each in near if ratios[each] >= ratios[near[0]] - 0.1][:_MOST]


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The nearest names as the end of a message; empty if none is near.

    >>> did_you_mean("lstn", ["lstm", "gru"])
    '. Did you mean lstm?'
    """
    near = nearest(name, known)
    return f". Did you mean {' or '.join(near)}?" if near else ""


def did_you_mean_file(path: Path) -> str:
    """The files beside a missing one whose names without suffix are nearest, as the end of a message; empty if none."""
    stems: dict[str, list[str]] = {}
    with suppress(OSError):
        for each in sorted(file for file in path.parent.iterdir() if file.is_file()):
            stems.setdefault(each.stem, []).append(str(each))
    near = [file for stem in nearest(path.stem, stems) for file in stems[stem]]
    return f". Did you mean {' or '.join(near[:_MOST])}?" if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
