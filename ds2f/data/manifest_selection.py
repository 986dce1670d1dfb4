"""A part of a manifest's utterances: by duration, text and path, and a number or hours of them, always the same."""

import os
import re
from collections.abc import Iterable, Sequence

import attrs

from ds2f.data import division
from ds2f.data.manifests import Utterance


@attrs.frozen(kw_only=True)
class Selection:
    """Which utterances to keep."""

    min_duration: float = 0.0  # seconds
    max_duration: float = float("inf")
    text: re.Pattern[str] | None = None  # found in the transcript
    path: re.Pattern[str] | None = None  # found in the recording's path
    count: int = 0  # utterances at most; 0: all
    hours: float = 0.0  # of speech at most; 0: all
    seed: int = 0  # another one draws others


def select(utterances: Sequence[Utterance], selection: Selection) -> list[Utterance]:
    """The utterances that are selected, in their order.

    Where a number or hours are asked for, the utterances are drawn by the SHA-256 of their paths and beginnings. So the
    same are drawn from a manifest in another order, and fewer are a part of more.
    """
    found = [each for each in utterances if _matches(each, selection)]
    if not selection.count and not selection.hours:
        return found
    drawn: set[int] = set()
    seconds = 0.0
    for each in sorted(found, key=lambda each: _place(each, selection.seed)):
        seconds += each.duration
        too_many = selection.count and len(drawn) == selection.count
        if too_many or (selection.hours and seconds > 3600 * selection.hours):
            break
        drawn.add(each.id)
    return [each for each in found if each.id in drawn]


def _matches(each: Utterance, selection: Selection) -> bool:
    return (
        selection.min_duration <= each.duration <= selection.max_duration
        and (selection.text is None or selection.text.search(each.transcript) is not None)
        and (selection.path is None or selection.path.search(each.audio.as_posix()) is not None)
    )


def _place(each: Utterance, seed: int) -> float:
    return division.fraction(f"{seed} {each.audio.name} {each.start or 0.0:g} {each.transcript}")


def merged(manifests: Iterable[Sequence[Utterance]]) -> tuple[list[Utterance], int]:
    """The utterances of several manifests, one after another, without repetitions, and the number of repetitions.

    Repeated is the same recording from the same moment with the same text, whatever its path is spelt like.
    """
    first: dict[tuple[str, float, str], Utterance] = {}
    number = 0
    for each in (utterance for utterances in manifests for utterance in utterances):
        number += 1
        path = os.path.abspath(each.audio)  # noqa: PTH100  # removes "..", and follows no link
        first.setdefault((path, round(each.start or 0.0, 3), each.transcript), each)
    return [each._replace(id=place) for place, each in enumerate(first.values())], number - len(first)
