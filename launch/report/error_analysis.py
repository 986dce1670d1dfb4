"""The errors of a set of transcripts, by word, letter, character, speaker and length.

Words are those of ``ds2f.scripts.words``: in Chinese and Japanese each character is a word. The alignments are those of
``ds2f.metrics.edit_path``. Results are plain values, ready for JSON. In a pair of reference
(``said``) and transcript (``heard``), ``None`` marks an insertion or a deletion.
"""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, repeat
from statistics import quantiles
from typing import Any, NamedTuple

from ds2f import scripts
from ds2f.metrics import Operations, Pair, count_operations, edit_path
from launch.decoding import Transcript

E_SET = "BCDEGPTVZ"  # letters whose American names rhyme
SHORT = 0.5  # share of the characters of the reference; a transcript with fewer is truncated
CLASSES = ("E-set letters", "other letters", "other words")


class _Aligned(NamedTuple):
    source: Transcript
    speaker: str | None
    words: list[Pair]
    characters: list[Pair]

    @property
    def size(self) -> int:
        """Number of words in the reference."""
        return len(scripts.words(self.source.reference))


def analyse(
    transcripts: Iterable[Transcript], *, speaker: re.Pattern[str], names: Iterable[str | None] = ()
) -> dict[str, Any]:
    """Counts the errors of a set of utterances by word, character, speaker and length.

    Args:
      transcripts: all utterances of the set.
      speaker: a pattern whose first group, in the path of a recording, is the name of the speaker.
      names: the speakers of the transcripts in their order, where they are known otherwise; None: by the pattern.

    Returns:
      A dictionary. Rates are in percent, ``None`` for an empty reference.

      - ``utterances``: their number.
      - ``counts``: hits and errors over ``words`` and over ``characters`` (without spaces).
      - ``classes``: errors by class of word, see ``CLASSES``.
      - ``e_set``: each letter of ``E_SET``, with the words recognised in its place.
      - ``words``: each word with the words recognised in its place, most errors first.
      - ``confusions``, ``character_confusions``: pairs of reference and transcript, most frequent first.
      - ``speakers``: errors by speaker, highest rate first.
      - ``lengths``: errors by quartile of the number of words.
      - ``empty``, ``truncated``: recordings with an empty transcript, or less than half of the characters.
      - ``wrong``: the utterances with errors, aligned word by word, most errors first.
    """
    named = zip(transcripts, chain(names, repeat(None)), strict=False)
    aligned = [_align(transcript, name or _named(transcript, speaker)) for transcript, name in named]
    words = Counter(chain.from_iterable(each.words for each in aligned))
    characters = Counter(chain.from_iterable(each.characters for each in aligned))
    return {
        "utterances": len(aligned),
        "counts": {"words": _counts(words.elements()), "characters": _counts(characters.elements())},
        "classes": _classes(words),
        "e_set": _e_set(words),
        "words": _words(words),
        "confusions": _confusions(words),
        "character_confusions": _confusions(characters),
        "speakers": _speakers(aligned),
        "lengths": _lengths(aligned),
        "empty": [each.source.audio for each in aligned if each.source.reference and not each.source.transcript],
        "truncated": [each.source.audio for each in aligned if _is_truncated(each.source)],
        "wrong": _wrong(aligned),
    }


def word_class(word: str) -> str:
    """The class of a word, one of ``CLASSES``. The name of a letter is written as that letter.

    >>> word_class("B"), word_class("A"), word_class("ENTER")
    ('E-set letters', 'other letters', 'other words')
    """
    is_letter = len(word) == 1 and word.isalpha() and not scripts.ends_word(word, word)  # 好 is a word
    return CLASSES[0] if is_letter and word.upper() in E_SET else CLASSES[1] if is_letter else CLASSES[2]


def _named(transcript: Transcript, speaker: re.Pattern[str]) -> str | None:
    match = speaker.search(transcript.audio)
    return match and match[1]


def _align(transcript: Transcript, speaker: str | None) -> _Aligned:
    said, heard = scripts.words(transcript.reference), scripts.words(transcript.transcript)
    return _Aligned(transcript, speaker, edit_path(said, heard), edit_path("".join(said), "".join(heard)))


def _counts(pairs: Iterable[Pair]) -> dict[str, Any]:
    return _with_rate(count_operations(pairs))


def _with_rate(counts: Operations) -> dict[str, Any]:
    rate = round(counts.rate, 4) if counts.said else None
    return {"said": counts.said, **counts._asdict(), "errors": counts.errors, "rate": rate}


