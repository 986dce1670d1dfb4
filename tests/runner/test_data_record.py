"""A run goes on with the data that it was begun with; what has changed is named."""

import csv
import json
import os
import shutil

import pytest

from ds2f.config import Config, DataConfig, resolve
from ds2f.errors import InputError
from ds2f.runner import data_record, splits

FLAGS = (
    "--device=cpu",
    "--data.dataset=tones",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--nodata.cache_features",
    "--spect.num_mels=16",
    "--model.hidden_size=8",
    "--model.hidden_layers=1",
    "--optim.schedule=constant",
    "--optim.learning_rate=0.01",
    "--apex.opt_level=O0",
    "--training.epochs=2",
    "--novisualization.tensorboard",
)


@pytest.fixture
def data(tone_corpus, tmp_path):
    return shutil.copytree(tone_corpus, tmp_path / "data")


def config(data, **how):
    return resolve(Config(data_path=str(data), data=DataConfig(dataset="tones", **how)))


def record(data, **how):
    cfg = config(data, **how)
    return data_record.take(splits.read_all(cfg), cfg)


def rows(data, change):
    path = data / "tones_train_manifest.csv"
    lines = list(csv.reader(path.read_text().splitlines()))
    path.write_text("".join(f"{','.join(row)}\n" for row in change(lines)))


def alter_text(data):
    (data / "train3.txt").write_text("ABBA\n")


def replace(data):
    shutil.copy(data / "train4.wav", data / "train3.wav")


def overwrite(data, *, place=0.5, times=True):
    """Other bytes of the same size, with the time of the old ones."""
    path = data / "train3.wav"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    if times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "reversed": (lambda data: rows(data, lambda lines: lines[::-1]), "train: 10 rows in another order: train9.wav"),
    "dropped": (lambda data: rows(data, lambda lines: lines[:-2]), "train: 2 rows removed: train8.wav, train9.wav"),
    "added": (lambda data: rows(data, lambda lines: [*lines, ["val0.wav", "val0.txt"]]), "1 rows added: val0.wav"),
    "text": (alter_text, "train: 1 transcripts altered: train3.wav"),
    "replaced": (replace, "train: 1 recordings replaced: train3.wav"),
    "same-size-and-time": (overwrite, "train: 1 recordings replaced: train3.wav"),
    "same-size": (lambda data: overwrite(data, place=0.9, times=False), "train: 1 recordings written again, with the"),
    "validation": (lambda data: (data / "val0.txt").write_text("C"), "val: 1 transcripts altered: val0.wav"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_are_named(data, tmp_path, change):
    assert data_record.write(tmp_path, record(data)) == []
    alter, named = CHANGES[change]
    alter(data)
    with pytest.raises(InputError, match="was begun with other data") as refused:
        data_record.require_unchanged(tmp_path, record(data), config(data))
    assert named in str(refused.value)
    assert str(refused.value).count(": ") == 3, "nothing else is named"
    assert "--data.allow_changes" in str(refused.value)
    (message,) = data_record.require_unchanged(tmp_path, record(data), config(data, allow_changes=True))
    assert named in message
    data_record.write(tmp_path, record(data))
    assert data_record.require_unchanged(tmp_path, record(data), config(data)) == []


def test_every_byte_counts_with_verify_and_then_times_do_not(data, tmp_path):
    data_record.write(tmp_path, record(data, verify=True))
    assert data_record.require_unchanged(tmp_path, record(data), config(data)) == []
    for path in data.glob("*.wav"):
        os.utime(path, (1, 1))
    assert data_record.require_unchanged(tmp_path, record(data, verify=True), config(data, verify=True)) == []
    overwrite(data, place=0.9)
    with pytest.raises(InputError, match=r"train: 1 recordings replaced: train3\.wav"):
        data_record.require_unchanged(tmp_path, record(data, verify=True), config(data, verify=True))


def test_verify_says_when_there_is_nothing_to_compare_with_and_is_ready_the_next_time(data, tmp_path):
    data_record.write(tmp_path, record(data))
    verified, cfg = record(data, verify=True), config(data, verify=True)
    (message,) = data_record.require_unchanged(tmp_path, verified, cfg)
    assert "the content of 13 recordings is unknown from before" in message
    data_record.write(tmp_path, verified)
    data_record.write(tmp_path, record(data))  # a start without the flag forgets nothing
    assert data_record.require_unchanged(tmp_path, verified, cfg) == []


def test_a_copy_of_the_data_elsewhere_or_on_another_machine_is_the_same(data, tmp_path):
    data_record.write(tmp_path, record(data)._replace(host="far"))
    copy = shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    assert data_record.require_unchanged(tmp_path, record(copy), config(copy)) == []
    assert record(copy).digests() == record(data).digests()


@pytest.mark.parametrize("damage", [b"", b"{}", b"[" * 100_000, None])
def test_a_damaged_record_is_set_aside_and_the_checkpoints_digests_are_compared(data, tmp_path, damage):
    path = tmp_path / data_record.FILE
    data_record.write(tmp_path, record(data))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"train3.wav", b"trainC.wav") if damage is None else damage)
    (message,) = data_record.require_unchanged(tmp_path, record(data), config(data))
    assert "the damaged file is kept as data.json.damaged" in message
    assert not path.exists()


