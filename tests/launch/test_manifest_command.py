"""Tests of launch.manifest: what it finds wrong, counts and writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import manifests

RATE = 8000


def sound(path: Path, seconds: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE)), RATE)
    return path


def write(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A manifest of eight speakers with three recordings each."""
    rows = []
    for speaker in range(8):
        for number in range(3):
            path = sound(tmp_path / "wav" / f"s{speaker}" / f"{number}.wav", 0.5 + number)
            fields = {"audio_filepath": str(path.relative_to(tmp_path)), "text": f"no {number} by {speaker}"}
            rows.append(fields | {"speaker": f"s{speaker}", "lang": "en"})
    return write(tmp_path / "all.jsonl", *rows)


def test_verify_lists_all_that_is_wrong_with_its_row_and_ends_with_1(launch, corpus: Path, tmp_path: Path):
    done = launch("manifest", "verify", "all.jsonl", folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "all.jsonl: 24 rows, all whole, 0.60 minutes" in done.out

    (tmp_path / "text.wav").write_text("not a recording")
    wrong = [
        {"audio_filepath": "none.wav", "text": "x"},
        {"audio_filepath": "text.wav", "text": "x"},
        {"audio_filepath": "wav/s0/0.wav", "text": "x", "duration": 9},
        {"audio_filepath": "wav/s0/1.wav"},
        {"audio_filepath": "wav/s1/1.wav", "offset": 1.0, "duration": 0.5, "text": "a part is right"},
        {"audio_filepath": "wav/s1/1.wav", "offset": 1.4, "duration": 5, "text": "x"},
    ]
    write(tmp_path / "test.jsonl", *wrong)
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write("{broken\n")
    done = launch("manifest", "verify", "all.jsonl", "test.jsonl", "--output=wrong.txt", folder=tmp_path)
    assert done.status == 1
    listed = (tmp_path / "wrong.txt").read_text().splitlines()
    found = {line.partition(": ")[0]: line.partition(": ")[2] for line in listed}
    assert found.keys() == {f"test.jsonl:{number}" for number in (1, 2, 3, 4, 5, 6, 7)}
    for number, reason in (
        *((1, "No such file"), (2, "not audio"), (3, "0.5 s long, the row says 9.0 s")),
        *((4, "needs a recording"), (5, "is in all.jsonl, too"), (6, "1.5 s long"), (7, "not JSON")),
    ):
        assert reason in found[f"test.jsonl:{number}"]
    assert "test.jsonl: 7 of 7 rows cannot be used" in done.err


def test_parts_of_a_recording_may_lie_in_two_manifests_unless_they_overlap(launch, corpus: Path, tmp_path: Path):
    def part(start: float, end: float) -> dict:
        return {"audio_filepath": "wav/s0/2.wav", "offset": start, "duration": end - start, "text": "x"}

    write(tmp_path / "train.jsonl", part(0.1, 0.5), part(1.0, 1.5))
    write(tmp_path / "test.jsonl", part(0.5, 1.0), part(1.4, 2.0))
    done = launch("manifest", "verify", "train.jsonl", "test.jsonl", folder=tmp_path)
    assert done.status == 1
    assert "test.jsonl:2: " in done.err
    assert done.err.count("is in train.jsonl, too") == 1


def test_verify_decodes_when_asked_and_knows_the_labels(launch, corpus: Path, tmp_path: Path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "cut.flac", rng.normal(0, 0.1, 5 * RATE), RATE)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "m.jsonl", {"audio_filepath": "cut.flac", "text": "yes"})
    done = launch("manifest", "verify", "m.jsonl", "--decode", folder=tmp_path)
    assert done.status == 1
    assert "cut.flac" in done.err
    (tmp_path / "labels.json").write_text('["_", "N", "O", "B", "Y", " "]')
    done = launch("manifest", "verify", "all.jsonl", "--data.labels_path=labels.json", folder=tmp_path)
    assert done.status == 1
    assert "characters outside the labels, in all sets" in done.err
    assert "'0' 11" in done.err, "eight numbers and the speaker of three"


def test_stats_count_what_is_there(launch, corpus: Path, tmp_path: Path):
    (tmp_path / "labels.json").write_text('["_", "N", "O", "B", "Y", " "]')
    done = launch("manifest", "stats", "all.jsonl", "--data.labels_path=labels.json", folder=tmp_path)
    assert done.status == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    seconds = sum(0.5 + number for number in range(3)) * 8
    assert f"in all {seconds / 60:.2f} minutes" in lines
    for line in (
        *("utterances 24", "seconds 0.50 to 2.50, median 1.50", "speakers 8", "languages en 24", "words 96"),
        *(f"characters {24 * (2 + 1 + 2 + 1)}, without spaces", f"0 to 1 8 {'#' * 40}", f"2 to 3 8 {'#' * 40}"),
    ):
        assert line in lines
    assert "outside the labels: '0' 11, '1' 11, '2' 11, '3' 3, '4' 3, '5' 3, '6' 3, '7' 3" in lines


