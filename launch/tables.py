"""Tables of text: for the terminal, and in Markdown for the pages."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from ds2f.data.corpora.layout import CorpusSplit


def terminal_table(title: str, texts: Iterable[str], numbers: Iterable[str], *, no_wrap: bool = False) -> "Table":
    """Makes a table without rows, its title at the left.

    Args:
      title: the text above the table.
      texts: headings of the first columns, aligned at the left.
      numbers: headings of the columns after them, aligned at the right.
      no_wrap: whether numbers are cut, not wrapped, on a narrow terminal.
    """
    from rich.table import Table

    table = Table(*texts, title=title, title_justify="left")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=no_wrap)
    return table


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown.

    >>> markdown_table(["a", "b"], [["1", "2"]])
    ['| a | b |', '|---|---|', '| 1 | 2 |']
    """
    lines = [f"| {' | '.join(row)} |" for row in (headings, *rows)]
    return [lines[0], "|---" * len(headings) + "|", *lines[1:]]


def print_sizes(title: str, parts: "Iterable[CorpusSplit]") -> None:
    """Prints the sizes of a corpus's splits; times as h:mm if they come to an hour or more."""
    from rich.console import Console

    parts = tuple(parts)
    long = sum(each.seconds for each in parts) >= 3600
    time = "h:mm" if long else "minutes"
    table = terminal_table(title, ["split"], ("utterances", "speakers", time, "words", "characters"))
    for split in parts:
        minutes = round(split.seconds / 60)
        table.add_row(
            split.split,
            f"{split.utterances:,}",
            f"{split.speakers:,}" if split.speakers else "?",
            f"{minutes // 60:,}:{minutes % 60:02}" if long else f"{split.seconds / 60:.1f}",
            f"{split.words:,}",
            f"{split.characters:,}",
        )
    Console(markup=False, emoji=False).print(table)