def test_a_training_goes_on_with_its_data_alone_unless_allowed(launch, data, tmp_path):
    flags = (*FLAGS, f"--data_path={data}", "--run_dir=run")
    ended = launch("train", *flags, "--training.max_steps=3", folder=tmp_path)
    assert ended.status == 0, ended.err
    alter_text(data)
    for lost in (False, True):  # without data.json the checkpoint's digests tell
        if lost:
            (tmp_path / "run" / data_record.FILE).unlink()
        refused = launch("train", *flags, "--checkpointing.load_auto_checkpoint", folder=tmp_path)
        assert (refused.status, "Traceback" in refused.err) == (1, False)
        assert "run was begun with other data:\n  train: " in refused.err
    allowed = launch("train", *flags, "--checkpointing.load_auto_checkpoint", "--data.allow_changes", folder=tmp_path)
    assert allowed.status == 0, allowed.err
    assert "--data.allow_changes=false" in (tmp_path / "run/flags.txt").read_text()
    again = launch("train", *flags, "--checkpointing.load_auto_checkpoint", "--training.epochs=3", folder=tmp_path)
    assert again.status == 0, again.err


def test_a_run_begun_without_a_record_goes_on(data, tmp_path):
    assert data_record.require_unchanged(tmp_path, record(data), config(data)) == []


def test_parts_of_recordings_are_utterances_of_their_own_and_each_file_is_looked_at_once(data, tmp_path, monkeypatch):
    parts = [{"audio_filepath": "train3.wav", "text": "AB", "offset": at, "duration": 0.1} for at in (0, 0.1, 0.2)]

    def write(rows):
        (data / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return record(data, train_manifest=str(data / "m.jsonl"), val_manifest=str(data / "tones_val_manifest.csv"))

    opened, look = [], data_record._look
    monkeypatch.setattr(data_record, "_look", lambda path, **how: opened.append(path) or look(path, **how))
    before = write(parts)
    assert opened.count(data / "train3.wav") == 1
    data_record.write(tmp_path, before)
    moved = write([*parts[:2], parts[2] | {"offset": 0.25}])
    with pytest.raises(InputError) as refused:
        data_record.require_unchanged(tmp_path, moved, config(data))
    assert "1 rows added: train3.wav#t=0.25,0.35" in str(refused.value)
    assert "1 rows removed: train3.wav#t=0.2,0.3" in str(refused.value)


def test_of_a_large_split_a_sample_is_recorded_and_the_rest_by_a_digest(data, tmp_path, monkeypatch):
    small = record(data)
    monkeypatch.setattr(data_record, "_MOST", 4)
    began = record(data)
    names = {row.audio for row in began.splits["train"]}
    assert 0 < len(names) < len(small.splits["train"])
    assert set(began.splits["train"]) < set(small.splits["train"])
    assert record(data).digests() == began.digests()

    data_record.write(tmp_path, began)
    assert data_record.require_unchanged(tmp_path, record(data), config(data)) == []
    assert data_record.require_unchanged(tmp_path, record(data, verify=True), config(data)) == []
    outside = next(row.audio for row in small.splits["train"] if row.audio not in names)
    transcript = (data / outside).with_suffix(".txt")
    transcript.write_text("ABBA ABBA\n")
    with pytest.raises(InputError, match="train: rows or transcripts altered, none of them in the sample"):
        data_record.require_unchanged(tmp_path, record(data), config(data))
    inside = next(iter(names))
    shutil.copy(data / outside, data / inside)
    with pytest.raises(InputError, match=f"train: 1 recordings replaced: {inside}"):
        data_record.require_unchanged(tmp_path, record(data), config(data))


def test_the_sample_of_a_large_split_does_not_depend_on_the_place_of_the_data(data, tmp_path, monkeypatch):
    monkeypatch.setattr(data_record, "_MOST", 4)
    moved = shutil.copytree(data, tmp_path / "elsewhere" / data.name)
    assert record(moved).digests() == record(data).digests()
