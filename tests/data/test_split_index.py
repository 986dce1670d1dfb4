"""A split from its index is the split from its manifest; an index that is no longer true is made again."""

import json
import logging
from pathlib import Path

import attrs
import numpy as np
import pytest
import soundfile
import torch

from ds2f.config import AugmentationConfig, Config, DataConfig, ModelConfig, resolve
from ds2f.data import array_file, manifests, split_index
from ds2f.errors import InputError
from ds2f.runner.splits import Split

RATE = 16000
TEXTS = ["A CAB", "bad", "", "ABBA 7", "A" * 90, "CAB"]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(split_index, "_SMALLEST", 0)
    noise = np.random.default_rng(0)
    for row in range(len(TEXTS)):
        sound(tmp_path / f"sounds/ü{row}.wav", 0.2 * noise.standard_normal(3200 + 800 * row))
    write(tmp_path, [{"audio_filepath": f"sounds/ü{row}.wav", "text": text} for row, text in enumerate(TEXTS)])
    return tmp_path


def sound(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, samples, RATE)


def write(folder: Path, rows: list[dict]) -> None:
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
    (folder / "train.jsonl").write_text("".join(lines))


def config(folder: Path, **how) -> Config:
    settings = {"unknown_characters": "drop_character", "num_workers": 0, "batch_size": 2, "cache_features": False}
    data = DataConfig(**settings | {"train_manifest": str(folder / "train.jsonl")} | how)
    return resolve(Config(data_path=str(folder), data=data, model=ModelConfig(labels=tuple("_ABC "))))


def read(cfg: Config, *, train: bool = True) -> Split:
    return Split.read("train", cfg, train=train)


def from_index_alone(cfg: Config, monkeypatch) -> Split:
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "require_rows", lambda *_: pytest.fail("the manifest was read"))
        return read(cfg)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache/manifests").glob("*.index"))


@pytest.mark.parametrize("train", [True, False])
def test_a_split_from_the_index_is_the_one_from_the_manifest(corpus, monkeypatch, caplog, train):
    cfg = config(corpus)
    with monkeypatch.context() as patch:
        patch.setattr(split_index, "_SMALLEST", 1 << 20)
        plain = read(cfg, train=train)
    assert files(corpus) == []
    for _ in range(2):
        caplog.clear()
        split = read(cfg, train=train)
        assert files(corpus) != []
        assert list(split.utterances) == list(plain.utterances)
        assert list(split.dataset.examples) == list(plain.dataset.examples)
        assert split.dataset.remarks == plain.dataset.remarks != ()
        assert dict(split.references) == dict(plain.references)
        assert split.seconds == plain.seconds
        assert "1 transcript(s) are empty" in caplog.text


def test_the_second_start_opens_the_index_and_a_sample_of_the_recordings(corpus, monkeypatch):
    read(config(corpus))
    monkeypatch.setattr(split_index, "_CHECKED", 2)
    opened = []
    info = split_index.audio.info
    monkeypatch.setattr(split_index.audio, "info", lambda path: opened.append(path.name) or info(path))
    split = from_index_alone(config(corpus, batch_size=3), monkeypatch)
    assert len(split.utterances) == len(TEXTS)
    assert sorted(opened) == ["ü0.wav", "ü3.wav"]


@pytest.mark.parametrize(("workers", "start"), [(0, 0), (0, 1), (1, 1)])
def test_batches_from_the_index_have_the_same_bits(corpus, monkeypatch, workers, start):
    speeds = AugmentationConfig(speeds=(0.9, 1.1), gain_min=-3, gain_max=3)
    cfg = attrs.evolve(config(corpus), augmentation=speeds)

    def batches(num_workers, start):
        own = attrs.evolve(cfg, data=attrs.evolve(cfg.data, num_workers=num_workers))
        loader = read(own).load(own, start_method="spawn")
        found = list(loader.epoch(1, start=start))
        loader.close()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(split_index, "_SMALLEST", 1 << 20)
        plain = batches(0, 0)
    read(cfg)
    for ours, theirs in zip(batches(workers, start), plain[start:], strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_other_rows_labels_or_limits_get_another_index(corpus, monkeypatch):
    read(config(corpus))
    for other in (
        config(corpus, min_duration=0.25),
        attrs.evolve(config(corpus), model=ModelConfig(labels=tuple("_ABC 7"))),
        attrs.evolve(config(corpus), spect=attrs.evolve(config(corpus).spect, window_stride=0.02)),
    ):
        before = len(files(corpus))
        assert list(read(other).dataset.examples)
        assert len(files(corpus)) == before + 1
    same = config(corpus, batch_size=7, max_unusable=3, num_workers=4)
    from_index_alone(same, monkeypatch)
    write(corpus, [{"audio_filepath": "sounds/ü1.wav", "text": "CAB"}])
    assert [each.transcript for each in read(config(corpus)).utterances] == ["CAB"]
    assert len(files(corpus)) == 4, "the oldest are removed"


@pytest.mark.parametrize("damage", [lambda old: old[:-9], lambda old: b"", lambda old: old[:-200] + b"x" + old[-199:]])
def test_a_damaged_index_is_told_and_made_again(corpus, monkeypatch, caplog, damage):
    rows = list(read(config(corpus)).utterances)
    (name,) = files(corpus)
    path = corpus / "cache/manifests" / name
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert list(read(config(corpus)).utterances) == rows
    assert "the manifest is read again" in caplog.text
    assert path.read_bytes() == whole


def test_a_recording_that_was_replaced_is_noticed(corpus, caplog):
    read(config(corpus))
    sound(corpus / "sounds/ü2.wav", np.full(9999, 0.1))
    assert read(config(corpus)).utterances[2].duration == 9999 / RATE
    assert "ü2.wav has changed" in caplog.text
    (corpus / "sounds/ü2.wav").unlink()
    with pytest.raises(InputError, match=r"ü2\.wav: No such file"):
        read(config(corpus))
    sound(corpus / "sounds/ü2.wav", np.full(5000, 0.1))
    assert read(config(corpus)).utterances[2].duration == 5000 / RATE


def test_rows_that_are_left_out_stay_counted(corpus, monkeypatch):
    (corpus / "sounds/ü0.wav").unlink()
    cfg = config(corpus, max_unusable=1)
    first, second = read(cfg), from_index_alone(cfg, monkeypatch)
    assert first.dataset.remarks == second.dataset.remarks
    assert "left out" in str(second.dataset.remarks[0])
    with pytest.raises(InputError, match="No such file"):
        read(config(corpus))


def test_verification_reads_everything_again(corpus):
    read(config(corpus))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "require_rows", lambda *_: (_ for _ in ()).throw(InputError("read")))
        with pytest.raises(InputError, match="read"):
            read(config(corpus, verify=True))


def test_a_folder_that_cannot_be_written_costs_the_index_alone(corpus, monkeypatch, caplog):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_file, "write", fail)
    assert len(read(config(corpus)).utterances) == len(TEXTS)
    assert "No space left on device" in caplog.text
    assert files(corpus) == []


def test_transcripts_in_files_are_read_at_every_start(corpus, caplog):
    caplog.set_level(logging.INFO)
    rows = []
    for row in range(3):
        (corpus / f"{row}.txt").write_text("CAB")
        rows.append({"audio_filepath": f"sounds/ü{row}.wav", "text_filepath": f"{row}.txt"})
    write(corpus, rows)
    read(config(corpus))
    (corpus / "1.txt").write_text("BAD")
    assert [each.transcript for each in read(config(corpus)).utterances] == ["CAB", "BAD", "CAB"]
    assert files(corpus) == []
