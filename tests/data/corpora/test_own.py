"""Tests of dividing recordings of one's own, cutting parts out and taking labels from the texts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.config import Config, DataConfig, read_labels, resolve
from ds2f.data import manifests
from ds2f.data.corpora import own
from ds2f.data.manifest_paths import manifest_path
from ds2f.errors import InputError
from ds2f.runner import splits

SPEAKER = re.compile(r"/(\w+)-\d+\.wav$")
TEXTS = ["Ein Straßenfest.", "Café?", "don\u2019t", "Zwölf"]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Forty recordings by five speakers, with transcripts beside them."""
    for index in range(40):
        name = tmp_path / "rec" / f"spk{index % 5}" / f"{'abcde'[index % 5]}-{index}.wav"
        name.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(name, np.full(1600 + index, 0.1), 16000)
        name.with_suffix(".txt").write_text(TEXTS[index % 4], encoding="utf-8")
    return tmp_path / "rec"


def read(folder: Path) -> dict[str, list[manifests.Utterance]]:
    return {split: manifests.read(folder / f"{split}.csv") for split in ("train", "val", "test")}


def test_every_utterance_is_in_one_set_and_no_speaker_in_two(recordings: Path, tmp_path: Path):
    corpus = own.prepare(recordings, tmp_path / "mine", cfg=DataConfig(), speaker=SPEAKER)
    sets = read(tmp_path / "mine")
    assert sorted(each.audio for members in sets.values() for each in members) == sorted(recordings.rglob("*.wav"))
    speakers = [{SPEAKER.search(str(each.audio))[1] for each in members} for members in sets.values()]
    assert [len(each) for each in speakers] == [3, 1, 1]
    assert len(set.union(*speakers)) == 5
    assert [(part.split, part.utterances, part.speakers) for part in corpus.parts] == [
        ("train", 24, 3),
        ("val", 8, 1),
        ("test", 8, 1),
    ]


def test_without_speakers_a_tenth_each_is_held_out_and_the_seed_decides_which(recordings: Path, tmp_path: Path):
    found = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        own.prepare(recordings, tmp_path / name, cfg=DataConfig(), seed=seed)
        found[name] = read(tmp_path / name)
        assert [len(members) for members in found[name].values()] == [32, 4, 4]
    assert found["one"] == found["same"] != found["other"]


def test_a_training_takes_the_tables_and_labels_as_they_are(recordings: Path, tmp_path: Path):
    own.prepare(recordings, tmp_path / "mine", cfg=DataConfig(), punctuation=True)
    named = {"train_manifest": str(tmp_path / "mine/train.csv"), "labels_path": str(tmp_path / "mine/labels.json")}
    cfg = resolve(Config(data=DataConfig(**named, cache_features=False)))
    assert manifest_path(cfg, "val") == tmp_path / "mine/val.csv"
    found = splits.read_all(cfg)
    assert not [remark for split in found.values() for remark in split.dataset.remarks if "outside" in remark.what]
    assert {text for split in found.values() for text in split.references.values()} == {
        *("ein straßenfest.", "café?", "don't", "zwölf")
    }


def test_labels_are_lower_case_without_punctuation_unless_asked_for(tmp_path: Path, recordings: Path):
    corpus = own.prepare(recordings, tmp_path / "mine", cfg=DataConfig())
    assert "".join(corpus.labels) == "_ 'acdefilnorstwzßéö"
    assert json.loads((tmp_path / "mine/labels.json").read_text(encoding="utf-8")) == list(corpus.labels)
    assert read_labels(str(tmp_path / "mine/labels.json")) == corpus.labels
    assert corpus.characters["."] == 10
    corpus = own.prepare(recordings, tmp_path / "marks", cfg=DataConfig(), punctuation=True)
    assert {".", "?"} < set(corpus.labels)


def test_parts_of_recordings_are_cut_out_where_they_are(tmp_path: Path):
    for name in ("one", "two", "three"):
        ramp = (np.arange(3 * 16000) / 2**16).astype(np.float32)
        soundfile.write(tmp_path / f"{name}.wav", ramp, 16000, subtype="PCM_16")
    (tmp_path / "wav.scp").write_text("".join(f"{name} {name}.wav\n" for name in ("one", "two", "three")))
    lines = [f"{name}-{at} {name} {at} {at + 1.5}\n" for name in ("one", "two", "three") for at in (0.25, 1.0)]
    (tmp_path / "segments").write_text("".join(lines))
    (tmp_path / "text").write_text("".join(f"{line.split()[0]} words {line.split()[0]}\n" for line in lines))
    corpus = own.prepare(tmp_path, tmp_path / "mine", cfg=DataConfig(), held_out=0.34)
    assert corpus.cut == 6
    for members in read(tmp_path / "mine").values():
        assert len(members) == 2, "parts of a recording stay together"
        for each in members:
            start = float(each.transcript.split("-")[1])
            samples, rate = soundfile.read(each.audio, dtype="int16")
            assert (len(samples), rate) == (24000, 16000)
            assert samples[0] == round(start * 16000 / 2)


def test_nothing_that_is_there_is_overwritten(recordings: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/val.csv").write_text("mine\n")
    with pytest.raises(InputError, match=r"val\.csv is there already"):
        own.prepare(recordings, tmp_path / "mine", cfg=DataConfig())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["val.csv"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"/(x+)-", r"finds no speaker in /.*/rec/spk0/a-0\.wav; .*'rec/\(\[\^/\]\+\)/' finds 'spk0'"),
        (r"wav/([^/]+)/", r"finds no speaker in /"),
        (r"/rec/(spk)", "1 speakers cannot"),
    ],
)
def test_speakers_that_cannot_be_told_apart_are_told_of(recordings: Path, tmp_path: Path, pattern: str, message: str):
    with pytest.raises(InputError, match=message):
        own.prepare(recordings, tmp_path / "mine", cfg=DataConfig(), speaker=re.compile(pattern))
    assert not (tmp_path / "mine").exists()
