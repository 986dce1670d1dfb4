"""What is left out of a corpus, and why: counted with examples, and all of it in a file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ds2f.data.corpora.readers import LeftOut
from ds2f.files import write_atomically
from ds2f.text import shown

_EXAMPLES = 3  # recordings named for every reason


class Why(NamedTuple):
    """Why utterances are left out."""

    number: int
    examples: tuple[str, ...]


def reasons_of(left_out: Iterable[LeftOut]) -> dict[str, Why]:
    """The reasons, in the order in which they came up, with numbers of utterances and examples."""
    found: dict[str, Why] = {}
    for each in left_out:
        number, examples = found.get(each.why, Why(0, ()))
        found[each.why] = Why(number + 1, (*examples, each.where)[:_EXAMPLES])
    return found


def write_list(path: Path, left_out: Sequence[LeftOut]) -> Path | None:
    """Writes all that is left out to a file, a line each; without anything, an earlier file is removed.

    Returns:
      The path, if there is anything.
    """
    path.unlink(missing_ok=True)
    if not left_out:
        return None
    write_atomically(path, "".join(f"{each.why}\t{shown(each.where)}\n" for each in left_out))
    return path