def _classes(pairs: Mapping[Pair, int]) -> list[dict[str, Any]]:
    """Errors by class: of the word in the reference, or, for an insertion, of the word in the transcript."""
    rows = {name: {"said": 0, "mistaken_within": 0, "mistaken": 0, "missed": 0, "inserted": 0} for name in CLASSES}
    for (said, heard), count in pairs.items():
        row = rows[word_class(said or heard or "")]
        row["said"] += count * (said is not None)
        row["missed"] += count * (heard is None)
        row["inserted"] += count * (said is None)
        if said is not None and heard is not None and said != heard:
            row["mistaken"] += count
            row["mistaken_within"] += count * (word_class(said) == word_class(heard))
    errors = sum(count for pair, count in pairs.items() if not pair.is_hit)
    return [
        {"class": name, **row, "share": _share(row["mistaken"] + row["missed"] + row["inserted"], errors)}
        for name, row in rows.items()
    ]


def _share(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 4) if whole else None


def _e_set(pairs: Mapping[Pair, int]) -> list[dict[str, Any]]:
    """A row per letter of the E-set: the recognised words in its place, hits included, and its deletions."""
    rows = []
    for letter in E_SET:
        heard = {pair.heard: count for pair, count in pairs.items() if pair.said == letter}
        inside = {other: heard.get(other, 0) for other in E_SET}
        missed = heard.get(None, 0)
        letters = sum(count for word, count in heard.items() if word and word_class(word) == CLASSES[1])
        words = sum(count for word, count in heard.items() if word and word_class(word) == CLASSES[2])
        rows.append(
            {"letter": letter, "said": sum(heard.values()), "heard_as": inside}
            | {"other_letters": letters, "other_words": words, "missed": missed}
        )
    return rows


def _words(pairs: Mapping[Pair, int]) -> list[dict[str, Any]]:
    """A row per word of the references, and a row with the word None for insertions."""
    heard_as: dict[str | None, list[tuple[str | None, int]]] = defaultdict(list)
    for pair, count in _by_frequency(pairs):
        heard_as[pair.said].append((pair.heard, count))
    rows: list[dict[str, Any]] = []
    for word, heard in heard_as.items():
        said = sum(count for _, count in heard) if word is not None else 0
        wrong = sum(count for other, count in heard if other != word)
        mistakes = [{"heard": other, "count": count} for other, count in heard if other != word]
        rows.append({"word": word, "said": said, "wrong": wrong, "heard_as": mistakes})
    return sorted(rows, key=lambda row: (-row["wrong"], -row["said"], row["word"] or ""))


def _confusions(pairs: Mapping[Pair, int]) -> list[dict[str, Any]]:
    return [{**pair._asdict(), "count": count} for pair, count in _by_frequency(pairs) if not pair.is_hit]


def _by_frequency(pairs: Mapping[Pair, int]) -> list[tuple[Pair, int]]:
    return sorted(pairs.items(), key=lambda item: (-item[1], item[0].said or "", item[0].heard or ""))


def _speakers(aligned: Sequence[_Aligned]) -> list[dict[str, Any]]:
    rows = [{"speaker": name, **group} for name, group in _groups(aligned, lambda each: each.speaker)]
    return sorted(rows, key=lambda row: (-(row["rate"] or 0), row["speaker"] or ""))


def _lengths(aligned: Sequence[_Aligned]) -> list[dict[str, Any]]:
    """Errors by quartile of the number of words. Equal lengths share a quartile, so that a quartile may be missing."""
    sizes = [each.size for each in aligned]
    cuts = quantiles(sizes, n=4, method="inclusive") if len(sizes) > 1 else []
    rows = []
    for quartile, group in _groups(aligned, lambda each: bisect_left(cuts, each.size)):
        inside = [size for size in sizes if bisect_left(cuts, size) == quartile]
        rows.append({"fewest": min(inside), "most": max(inside), **group})
    return sorted(rows, key=lambda row: row["fewest"])


def _groups(aligned: Iterable[_Aligned], key: Callable[[_Aligned], Any]) -> Iterable[tuple[Any, dict[str, Any]]]:
    members = defaultdict(list)
    for each in aligned:
        members[key(each)].append(each)
    for name, group in members.items():
        counts = _counts(chain.from_iterable(each.words for each in group))
        yield name, {"utterances": len(group), **counts}


def _is_truncated(source: Transcript) -> bool:
    said, heard = ("".join(each.split()) for each in (source.reference, source.transcript))
    return bool(heard) and len(heard) < SHORT * len(said)


def _wrong(aligned: Iterable[_Aligned]) -> list[dict[str, Any]]:
    rows = [
        {"audio": each.source.audio, "speaker": each.speaker, **_counts(each.words)}
        | {"character_errors": count_operations(each.characters).errors}
        | {"reference": each.source.reference, "transcript": each.source.transcript, "alignment": each.words}
        for each in aligned
        if scripts.words(each.source.reference) != scripts.words(each.source.transcript)
    ]
    return sorted(rows, key=lambda row: (-row["errors"], -row["character_errors"], row["audio"]))
