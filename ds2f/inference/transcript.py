"""What a recognizer says of a recording: segments, words with times and confidences, alternatives; partial results."""

from collections.abc import Iterable
from typing import NamedTuple


class Word(NamedTuple):
    """A word of a transcript."""

    text: str
    start: float  # seconds from the beginning of the recording
    end: float  # seconds
    confidence: float  # probability that the word is right, 0 to 1
    glued: bool = False  # no space before it, as in Chinese, where each character is a word


def joined(words: Iterable[Word]) -> str:
    """The text of words: single spaces between them, but where the script writes none.

    >>> joined([Word("GO", 0, 1, 1), Word("ON", 1, 2, 1)])
    'GO ON'
    >>> joined([Word("你", 0, 1, 1), Word("好", 1, 2, 1, glued=True)])
    '你好'
    """
    return "".join(word.text if word.glued else f" {word.text}" for word in words).removeprefix(" ")


class Segment(NamedTuple):
    """A part of a recording between two pauses."""

    start: float  # seconds
    end: float  # seconds
    words: tuple[Word, ...]
    alternatives: tuple[str, ...] = ()  # of the n-best list, all different, best first; empty unless asked for

    @property
    def text(self) -> str:
        """The words, joined."""
        return joined(self.words)


class Transcript(NamedTuple):
    """The transcript of a recording."""

    segments: tuple[Segment, ...]
    duration: float  # of the recording, seconds
    notes: tuple[str, ...] = ()  # remarks on the recording, such as "silent"

    @property
    def text(self) -> str:
        """The words of all segments, joined.

        >>> hello = Segment(0.0, 1.0, (Word("HELLO", 0.1, 0.5, 0.9),))
        >>> Transcript((hello, Segment(2.0, 3.0, ())), duration=3.0).text
        'HELLO'
        """
        return joined(self.words)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments."""
        return tuple(word for segment in self.segments for word in segment.words)


class Partial(NamedTuple):
    """The text of the open segment so far, with single spaces between the words; later results may change it."""

    start: float  # of the segment, seconds from the beginning of the recording
    end: float  # of what the text is of, seconds
    text: str


class Final(NamedTuple):
    """A segment that has ended. Every stretch of a recording is in one segment at most: silence is in none."""

    segment: Segment  # times count from the beginning of the recording
    last: bool = False  # the recording has ended; the segment is then empty


Result = Partial | Final
