"""What a recognizer says of a recording: segments, words with times and confidences, alternatives; partial results."""

from typing import NamedTuple


class Word(NamedTuple):
    """A word of a transcript."""

    text: str
    start: float  # seconds from the beginning of the recording
    end: float  # seconds
    confidence: float  # probability that the word is right, 0 to 1


class Segment(NamedTuple):
    """A part of a recording between two pauses."""

    start: float  # seconds
    end: float  # seconds
    words: tuple[Word, ...]
    alternatives: tuple[str, ...] = ()  # of the n-best list, all different, best first; empty unless asked for

    @property
    def text(self) -> str:
        """The words, with single spaces between them."""
        return " ".join(word.text for word in self.words)


class Transcript(NamedTuple):
    """The transcript of a recording."""

    segments: tuple[Segment, ...]
    duration: float  # of the recording, seconds
    notes: tuple[str, ...] = ()  # remarks on the recording, such as "silent"

    @property
    def text(self) -> str:
        """The words of all segments, with single spaces between them.

        >>> hello = Segment(0.0, 1.0, (Word("HELLO", 0.1, 0.5, 0.9),))
        >>> Transcript((hello, Segment(2.0, 3.0, ())), duration=3.0).text
        'HELLO'
        """
        return " ".join(segment.text for segment in self.segments if segment.words)

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
