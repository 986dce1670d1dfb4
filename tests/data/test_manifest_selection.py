"""Tests of subsets and unions of manifests."""

import random
import re
from pathlib import Path

from ds2f.data.manifest_selection import Selection, merged, select
from ds2f.data.manifests import Utterance

UTTERANCES = [
    Utterance(place, Path(f"/corpus/{'ab'[place % 2]}/{place}.wav"), f"WORD {place}", 1.0 + place % 5)
    for place in range(300)
]


def test_durations_texts_and_paths_are_selected():
    found = select(
        UTTERANCES, Selection(min_duration=2.0, max_duration=3.0, text=re.compile("7"), path=re.compile("/b/"))
    )
    expected = [n for n in range(300) if n % 5 in (1, 2) and "7" in str(n) and n % 2]
    assert [each.id for each in found] == expected
    assert select(UTTERANCES, Selection()) == UTTERANCES


def test_fewer_are_a_part_of_more_and_the_order_of_the_manifest_does_not_matter():
    few, more = (select(UTTERANCES, Selection(count=count)) for count in (20, 100))
    assert (len(few), len(more)) == (20, 100)
    assert {each.id for each in few} < {each.id for each in more}
    assert [each.id for each in few] == sorted(each.id for each in few)
    shuffled = random.Random(1).sample(UTTERANCES, 300)
    assert {each.audio for each in select(shuffled, Selection(count=20))} == {each.audio for each in few}
    assert select(UTTERANCES, Selection(count=20, seed=1)) != few
    assert select(UTTERANCES, Selection(count=900)) == UTTERANCES


def test_hours_are_not_exceeded():
    found = select(UTTERANCES, Selection(hours=0.1))
    seconds = sum(each.duration for each in found)
    assert 360 - 5 < seconds <= 360


def test_repetitions_are_dropped_however_their_paths_are_spelt():
    one = [UTTERANCES[0], UTTERANCES[1], UTTERANCES[1]._replace(start=0.5)]
    other = [
        UTTERANCES[0]._replace(audio=Path("/corpus/b/../a/0.wav"), speaker="ann"),
        UTTERANCES[1]._replace(transcript="ANOTHER"),
    ]
    found, repeated = merged([one, other])
    assert repeated == 1
    assert [(each.id, each.audio, each.start, each.transcript) for each in found] == [
        (0, Path("/corpus/a/0.wav"), None, "WORD 0"),
        (1, Path("/corpus/b/1.wav"), None, "WORD 1"),
        (2, Path("/corpus/b/1.wav"), 0.5, "WORD 1"),
        (3, Path("/corpus/b/1.wav"), None, "ANOTHER"),
    ]
