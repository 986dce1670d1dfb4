"""The verdict of a check, one line each: ok, slow, wrong or missing, with the flags that help."""

from collections.abc import Sequence
from typing import Any, NamedTuple

OK, SLOW, WRONG, MISSING = "ok", "slow", "wrong", "missing"
VERDICTS = (OK, SLOW, WRONG, MISSING)


class Line(NamedTuple):
    """A line of the report."""

    group: str  # heading above the line
    name: str
    verdict: str
    found: str  # figures, versions, or what is wrong
    remedy: str = ""  # flags and commands that help; empty where nothing needs help
    needed: bool = True  # whether a training with default flags needs what the line is about

    @property
    def fails(self) -> bool:
        """Whether a training with default flags would fail, or learn wrong things."""
        return self.needed and self.verdict in (WRONG, MISSING)

    def to_dict(self) -> dict[str, Any]:
        """The line as a JSON object."""
        return self._asdict()


def cause(error: BaseException) -> str:
    """The first sentence of an error, at most 160 characters; torch's errors may run to pages.

    >>> cause(RuntimeError("some_kernel is not implemented. This may be because ..."))
    'some_kernel is not implemented'
    """
    sentence = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
    return sentence[:160] or type(error).__name__


def passed(lines: Sequence[Line]) -> bool:
    """Whether nothing is wrong or missing that a training needs.

    >>> passed([Line("cards", "card 0", OK, "free"), Line("versions", "warp-ctc", MISSING, "", needed=False)])
    True
    """
    return bool(lines) and not any(line.fails for line in lines)


def summary(lines: Sequence[Line]) -> str:
    """The counts of all verdicts, and the first lines that fail with their remedies.

    >>> summary([Line("operators", "lstm fp16", WRONG, "zeros", "--model.kernel=scan")])
    '1 wrong: lstm fp16 (--model.kernel=scan)'
    """
    counts = {verdict: sum(line.verdict == verdict for line in lines) for verdict in VERDICTS}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "nothing was checked"
    failing = [f"{line.name} ({line.remedy})" if line.remedy else line.name for line in lines if line.fails]
    more = f", and {len(failing) - 3} more" if len(failing) > 3 else ""
    return told + (f": {'; '.join(failing[:3])}{more}" if failing else "")
