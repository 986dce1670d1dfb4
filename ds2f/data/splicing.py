"""New utterances from old ones: recordings are cut in pauses between words, and the pieces joined in another order.

A recurrent model learns the sentences of a small corpus by heart and predicts words from their context. With the words
in ever new orders, it has to recognise each word by its sound. Related: Lam et al. 2021, "On-the-Fly Aligned Data
Augmentation for Sequence-to-Sequence ASR" (arXiv:2104.01393), which replaces words one by one.
"""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# A CTC model emits a character near its beginning, so a word goes on after its last character is emitted.
_AFTER_WORD = 0.06  # seconds from the beginning of a word's last character to the earliest cut
_BEFORE_WORD = 0.02  # seconds from the latest cut to the beginning of the next word
_POWER_WINDOW = 0.025  # seconds over which the power of the signal is averaged
_PAUSE = 0.03  # fraction of the recording's mean power; no cut where the signal is louder
_RAMP = 0.005  # seconds over which one piece fades into the next
_LONGEST = 2  # neighbouring pieces that stay together, at most


class Piece(NamedTuple):
    """Words and their recording."""

    text: str
    samples: NDArray[np.float32]  # [N]


def cut(samples: NDArray[np.float32], text: str, starts: Sequence[float], *, sample_rate: int) -> list[Piece]:
    """Cuts a recording between words, at the quietest moment of every pause.

    Args:
      samples: float32 [N].
      text: the transcript.
      starts: the beginning of each character of ``text``, in seconds, from ``decode.align``.
      sample_rate: hertz.

    Returns:
      Pieces of one or more words, in order; together they are the recording and its text.
    """
    window = round(_POWER_WINDOW * sample_rate)
    power = np.convolve(samples.astype(np.float64) ** 2, np.full(window, 1 / window), mode="same")
    found, place, begins = [], 0, 0
    for space in (index for index, character in enumerate(text) if character == " "):
        first = round((starts[space - 1] + _AFTER_WORD) * sample_rate)
        last = round((starts[space + 1] - _BEFORE_WORD) * sample_rate)
        between = power[first:last]
        if between.size and between.min() < _PAUSE * power.mean():
            quietest = first + int(between.argmin())
            found.append(Piece(text[begins:space], samples[place:quietest]))
            place, begins = quietest, space + 1
    return [*found, Piece(text[begins:], samples[place:])]


def joined(recordings: Sequence[Sequence[Piece]], *, words: int, draw: random.Random, sample_rate: int) -> Piece:
    """Joins pieces, drawn one or two neighbours at a time from any of the recordings, until they have enough words.

    Args:
      recordings: the pieces of each recording, all of one speaker.
      words: the number of words to reach, at least 1.
      draw: the source of random numbers.
      sample_rate: hertz.
    """
    drawn: list[Piece] = []
    while sum(len(piece.text.split()) for piece in drawn) < words:
        source = draw.choice(recordings)
        size = min(draw.randint(1, _LONGEST), len(source))
        start = draw.randint(0, len(source) - size)
        drawn.append(_joined(source[start : start + size]))
    ramp = round(_RAMP * sample_rate)
    return Piece(" ".join(piece.text for piece in drawn), _crossfaded([piece.samples for piece in drawn], ramp))


def recombined(
    recordings: Sequence[Sequence[Piece]], *, copies: int, draw: random.Random, sample_rate: int
) -> Iterator[Piece]:
    """Makes ``copies`` utterances, of about as many words, for each recording of one speaker that has words."""
    spoken = [recording for recording in recordings if any(piece.text for piece in recording)]
    for _ in range(copies):
        for recording in spoken:
            words = sum(len(piece.text.split()) for piece in recording)
            yield joined(spoken, words=words, draw=draw, sample_rate=sample_rate)


def strung(
    utterances: Sequence[Piece], *, seconds: float, longest: float, draw: random.Random, sample_rate: int
) -> Iterator[Piece]:
    """Makes recordings of several whole utterances of any speakers, end to end, as in long recordings without pauses.

    A model that knows single utterances only expects a beginning and an end in every recording.

    Args:
      utterances: to draw from; those longer than half of ``longest`` are not drawn.
      seconds: duration of all recordings together, at least.
      longest: duration of one recording, at most, seconds.
      draw: the source of random numbers.
      sample_rate: hertz.

    Yields:
      Recordings of two utterances or more; none where fewer than two can be drawn.
    """
    limit = round(longest * sample_rate)
    usable = [each for each in utterances if each.text and 0 < len(each.samples) <= limit // 2]
    left = seconds * sample_rate
    while left > 0 and len(usable) > 1:
        drawn = draw.sample(usable, 2)
        size, wanted = sum(len(each.samples) for each in drawn), draw.uniform(0, limit)
        while size + len((following := draw.choice(usable)).samples) <= wanted:
            drawn.append(following)
            size += len(following.samples)
        yield _joined(drawn)
        left -= size


def _joined(neighbours: Sequence[Piece]) -> Piece:
    return Piece(" ".join(piece.text for piece in neighbours), np.concatenate([piece.samples for piece in neighbours]))


def _crossfaded(parts: Sequence[NDArray[np.float32]], ramp: int) -> NDArray[np.float32]:
    whole = parts[0]
    for part in parts[1:]:
        overlap = min(ramp, len(whole), len(part))
        rising = np.linspace(0, 1, overlap, dtype=np.float32)
        before = len(whole) - overlap
        whole = np.concatenate(
            (whole[:before], whole[before:] * (1 - rising) + part[:overlap] * rising, part[overlap:])
        )
    return whole
