"""Transcripts of a run: which are shown, aligned with their references; and the errors of all of them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ds2f import scripts
from ds2f.metrics import count_errors, edit_path
from launch import decoding
from launch.report.run_page.bar_charts import BarChart, Value, bar_chart
from launch.report.run_page.run_record import RunRecord, Spoken, text

_EACH = 3  # utterances with most errors, with a usual number, and without errors
_CELLS = 40_000  # of the alignment of a shown utterance, words times words
_WORD = 200  # characters of a word that are shown
_ONE_CELLS = 400_000  # of the alignment of an utterance that is analysed, characters times characters
_ALL_CELLS, _QUICK_CELLS = 3_000_000, 400_000  # of all that are analysed: four seconds, and half of one
_ROWS = 12  # of a table


class Column(NamedTuple):
    """A word of the reference above the recognised word."""

    said: str
    heard: str
    mark: str  # S, D or I; empty: right


class Count(NamedTuple):
    """The errors of an utterance."""

    errors: int
    size: int
    unit: str  # words or characters


class Sample(NamedTuple):
    """An utterance that is shown."""

    spoken: Spoken
    counted: Count
    columns: list[Column]  # empty: too long to align
    kind: str

    @property
    def name(self) -> str:
        """The last part of the recording's path."""
        return text(self.spoken.audio.rpartition("/")[2], 80)

    @property
    def reference(self) -> str:
        """The beginning of the reference."""
        return text(self.spoken.reference)

    @property
    def hypothesis(self) -> str:
        """The beginning of the transcript."""
        return text(self.spoken.hypothesis)


class Errors(NamedTuple):
    """The errors of a set."""

    utterances: int
    total: int  # utterances of the set, of which some may be left out
    found: dict[str, Any]  # of ``error_analysis.analyse``
    by_length: BarChart | None


def of_one_set(run: RunRecord) -> tuple[str, list[Spoken]]:
    """The transcripts of the validation set, or of the test set if there is no other."""
    for split in ("val", "test"):
        own = [each for each in run.transcripts if each.split == split]
        if own:
            return split, own
    return "", []


def samples(spoken: Iterable[Spoken]) -> list[Sample]:
    """The utterances that are shown: some with most errors, some with a usual number, some without any."""
    counted = [(_count(each), each) for each in spoken]
    wrong = sorted((each for each in counted if each[0].errors), key=lambda each: -each[0].errors)
    right = [each for each in counted if not each[0].errors and each[0].size]
    worst, others = wrong[:_EACH], wrong[_EACH:]
    middle = max(0, len(others) // 2 - _EACH // 2)
    chosen = [("Without errors", each) for each in _spread(right)]
    chosen += [("With a usual number of errors", each) for each in others[middle : middle + _EACH]]
    chosen += [("With most errors", each) for each in worst]
    return [Sample(each, count, _columns(each), kind) for kind, (count, each) in chosen]


def _count(spoken: Spoken) -> Count:
    """The errors of an utterance: of its words, or of its characters where a script has no spaces."""
    counts = count_errors(spoken.reference, spoken.hypothesis)
    if counts.words == 1 < len(scripts.words(spoken.reference)):
        return Count(counts.char_errors, counts.chars, "characters")
    return Count(counts.word_errors, counts.words, "words")


def mixed(shown: Sequence[Sample]) -> list[Sample]:
    """The samples with one of each kind first, so that the first few are of all kinds."""
    places: Counter[str] = Counter()
    order = []
    for each in shown:
        order.append(places[each.kind])
        places[each.kind] += 1
    return [shown[index] for index in sorted(range(len(shown)), key=order.__getitem__)]


def _spread(items: Sequence[Any]) -> list[Any]:
    """Some items from all places of a list."""
    return [items[index * len(items) // _EACH] for index in range(min(_EACH, len(items)))]


def _columns(spoken: Spoken) -> list[Column]:
    said, heard = scripts.words(spoken.reference), scripts.words(spoken.hypothesis)
    if len(said) * len(heard) > _CELLS or len(said) + len(heard) > 200:
        return []
    marks = {(True, False): "D", (False, True): "I", (True, True): "S"}
    return [
        Column(
            text(pair.said or "", _WORD),
            text(pair.heard or "", _WORD),
            "" if pair.is_hit else marks[pair.said is not None, pair.heard is not None],
        )
        for pair in edit_path(said, heard)
    ]


def errors(spoken: Sequence[Spoken], *, quick: bool = False) -> Errors | None:
    """The errors of a set, of a part of it if it is large; None without utterances.

    Args:
      spoken: the utterances.
      quick: take less than a second.
    """
    import re

    from launch.report import error_analysis

    taken: list[Spoken] = []
    room = _QUICK_CELLS if quick else _ALL_CELLS
    for each in spoken:
        cells = (len(each.reference) + 1) * (len(each.hypothesis) + 1)
        if cells <= min(room, _ONE_CELLS):
            room -= cells
            taken.append(each)
    if not taken:
        return None
    found = error_analysis.analyse(
        [decoding.Transcript(each.audio, each.reference, each.hypothesis) for each in taken],
        speaker=re.compile(decoding.SPEAKER),
        names=[each.speaker for each in taken],
    )
    values = [
        Value(_range(row["fewest"], row["most"]), row["rate"], f"{row['rate']:.2f} % of {row['said']} words")
        for row in found["lengths"]
        if row["rate"] is not None
    ]
    chart = bar_chart("Word error rate by length", "word error rate, %", values) if values else None
    return Errors(len(taken), len(spoken), {name: _first(rows) for name, rows in found.items()}, chart)


def _first(rows: Any) -> Any:
    return [_shortened(row) for row in rows[:_ROWS]] if isinstance(rows, list) else rows


def _shortened(row: Any) -> Any:
    """A row of a table, whose texts stay within their cells."""
    if not isinstance(row, dict):
        return row
    return {name: text(value, 60) if isinstance(value, str) else value for name, value in row.items()}


def _range(fewest: int, most: int) -> str:
    return f"{fewest} to {most} words" if fewest < most else f"{fewest} word{'s' * (fewest != 1)}"
