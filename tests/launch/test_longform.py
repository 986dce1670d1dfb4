"""Tests of launch.longform: joined recordings have their utterances where they say, and words are compared there."""

import json

import numpy as np
import pytest
import soundfile

from ds2f import config, steps
from ds2f.checkpoint import Checkpoints
from ds2f.config import Config, DataConfig, ModelConfig
from ds2f.inference.transcript import Segment, Transcript, Word
from ds2f.optim import adamw
from launch import longform
from launch.longform import Joined, Said

RATE = 1000


def transcript(*words: tuple[str, float]) -> Transcript:
    said = tuple(Word(text, start, start + 0.1, 0.5) for text, start in words)
    return Transcript((Segment(0.0, 9.0, said),), 9.0)


def utterances(count: int) -> list[Said]:
    random = np.random.default_rng(0)
    sounds = [random.normal(0, 0.1, 900 + 37 * number).clip(-1, 1).astype(np.float32) for number in range(count)]
    return [Said(samples, f"WORD{number}", transcript()) for number, samples in enumerate(sounds)]


@pytest.mark.parametrize("pauses", [(0.0, 0.0), (0.3, 1.5)])
def test_utterances_are_where_the_recording_says(tmp_path, monkeypatch, pauses):
    monkeypatch.setattr(longform.absl_flags, "FLAGS", type("Flags", (), {"seed": 3}))
    said = utterances(5)
    joined = longform._join(said, pauses, tmp_path, minutes=0.2, rate=RATE)
    samples, rate = soundfile.read(joined.path, dtype="float32")
    assert (rate, len(samples)) == (RATE, round(joined.seconds * RATE))
    assert 12 <= joined.seconds < 12 + 3
    assert {each.reference for _, each in joined.parts[:5]} == {each.reference for each in said}
    ends = []
    for begin, each in joined.parts:
        first = round(begin * RATE)
        np.testing.assert_allclose(samples[first : first + len(each.samples)], each.samples, atol=1e-4)
        ends.append(begin + len(each.samples) / RATE)
    gaps = [begin - end for (begin, _), end in zip(joined.parts[1:], ends, strict=False)]
    assert min(gaps) >= pauses[0] - 1e-3
    assert max(gaps) <= pauses[1] + 1e-3


def test_words_that_are_the_same_are_compared_where_they_were_put(tmp_path):
    first = Said(np.zeros(0, np.float32), "A B", transcript(("A", 0.5), ("B", 1.0)))
    second = Said(np.zeros(0, np.float32), "C", transcript(("C", 0.25)))
    joined = Joined(tmp_path, 20.0, [(0.0, first), (10.0, second)])
    heard = transcript(("A", 0.5), ("X", 1.0), ("C", 10.35))
    assert longform._lateness(joined, heard) == pytest.approx([0.0, 0.1])
    assert longform._lateness(joined, transcript()) == [0.0]


def test_the_command_judges_a_run(launch, tone_corpus, tmp_path):
    cfg = config.resolve(
        Config(
            model=ModelConfig(hidden_size=8, hidden_layers=1),
            data=DataConfig(dataset="tones", num_workers=0),
            data_path=str(tone_corpus),
        )
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps(config.to_dict(cfg)))
    written = Checkpoints(tmp_path / "run", cfg=cfg)
    written.save(1, steps.init_state(cfg, adamw(0.1), key=0), {}, score=1.0)
    assert written.close()
    ended = launch(
        "longform", "--run_dir=run", "--device=cpu", "--minutes=1", "--cutting=overlap=2,longest=9", folder=tmp_path
    )
    assert ended.status == 0, ended.err
    one, silences, none, minute = ended.out.splitlines()
    assert one.startswith("3 utterances one by one: CER ")  # the references have no space
    assert silences.startswith("with silences, 1.0 min: CER ")
    assert "GB above the model" in none
    assert "words differ" in minute
    refused = launch("longform", "--run_dir=run", "--device=cpu", "--pauses=1", folder=tmp_path)
    assert refused.err.startswith("longform: --pauses=1: two numbers")
    for wrong in ("longest=x", "length=3", "9"):
        refused = launch("longform", "--run_dir=run", "--device=cpu", f"--cutting={wrong}", folder=tmp_path)
        assert refused.err.startswith(f"longform: --cutting={wrong}: NAME=SECONDS, with shortest, longest, pause")
    for wrong in ("shortest=30", "longest=3", "longest=1e9", "margin=-1", "pause=nan"):
        refused = launch("longform", "--run_dir=run", "--device=cpu", f"--cutting={wrong}", folder=tmp_path)
        assert refused.err.startswith(f"longform: --cutting={wrong}: lengths of 0 to 600 s")
