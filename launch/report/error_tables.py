"""An error analysis as tables on the terminal."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ds2f.scripts import width
from ds2f.text import shown
from launch.report.error_analysis import E_SET, SHORT

NOTHING = "-"
_TITLE, _WRONG = "bold", "bold red"
_HEARD = 6  # recognised words in the row of a word
_INDENT = 8  # columns to the left of an alignment


def show(found: dict[str, Any], console: Console, *, rows: int, worst: int) -> None:
    """Prints an analysis.

    Args:
      found: the result of ``error_analysis.analyse``.
      console: the terminal.
      rows: number of rows of a long table.
      worst: number of utterances.
    """
    found = _escaped(found)
    for table in tables(found, rows):
        console.print(table, soft_wrap=False)
    for line in _short(found, rows):
        console.print(line)
    if shown := found["wrong"][:worst]:
        title = _title("Utterances with most errors", len(found["wrong"]), worst)
        console.print(Text(title, style=_TITLE))
        console.print("S: substitution, D: deletion, I: insertion\n")
        for row in shown:
            console.print(_utterance(row, console.width))


def _escaped(found: Any) -> Any:
    """The analysis with every name and text as people see it."""
    if isinstance(found, dict):
        return {key: _escaped(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_escaped(value) for value in found]
    return shown(found) if isinstance(found, str) else found


def tables(found: dict[str, Any], rows: int) -> Iterator[RenderableType]:
    """The tables of an analysis, each of at most ``rows`` rows, within 80 columns."""
    yield _counts_table(found)
    yield _classes_table(found["classes"])
    if any(row["said"] for row in found["e_set"]):
        yield _e_set_table(found["e_set"])
    wrong = [row for row in found["words"] if row["wrong"]]
    yield _words_table(wrong[:rows], _title("Words with most errors", len(wrong), rows))
    for name, key in (("Confusions of words", "confusions"), ("Confusions of characters", "character_confusions")):
        if pairs := found[key]:
            title = _title(f"{name}, reference > transcript ({NOTHING}: none)", len(pairs), rows)
            yield Text(title, style=_TITLE)
            yield Padding(Columns(map(_pair, pairs[:rows]), padding=(0, 4, 0, 0)), (1, 1))
    yield _groups_table(found["speakers"][:rows], "speaker", _title("Speakers", len(found["speakers"]), rows))
    yield _groups_table(found["lengths"], "words each", "Quartiles of the set, by length")


def _counts_table(found: dict[str, Any]) -> Table:
    title = f"Errors in {found['utterances']:,} utterances"
    table = _table(title, "", "reference", "hits", "substituted", "deleted", "inserted", "errors", "rate %")
    for name, counts in found["counts"].items():
        operations = ("said", "hits", "substitutions", "deletions", "insertions", "errors")
        table.add_row(name, *(f"{counts[key]:,}" for key in operations), _rate(counts["rate"], 3))
    return table


def _classes_table(classes: Iterable[dict[str, Any]]) -> Table:
    table = _table(
        "Letter names and other words", "", "reference", "substituted", "in class", "deleted", "inserted", "of errors"
    )
    for row in classes:
        numbers = ("said", "mistaken", "mistaken_within", "missed", "inserted")
        share = f"{row['share']:.0f} %" if row["share"] is not None else NOTHING
        table.add_row(row["class"], *(f"{row[key]:,}" for key in numbers), share)
    return table


def _e_set_table(letters: Iterable[dict[str, Any]]) -> Table:
    table = _table("The E-set: reference (rows) and transcript", "", "count", *E_SET, "letter", "word", NOTHING)
    for row in letters:
        cells = [
            Text(str(count or "."), style="" if letter == row["letter"] or not count else _WRONG)
            for letter, count in row["heard_as"].items()
        ]
        others = (str(row[key] or ".") for key in ("other_letters", "other_words", "missed"))
        table.add_row(row["letter"], str(row["said"]), *cells, *others)
    return table


def _words_table(words: Iterable[dict[str, Any]], title: str) -> Table:
    table = _table(title, "word", "reference", "errors", "errors %")
    table.add_column("recognised as", overflow="fold")
    for row in words:
        rate = 100 * row["wrong"] / row["said"] if row["said"] else None
        heard = "  ".join(f"{each['heard'] or NOTHING} {each['count']}" for each in row["heard_as"][:_HEARD])
        if len(row["heard_as"]) > _HEARD:
            heard += f"  and {len(row['heard_as']) - _HEARD} others"
        table.add_row(row["word"] or NOTHING, str(row["said"]), str(row["wrong"]), _rate(rate, 0), heard)
    return table


def _pair(pair: dict[str, Any]) -> Text:
    return Text(f"{pair['said'] or NOTHING} > {pair['heard'] or NOTHING} ").append(str(pair["count"]), style="bold")


def _groups_table(groups: Iterable[dict[str, Any]], key: str, title: str) -> Table:
    table = _table(title, key, "utterances", "words", "errors", "errors %")
    for row in groups:
        name = row.get("speaker") or "(not named)"
        if "fewest" in row:
            name = f"{row['fewest']} to {row['most']}" if row["fewest"] < row["most"] else str(row["fewest"])
        numbers = (f"{row[column]:,}" for column in ("utterances", "said", "errors"))
        table.add_row(name, *numbers, _rate(row["rate"], 2))
    return table


def _short(found: dict[str, Any], rows: int) -> Iterator[Text]:
    for key, amount in (("empty", "no characters"), ("truncated", f"less than {100 * SHORT:.0f} % of the characters")):
        shown = found[key][:rows]
        yield Text(
            f"{len(found[key])} of {found['utterances']} utterances have a transcript with {amount}", style=_TITLE
        )
        yield from (Text(f"  {audio}") for audio in shown)
    yield Text("")


def _utterance(row: dict[str, Any], columns: int) -> Text:
    """The transcript under the reference, word under word, with the errors marked in a third line."""
    head = f"{row['audio']}: {row['errors']} errors, {row['said']} words\n"
    return Text("").join([Text(head, style="bold"), *_lines(row["alignment"], columns)])


def _lines(alignment: Sequence[tuple[str | None, str | None]], columns: int) -> Iterator[Text]:
    for row in _wrapped(alignment, columns - _INDENT):
        lines = [Text("  REF   "), Text("  HYP   "), Text(" " * _INDENT)]
        for said, heard in row:
            size = max(width(said or ""), width(heard or "")) + 1
            is_hit = said == heard
            style = "" if is_hit else _WRONG
            mark = "" if is_hit else "I" if said is None else "D" if heard is None else "S"
            for line, text in zip(lines, (said or "", heard or "", mark), strict=True):
                line.append(text + " " * (size - width(text)), style=style)
        for line in lines:
            line.rstrip()
            if line:
                yield line.append("\n")


def _wrapped(alignment: Sequence[tuple[str | None, str | None]], columns: int) -> Iterator[list[Any]]:
    row: list[Any] = []
    used = 0
    for pair in alignment:
        size = max(width(word or "") for word in pair) + 1
        if row and used + size > columns:
            yield row
            row, used = [], 0
        row.append(pair)
        used += size
    if row:
        yield row


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style=_TITLE, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _title(name: str, total: int, rows: int) -> str:
    return f"{name}: {rows} of {total}" if total > rows else name


def _rate(rate: float | None, digits: int) -> str:
    return NOTHING if rate is None else f"{rate:.{digits}f}"
