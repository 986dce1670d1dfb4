"""Tests of Lhotse's cuts in their documented form: what is one recording, one span and one text, and what is not."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import manifests
from ds2f.data.problems import Problem


def cut(**changes) -> dict:
    """A cut as lhotse 1.33 writes it."""
    found = {
        "id": "c1",
        "start": 0.25,
        "duration": 0.5,
        "channel": 0,
        "supervisions": [
            {
                **{"id": "s1", "recording_id": "r1", "start": 0.0, "duration": 0.5, "channel": 0},
                **{"text": "Ja, so", "language": "de", "speaker": "ann"},
            }
        ],
        "recording": {
            "id": "r1",
            "sources": [{"type": "file", "channels": [0], "source": "a.wav"}],
            **{"sampling_rate": 16000, "num_samples": 16000, "duration": 1.0, "channel_ids": [0]},
        },
        "custom": {"score": 0.5},
        "features": {"type": "fbank", "storage_path": "feats.h5"},
        "type": "MonoCut",
    }
    return found | changes


def changed(path: str, value) -> dict:
    """The cut with another value at a path such as ``recording.sources.0.type``."""
    found = copy.deepcopy(cut())
    place, (*above, last) = found, [int(name) if name.isdigit() else name for name in path.split(".")]
    for name in above:
        place = place[name]
    place[last] = value
    return found


def read(folder: Path, *cuts: object) -> tuple[list, list[Problem]]:
    soundfile.write(folder / "a.wav", np.ones(16000) / 2, 16000)
    (folder / "cuts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in cuts))
    found: list[Problem] = []
    return manifests.read(folder / "cuts.jsonl", found=found), found


def test_a_cut_is_a_part_with_text_speaker_and_language(tmp_path: Path):
    (utterance,), problems = read(tmp_path, cut())
    assert utterance == (0, tmp_path / "a.wav", "Ja, so", 0.5, 0.25, "ann", "de")
    assert not problems


def test_a_cut_of_all_channels_is_the_recording(tmp_path: Path):
    both = changed("recording.sources.0.channels", [0, 1]) | {"channel": [0, 1], "type": "MultiCut"}
    (utterance,), problems = read(tmp_path, both)
    assert (utterance.transcript, problems) == ("Ja, so", [])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (cut(type="MixedCut", tracks=[]), "a cut of the type 'MixedCut'"),
        (cut(type="PaddingCut"), "a cut of the type 'PaddingCut'"),
        (cut(type="DataCut"), "a cut of the type 'DataCut'"),
        (cut(recording=None), "without its recording"),
        (cut(supervisions=[]), "0 supervisions"),
        (cut(supervisions=cut()["supervisions"] * 2), "2 supervisions"),
        (cut(supervisions="text"), "0 supervisions"),
        (changed("supervisions.0.text", None), "without a text"),
        (changed("recording.transforms", [{"name": "Speed", "kwargs": {"factor": 1.1}}]), "transforms"),
        (changed("recording.sources", []), "of 0 files"),
        (changed("recording.sources", cut()["recording"]["sources"] * 2), "of 2 files"),
        (changed("recording.sources.0.type", "command"), "a recording that is a 'command', not a file"),
        (changed("recording.sources.0.type", "url"), "a recording that is a 'url', not a file"),
        (changed("recording.sources.0.source", 7), "not a file"),
        (changed("recording.sources.0.source", "a\0.wav"), "cannot be a path"),
        (changed("recording.sources.0.channels", [0, 1]), "1 of 2 channels"),
        (cut(start="soon"), "'soon' is not a number of seconds"),
        (cut(start=0.75, duration=2.0), "the row says 2.8 s"),
        (cut(duration=-1), "not a number of seconds"),
        (7, "needs a recording"),
    ],
)
def test_another_cut_is_a_problem_with_its_reason(tmp_path: Path, wrong, reason: str):
    utterances, problems = read(tmp_path, cut(), wrong)
    assert len(utterances) == 1
    assert len(problems) == 1
    assert problems[0].where.endswith("cuts.jsonl:2")
    assert reason in problems[0].reason


def test_a_command_in_a_cut_is_not_executed(tmp_path: Path):
    trap = changed("recording.sources.0", {"type": "command", "channels": [0], "source": f"touch {tmp_path}/ran"})
    assert len(read(tmp_path, cut(), trap)[1]) == 1
    assert not (tmp_path / "ran").exists()
