"""Tests of launch.splice: new training utterances from pieces of others."""

import numpy as np
import pytest
import soundfile

from ds2f.data import manifests

RATE = 16000
TRAINING = (
    *("--device=cpu", "--data.dataset=tones", "--data.batch_size=2", "--data.num_workers=0", "--data_path=data"),
    *("--model.hidden_size=16", "--model.hidden_layers=1", "--model.time_stride=4", "--model.frequency_stride=16"),
    *("--optim.schedule=constant", "--optim.learning_rate=0.01", "--apex.opt_level=O0"),
    *("--data.train_on_val", "--novisualization.tensorboard"),
)
WORDS = {"A": 400, "B": 1500}


def write_utterance(folder, name, text, *, transcript=None):
    """Writes an utterance: a tone per word, and a pause between any two. The transcript may be another text."""
    time = np.arange(RATE // 4) / RATE
    pause = np.zeros(RATE // 5)
    tones = [0.3 * np.sin(2 * np.pi * WORDS[word] * time) for word in text.split()]
    samples = np.concatenate([part for tone in tones for part in (tone, pause)])
    noise = 0.001 * np.random.default_rng(len(name)).standard_normal(len(samples))
    soundfile.write(folder / f"{name}.wav", samples + noise, RATE, subtype="PCM_16")
    (folder / f"{name}.txt").write_text((transcript or text) + "\n", encoding="utf-8")
    return f"{name}.wav,{name}.txt\n"


@pytest.fixture(scope="module")
def workplace(launch, tmp_path_factory):
    """Utterances of two speakers for training and two for validation, and a run trained on all of them."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "data").mkdir()
    for split, speakers, count in (("train", ("ann", "bob"), 8), ("val", ("cid", "dee"), 2)):
        rows = [
            write_utterance(folder / "data", f"{split}{index}-{who}", "A B", transcript="a b" if who == "bob" else None)
            for who in speakers
            for index in range(count)
        ]
        if split == "train":
            rows.append(write_utterance(folder / "data", "wrong-ann", "A B", transcript="B"))
            (folder / "data" / "other").mkdir()
            rows.append(
                f"other/{write_utterance(folder / 'data' / 'other', 'train0-ann', 'A B').replace(',', ',other/')}"
            )
        (folder / "data" / f"tones_{split}_manifest.csv").write_text("".join(rows), encoding="utf-8")
    result = launch("train", *TRAINING, "--run_dir=run", "--training.epochs=10", folder=folder)
    assert result.status == 0, result.err
    return folder


def test_old_and_new_utterances_form_a_training_set(launch, workplace):
    made = launch("splice", "--run_dir=run", "--copies=3", "--output=data/more", folder=workplace)
    assert made.status == 0, made.err
    found = manifests.read(workplace / "data" / "more")
    old = {
        f"{row.audio.stem}-{index}" if row.audio.stem == "train0-ann" else row.audio.stem: row
        for index, row in enumerate(manifests.read(workplace / "data" / "tones_train_manifest.csv"))
    }
    new = [row for row in found if row.audio.stem not in old]
    assert len(found) == len(old) + len(new)
    assert f"{len(old)} utterances, and {len(new)} " in made.out
    assert "made of 21, by 4 speakers" in made.out, "utterances above the highest CER are not cut"
    assert "data.train_on_val" in made.out
    for row in found:
        if row.audio.stem in old:
            source = old[row.audio.stem]
            assert row.transcript == source.transcript
            assert np.array_equal(soundfile.read(row.audio)[0], soundfile.read(source.audio)[0])
    assert {row.audio.stem.split("-")[1] for row in new} == {"ann", "bob", "cid", "dee"}
    assert {row.audio.stem[:7] for row in new} == {"spliced"}, "training adds the validation set itself"
    assert {row.transcript for row in new} - {row.transcript.upper() for row in old.values()}, "some sentences are new"
    for row in new:
        tones = row.transcript.split()
        assert recognise(soundfile.read(row.audio)[0]) == tones

    again = launch("splice", "--run_dir=run", "--copies=3", "--output=data/again", folder=workplace)
    assert again.status == 0, again.err
    for row in found:
        assert (workplace / "data" / "again" / "wav" / row.audio.name).read_bytes() == row.audio.read_bytes()

    result = launch(
        "train",
        *TRAINING,
        "--data.train_manifest=data/more",
        "--run_dir=on",
        "--training.epochs=1",
        folder=workplace,
    )
    assert result.status == 0, result.err
    assert f"{len(found) + 4} utterances" in result.out


def test_recordings_of_whole_utterances_come_in_addition(launch, workplace):
    flags = ("--copies=1", "--joined=0.5", "--longest=6")
    made = launch("splice", "--run_dir=run", *flags, "--output=data/with_joined", folder=workplace)
    assert made.status == 0, made.err
    found = manifests.read(workplace / "data" / "with_joined")
    new = [row for row in found if row.audio.stem.startswith("joined")]
    for row in new:
        assert row.duration <= 6
        tones, words = recognise(soundfile.read(row.audio)[0]), row.transcript.upper().split()
        assert tones == ["A", "B"] * (len(tones) // 2)
        assert len(tones) >= 4
        wrong = len(tones) - len(words)  # the transcript of one utterance lacks a word
        assert words == tones if not wrong else words.count("B") == len(tones) // 2
    assert 30 <= sum(row.duration for row in new) < 36
    assert f"{len(new)} recordings" in made.out


def recognise(samples):
    """The words of a recording, by the frequency of each loud stretch."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    loud = np.concatenate(([False], (frames**2).mean(axis=1) > 0.005, [False]))
    edges = np.flatnonzero(loud[1:] != loud[:-1]).reshape(-1, 2)
    peaks = [
        np.abs(np.fft.rfft(samples[first * 160 : last * 160])).argmax() * RATE / ((last - first) * 160)
        for first, last in edges
    ]
    return [min(WORDS, key=lambda word: abs(WORDS[word] - peak)) for peak in peaks]


def test_an_existing_folder_is_not_overwritten(launch, workplace):
    result = launch("splice", "--run_dir=run", "--output=data", folder=workplace)
    assert (result.status, "give a new folder in one that exists" in result.err) == (1, True)


def test_a_recording_without_a_speaker_is_named(launch, workplace):
    result = launch("splice", "--run_dir=run", "--output=none", "--speaker=(xyz)", folder=workplace)
    assert result.status == 1
    assert "train0-ann.wav: --speaker=(xyz) finds no speaker in this path" in result.err
    assert not (workplace / "none").exists()
