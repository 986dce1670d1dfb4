"""New utterances out of old ones: recordings cut where the speaker pauses between words, the pieces joined anew.

A recurrent model learns the sentences of a small corpus by heart and hears what it has read. The same words in ever
other orders leave it nothing but their sound to go by. Related: Lam et al. 2021, "On-the-Fly Aligned Data Augmentation
for Sequence-to-Sequence ASR" (arXiv:2104.01393), which replaces words one by one.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# A CTC model names a character about when it begins, and the word goes on after its last one is named.
_AFTER_WORD = 0.06  # seconds from the beginning of a word's last character to where a pause may be
_BEFORE_WORD = 0.02  # and from there to the beginning of the next word's first
_POWER_WINDOW = 0.025  # seconds over which the power of the signal is averaged
_PAUSE = 0.03  # of the recording's mean power; what is louder is not cut
_RAMP = 0.005  # seconds over which one piece fades into the next
_LONGEST = 2  # pieces in a row that stay together


class Piece(NamedTuple):
    """Words and how they were said."""

    text: str
    samples: NDArray[np.float32]  # [N]


def cut(samples: NDArray[np.float32], text: str, starts: Sequence[float], *, sample_rate: int) -> list[Piece]:
    """Cuts a recording in the quietest moment between two words, wherever that is a pause.

    Args:
      samples: float32 [N].
      text: what is said.
      starts: when each character of ``text`` begins, in seconds; the best path of a CTC model tells.
      sample_rate: hertz.

    Returns:
      Pieces of a word or more, in order; together they are the recording and its text.
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


def rarity(texts: Iterable[str], *, balance: float) -> Callable[[str], float]:
    """How often a word is to be drawn, by how often the texts have it: ``count ** -balance``.

    Args:
      texts: of all that is cut.
      balance: 0 draws every word as often as it is said, 1 all words alike.

    Returns:
      The weight of a text, the mean of its words'.
    """
    counts = Counter(word for text in texts for word in text.split())
    return lambda text: fmean(counts[word] ** -balance for word in text.split())


def recombined(
    recordings: Sequence[Sequence[Piece]],
    *,
    copies: int,
    weight: Callable[[str], float],
    draw: random.Random,
    sample_rate: int,
) -> Iterator[Piece]:
    """Makes new utterances of one speaker's pieces, of one or two neighbours at a time.

    Args:
      recordings: the pieces of each; those without words are left alone.
      copies: new utterances for each recording, of at least as many words.
      weight: how often pieces are drawn, by their text.
      draw: what is drawn from.
      sample_rate: hertz.
    """
    spoken = [recording for recording in recordings if any(piece.text for piece in recording)]
    runs = [
        _run(recording[start : start + size])
        for recording in spoken
        for size in range(1, _LONGEST + 1)
        for start in range(len(recording) - size + 1)
    ]
    weights = list(itertools.accumulate(weight(run.text) for run in runs))
    for _ in range(copies):
        for recording in spoken:
            words = len(_run(recording).text.split())
            drawn: list[Piece] = []
            while sum(len(run.text.split()) for run in drawn) < words:
                drawn += draw.choices(runs, cum_weights=weights)
            yield joined(drawn, sample_rate=sample_rate)


def joined(pieces: Sequence[Piece], *, sample_rate: int) -> Piece:
    """Joins pieces that were apart; each fades into the next, so that nothing clicks."""
    ramp = round(_RAMP * sample_rate)
    return Piece(" ".join(piece.text for piece in pieces), _crossfaded([piece.samples for piece in pieces], ramp))


def _run(neighbours: Sequence[Piece]) -> Piece:
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
