"""Values from outside in Markdown and YAML: shown as they are, without an effect on the page around them.

Names, labels, results and commands come from runs and files of anybody. In a page they stand in code spans, where HTML,
links and emphasis have no meaning; in YAML in double quotes.
"""

import re
from collections.abc import Iterable, Sequence

from ds2f.text import shown

_LONGEST = 1000  # characters of a value
_UNPRINTABLE = re.compile("[\ufeff\ufffe\uffff]")  # readers of YAML refuse them, as they refuse what ``shown`` escapes


def plain(value: object, *, longest: int = _LONGEST) -> str:
    r"""A value in one line without control characters, cut where it is endless.

    >>> plain("a\nb\x1b[31m") == r"a\x0ab\x1b[31m"
    True
    """
    text = _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", shown(str(value)))
    return text if len(text) <= longest else f"{text[:longest]}…"


def code(value: object, *, longest: int = _LONGEST) -> str:
    """A value as a code span.

    >>> code("a|b"), code("<b>`"), code("")
    ('`a|b`', '`` <b>` ``', '` `')
    """
    text = plain(value, longest=longest)
    fence = "`" * (1 + _longest_run(text))
    space = " " if text[:1] in ("`", " ") or text[-1:] in ("`", " ") else ""  # one at each side is not shown
    return f"{fence}{space}{text}{space}{fence}" if text.strip() else f"`{text or ' '}`"


def cell(value: object, *, longest: int = _LONGEST) -> str:
    r"""A value as a code span in a cell of a table.

    >>> print(cell("a|b"))
    `a\|b`
    """
    return code(value, longest=longest).replace("|", "\\|")


def block(lines: Iterable[object], language: str) -> str:
    """Lines as a fenced block: each stays one line, whatever is in it."""
    texts = [plain(line, longest=10 * _LONGEST) for line in lines]
    fence = "`" * max(3, 1 + max(map(_longest_run, texts), default=0))
    return "\n".join((f"{fence}{language}", *texts, fence)) + "\n"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def yaml_text(value: object) -> str:
    r"""A value as a string of YAML, in double quotes.

    >>> print(yaml_text('a: "b"\n'))
    "a: \"b\"\\x0a"
    """
    text = plain(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _longest_run(text: str) -> int:
    """The largest number of backticks in a row."""
    return max(map(len, re.findall("`+", text)), default=0)
