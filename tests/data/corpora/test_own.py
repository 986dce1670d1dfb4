"""Tests of preparing recordings of one's own: folders, tables, their division, and labels from the texts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.config import Config, DataConfig, read_labels, resolve
from ds2f.data import manifests
from ds2f.data.corpora import preparation
from ds2f.data.corpora.preparation import Choices, PreparedCorpus
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


def prepare(
    source: Path, folder: Path, *, name: str = "folder", columns=None, seed: int = 0, **choices
) -> PreparedCorpus:
    chosen = Choices(**{"held_out": 0.1} | choices, salt=f"{seed} ")
    destination = preparation.of_ones_own(folder)
    return preparation.prepare(name, source, destination, chosen, cfg=DataConfig(), columns=columns)


def read(folder: Path) -> dict[str, list[manifests.Utterance]]:
    return {split: manifests.read(folder / f"{split}.csv") for split in ("train", "val", "test")}


def test_every_utterance_is_in_one_set_and_no_speaker_in_two(recordings: Path, tmp_path: Path):
    corpus = prepare(recordings, tmp_path / "mine", speaker=SPEAKER)
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
        prepare(recordings, tmp_path / name, seed=seed)
        found[name] = read(tmp_path / name)
        assert [len(members) for members in found[name].values()] == [32, 4, 4]
    assert found["one"] == found["same"] != found["other"]


def test_a_training_takes_the_tables_and_labels_as_they_are(recordings: Path, tmp_path: Path):
    prepare(recordings, tmp_path / "mine", punctuation=True)
    named = {"train_manifest": str(tmp_path / "mine/train.csv"), "labels_path": str(tmp_path / "mine/labels.json")}
    cfg = resolve(Config(data=DataConfig(**named, cache_features=False)))
    assert manifest_path(cfg, "val") == tmp_path / "mine/val.csv"
    found = splits.read_all(cfg)
    assert not [remark for split in found.values() for remark in split.dataset.remarks if "outside" in remark.what]
    assert {text for split in found.values() for text in split.references.values()} == {
        *("ein straßenfest.", "café?", "don't", "zwölf")
    }


def test_labels_are_lower_case_without_punctuation_unless_asked_for(tmp_path: Path, recordings: Path):
    corpus = prepare(recordings, tmp_path / "mine")
    assert "".join(corpus.labels) == "_ 'acdefilnorstwzßéö"
    assert json.loads((tmp_path / "mine/labels.json").read_text(encoding="utf-8")) == list(corpus.labels)
    assert read_labels(str(tmp_path / "mine/labels.json")) == corpus.labels
    assert corpus.characters["."] == 10
    corpus = prepare(recordings, tmp_path / "marks", punctuation=True)
    assert {".", "?"} < set(corpus.labels)


def test_parts_of_recordings_stay_where_they_are_and_together(tmp_path: Path):
    for name in ("one", "two", "three"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(3 * 16000), 16000)
    (tmp_path / "wav.scp").write_text("".join(f"{name} {name}.wav\n" for name in ("one", "two", "three")))
    lines = [f"{name}-{at} {name} {at} {at + 1.5}\n" for name in ("one", "two", "three") for at in (0.25, 1.0)]
    (tmp_path / "segments").write_text("".join(lines))
    (tmp_path / "text").write_text("".join(f"{line.split()[0]} words {line.split()[0]}\n" for line in lines))
    prepare(tmp_path, tmp_path / "mine", held_out=0.34)
    for members in read(tmp_path / "mine").values():
        assert len({each.audio for each in members}) == 1, "parts of a recording stay together"
        assert [(each.start, each.duration) for each in members] == [(0.25, 1.5), (1.0, 1.5)]
        assert all(float(each.transcript.split("-")[1]) == each.start for each in members)


def test_sets_in_folders_of_their_own_stay_as_they_are(recordings: Path, tmp_path: Path):
    for split, speakers in (("train", "012"), ("dev", "3"), ("test", "4"), ("notes", "")):
        (tmp_path / "sets" / split).mkdir(parents=True)
        for speaker in speakers:
            (recordings / f"spk{speaker}").rename(tmp_path / "sets" / split / f"spk{speaker}")
    corpus = prepare(tmp_path / "sets", tmp_path / "mine", speaker=SPEAKER)
    assert [(part.utterances, part.speakers) for part in corpus.parts] == [(24, 3), (8, 1), (8, 1)]
    assert {each.audio.parts[-3] for each in read(tmp_path / "mine")["val"]} == {"dev"}


ROWS = [
    {"path": f"spk{index % 5}/{'abcde'[index % 5]}-{index}.wav", "sentence": f"Satz {index}", "client": f"c{index % 5}"}
    for index in range(40)
]
COLUMNS = {"audio": "path", "text": "Sentence", "speaker": "client"}


def write_table(path: Path, kind: str) -> Path:
    """The rows in a table, with columns whose names stand for something else."""
    rows = [row | {"text": "not this", "wav": "nor this"} for row in ROWS]
    if kind == "parquet":
        path = path.with_suffix(".parquet")
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        pytest.importorskip("pyarrow.parquet").write_table(pytest.importorskip("pyarrow").table(columns), path)
        return path
    if kind == "jsonl":
        content = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        separator = {"csv": ",", "tsv": "\t"}[kind]
        content = "".join(separator.join(cells) + "\n" for cells in (rows[0], *(row.values() for row in rows)))
    path = path.with_suffix(f".{kind}")
    path.write_text(content)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_of_a_table_are_named(recordings: Path, tmp_path: Path, kind: str):
    table = write_table(recordings / "table", kind)
    corpus = prepare(table, tmp_path / "mine", name="table", columns=COLUMNS)
    found = [each for members in read(tmp_path / "mine").values() for each in members]
    expected = {(str(recordings / row["path"]), row["sentence"], row["client"]) for row in ROWS}
    assert {(str(each.audio), each.transcript, each.speaker) for each in found} == expected
    assert [part.speakers for part in corpus.parts] == [3, 1, 1], "divided by the column of speakers"
    with pytest.raises(InputError, match="no column 'satz' among path, sentence, client, text, wav"):
        prepare(table, tmp_path / "other", name="table", columns={"audio": "path", "text": "satz"})
    with pytest.raises(InputError, match="'sound' is none of audio, text"):
        prepare(table, tmp_path / "other", name="table", columns={"sound": "path"})


def test_a_column_divides_the_sets(recordings: Path, tmp_path: Path):
    lines = [
        f"{row['path']},{row['sentence']},{'dev' if n < 3 else 'test' if n < 7 else 'train'}"
        for n, row in enumerate(ROWS)
    ]
    (recordings / "all.csv").write_text("\n".join(["audio,text,split", *lines]))
    prepare(recordings / "all.csv", tmp_path / "mine", name="table")
    assert {split: len(members) for split, members in read(tmp_path / "mine").items()} == {
        "train": 33,
        "val": 3,
        "test": 4,
    }


def test_faults_of_ones_own_recordings_are_errors_and_listed(recordings: Path, tmp_path: Path):
    (recordings / "spk0" / "a-0.txt").unlink()
    (recordings / "spk1" / "b-1.wav").write_text("no sound")
    with pytest.raises(InputError, match="2 of 40 rows cannot be used"):
        prepare(recordings, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_nothing_that_is_there_is_overwritten(recordings: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/val.csv").write_text("mine\n")
    with pytest.raises(InputError, match=r"val\.csv is there already"):
        prepare(recordings, tmp_path / "mine")
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
        prepare(recordings, tmp_path / "mine", speaker=re.compile(pattern))
    assert not (tmp_path / "mine").exists()