def test_split_by_speaker_puts_none_in_two_sets_and_keeps_paths_right(launch, corpus: Path, tmp_path: Path):
    for output in ("one", "two"):
        done = launch("manifest", "split", "all.jsonl", f"--output={output}", folder=tmp_path)
        assert done.status == 0, done.err
    sets = {split: manifests.read(tmp_path / "one" / f"{split}.jsonl") for split in ("train", "val", "test")}
    speakers = [{each.speaker for each in found} for found in sets.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 8
    assert sum(map(len, sets.values())) == 24
    for split in sets:
        assert (tmp_path / "one" / f"{split}.jsonl").read_bytes() == (tmp_path / "two" / f"{split}.jsonl").read_bytes()


def test_manifests_of_several_folders_are_merged(launch, corpus: Path, tmp_path: Path):
    sound(tmp_path / "b" / "x.wav")
    write(
        tmp_path / "b" / "m.jsonl",
        {"audio_filepath": "x.wav", "text": "X"},
        {"audio_filepath": "../wav/s0/0.wav", "text": "no 0 by 0"},
    )
    done = launch("manifest", "merge", "all.jsonl", "b/m.jsonl", "--output=b/merged.csv", folder=tmp_path)
    assert done.status == 0, done.err
    assert "1 repeated rows dropped" in done.out
    found = manifests.read(tmp_path / "b" / "merged.csv")
    assert len(found) == 25
    assert {each.audio.resolve() for each in found} == {tmp_path / "b" / "x.wav", *(tmp_path / "wav").rglob("*.wav")}


def test_a_subset_is_drawn(launch, corpus: Path, tmp_path: Path):
    done = launch(
        "manifest", "subset", "all.jsonl", "--output=few.jsonl", "--count=5", "--max_duration=2", folder=tmp_path
    )
    assert done.status == 0, done.err
    found = manifests.read(tmp_path / "few.jsonl")
    assert len(found) == 5
    assert all(each.duration <= 2 for each in found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "all.jsonl"], "Actions: verify, stats, merge, split, subset, convert, shard"),
        (["verify"], "give a manifest"),
        (["convert", "all.jsonl"], "give --output=FILE"),
        (["convert", "all.jsonl", "all.jsonl", "--output=x.csv"], "give the manifest"),
        (["convert", "all.jsonl", "--output=x.txt"], "the suffix tells no form"),
        (["convert", "all.jsonl", "--output=all.jsonl"], "is there already"),
        (["convert", "all.jsonl", "--output=x.csv", "--transcripts=t"], "contains the transcripts"),
        (["stats", "all.jsonl", "--count=3"], "no effect has --count"),
        (["subset", "all.jsonl", "--output=x.csv", "--match=("], "not a regular expression"),
        (["subset", "all.jsonl", "--output=x.csv", "--match=absent"], "none of 24 utterances is selected"),
        (["split", "nobody.jsonl", "--output=x"], "1 of 1 rows name no speaker"),
        (["split", "all.jsonl", "--output=wav"], "wav/test.jsonl is there already"),
        (["split", "one.jsonl", "--output=x", "--by=hash"], "too few recordings"),
        (["stats", "none.jsonl"], "no such manifest"),
    ],
)
def test_mistakes_are_told(launch, corpus: Path, tmp_path: Path, arguments: list[str], message: str):
    write(tmp_path / "nobody.jsonl", {"audio_filepath": "wav/s0/0.wav", "text": "x"})
    write(tmp_path / "one.jsonl", {"audio_filepath": "wav/s0/0.wav", "text": "x"})
    (tmp_path / "wav" / "test.jsonl").touch()
    before = sorted(tmp_path.iterdir())
    done = launch("manifest", *arguments, folder=tmp_path)
    assert done.status == 1
    assert message in done.err
    assert {each for each in sorted(tmp_path.iterdir()) if not each.name.startswith(".")} == set(before)
    assert [each.name for each in (tmp_path / "wav").glob("*.jsonl")] == ["test.jsonl"], "nothing half-written"


def test_rows_that_cannot_be_used_are_left_out_when_that_is_allowed(launch, corpus: Path, tmp_path: Path):
    with corpus.open("a") as file:
        file.write('{"audio_filepath": "wav/s0/0.wav"}\n')
    done = launch("manifest", "convert", "all.jsonl", "--output=new.csv", folder=tmp_path)
    assert (done.status, "--data.max_unusable=1" in done.err) == (1, True)
    done = launch("manifest", "convert", "all.jsonl", "--output=new.csv", "--data.max_unusable=1", folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "1 utterance(s) left out" in done.out
    assert len(manifests.read(tmp_path / "new.csv")) == 24


def test_shards_are_written_with_a_manifest_and_read_back(launch, corpus: Path, tmp_path: Path):
    done = launch("manifest", "shard", "all.jsonl", "--output=shards", "--shard_bytes=60000", folder=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "shards/all.jsonl: 24 utterances, 0.60 minutes in " in done.out
    found, plain = manifests.read(tmp_path / "shards/all.jsonl"), manifests.read(corpus)
    assert [each[2:] for each in found] == [each[2:] for each in plain]
    assert len(list((tmp_path / "shards").glob("all-*.tar"))) > 3
    assert launch("manifest", "verify", "shards/all.jsonl", folder=tmp_path).status == 0
    again = launch("manifest", "shard", "all.jsonl", "--output=shards", folder=tmp_path)
    assert (again.status, "is there already" in again.err) == (1, True)
