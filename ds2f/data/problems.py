"""Everything that is wrong with the sets of a run, in one message: by kind, with counts; the whole list in a file."""

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from ds2f.errors import InputError
from ds2f.files import write_atomically
from ds2f.text import shown

_SHOWN = 3  # problems of a kind that a message lists
_KINDS = 8  # kinds of problems of a set that a message lists
_CHARACTERS = 50  # characters outside the labels that a message lists
_PARTICULARS = re.compile(r"^[^:]*[/.][^:]*: |'[^']*'|\d[\d,.]*")  # names and figures


class Problem(NamedTuple):
    """A row of a manifest that cannot be used."""

    where: str  # the row, or the recording
    reason: str  # with the remedy
    characters: Mapping[str, int] = {}  # those of the transcript that are outside the labels, with their counts

    @classmethod
    def of(cls, where: str, error: InputError) -> Self:
        """The problem of an error whose message may begin with the place."""
        return cls(where, str(error).removeprefix(f"{where}: "))

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"

    @property
    def kind(self) -> str:
        """The reason without names and figures."""
        return "characters" if self.characters else _PARTICULARS.sub("", self.reason)


class Remark(NamedTuple):
    """A fact about the data for the user, with the number of utterances and some of their recordings."""

    what: str
    utterances: int
    recordings: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if self.utterances > len(self.recordings) else ""
        return f"{self.utterances} utterance(s) {self.what}: {', '.join(self.recordings)}{more}"


class Checked(NamedTuple):
    """A set that was read."""

    name: str  # train, val or test; empty: the manifest alone
    manifest: str  # its path
    rows: int
    problems: Sequence[Problem]


def require_few(sets: Sequence[Checked], *, limit: int = 0, broken: Sequence[str] = ()) -> dict[str, Remark]:
    """Raises if a set has more rows that cannot be used than the limit.

    Args:
      sets: every set that was read, with its problems.
      limit: ``data.max_unusable``.
      broken: messages about manifests that could not be read at all.

    Returns:
      A remark on each set of which rows are left out, by its name.

    Raises:
      InputError: the message lists every kind of problem with its number and the first examples, and names a file with
        the whole list.
    """
    found = [each for each in sets if each.problems]
    listed = f"; the whole list: {path}" if (path := _written(found)) else ""
    if broken or any(len(each.problems) > limit for each in found):
        lines = [line for each in found for line in _described(each)]
        raise InputError(
            "\n  ".join([*broken, *lines, *_advice(found), *([listed.removeprefix("; ")] if listed else [])])
        )
    what = f"left out, as recordings or transcripts cannot be used (data.max_unusable){listed}"
    return {each.name: Remark(what, len(each.problems), tuple(map(str, each.problems[:_SHOWN]))) for each in found}


def _described(found: Checked) -> list[str]:
    """The lines on one set."""
    kinds: dict[str, list[Problem]] = {}
    for problem in found.problems:
        kinds.setdefault(problem.kind, []).append(problem)
    title = ": ".join(filter(None, (found.name, found.manifest)))
    lines = [f"{title}: {len(found.problems):,} of {found.rows:,} rows cannot be used:"]
    for examples in list(kinds.values())[:_KINDS]:
        lines += map(str, examples[:_SHOWN])
        if (more := len(examples) - _SHOWN) > 0:
            lines.append(f"... and {more:,} more of this kind ({len(examples):,} in all)")
    others = len(kinds) - _KINDS
    return [*lines, *([f"... and {others} other kinds of problems"] if others > 0 else [])]


def _advice(found: Sequence[Checked]) -> list[str]:
    """How to go on: a file of labels, or leaving rows out."""
    strange: Counter[str] = Counter()
    for problem in (problem for each in found for problem in each.problems):
        strange.update(problem.characters)
    lines = []
    if strange:
        named = ", ".join(f"{character!r} {number:,}" for character, number in strange.most_common(_CHARACTERS))
        more = ", ..." if len(strange) > _CHARACTERS else ""
        lines = [
            f"characters outside the labels, in all sets: {named}{more}. Correct the transcripts, make a file of "
            "labels with python -m launch.prepare --labels=labels.json and the same --data.* flags, then pass "
            "--data.labels_path=labels.json, or pass --data.unknown_characters=drop_character (or drop_utterance)."
        ]
    most = max((len(each.problems) for each in found), default=0)
    some_left = most and all(len(each.problems) < each.rows for each in found)
    return [*lines, *([f"to go on without these rows: --data.max_unusable={most}"] if some_left else [])]


def _written(found: Sequence[Checked]) -> str:
    """Writes all problems to a file named by their digest, the same for all ranks; empty if the message shows all."""
    if sum(len(each.problems) for each in found) <= _SHOWN:
        return ""
    content = _listed(found)
    path = Path(tempfile.gettempdir()) / f"data_problems_{hashlib.sha256(content).hexdigest()[:12]}.txt"
    try:
        write_atomically(path, content)
    except OSError:
        return ""
    return str(path)


def write_all(path: Path, sets: Sequence[Checked]) -> None:
    """Writes the problems of all sets to a file, one a line."""
    write_atomically(path, _listed(sets))


def _listed(found: Sequence[Checked]) -> bytes:
    lines = [f"{each.name}\t{shown(str(problem))}\n".lstrip("\t") for each in found for problem in each.problems]
    return "".join(lines).encode(errors="backslashreplace")
