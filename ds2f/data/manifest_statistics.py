"""What is in a manifest: hours, speakers, words and characters, lengths, characters outside the labels."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ds2f import text
from ds2f.data.manifests import Utterance

EDGES = (0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 60.0, 300.0, 1800.0)  # seconds, of the histogram


class Statistics(NamedTuple):
    """The size of a set of utterances."""

    utterances: int
    seconds: float
    speakers: int  # 0: none is known
    words: int
    characters: int  # without spaces
    langs: Counter[str]  # utterances by language; those of no known language are left out
    lengths: tuple[int, ...]  # utterances from each of ``EDGES`` to the next
    shortest: float  # seconds
    median: float
    longest: float
    outside: Counter[str]  # characters that are no labels, in the spelling of the labels


def statistics(utterances: Sequence[Utterance], labels: Sequence[str] | None) -> Statistics:
    """Counts the utterances of a manifest, of which there is at least one.

    Args:
      utterances: with durations.
      labels: the characters of the model; None: nothing counts as outside.
    """
    lengths = sorted(each.duration for each in utterances)
    words = [word for each in utterances for word in each.transcript.split()]
    outside: Counter[str] = Counter()
    for each in utterances if labels else ():
        outside += text.unknown_characters(each.transcript, labels or ())
    bins = Counter(max(index for index, edge in enumerate(EDGES) if edge <= length) for length in lengths)
    return Statistics(
        utterances=len(utterances),
        seconds=sum(lengths),
        speakers=len({each.speaker for each in utterances} - {""}),
        words=len(words),
        characters=sum(map(len, words)),
        langs=Counter(each.lang for each in utterances if each.lang),
        lengths=tuple(bins[index] for index in range(len(EDGES))),
        shortest=lengths[0],
        median=lengths[len(lengths) // 2],
        longest=lengths[-1],
        outside=outside,
    )
