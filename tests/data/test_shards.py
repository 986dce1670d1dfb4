"""Recordings in tar shards: the bytes, batches and resumes of files; what is damaged or hostile is refused."""

import errno
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ds2f.config import AugmentationConfig, Config, DataConfig, ModelConfig, resolve
from ds2f.data import audio, audio_parts, manifest_forms, manifest_opening, manifests, shard_writing, shards
from ds2f.errors import InputError
from ds2f.runner import data_record
from ds2f.runner.splits import Split

RATE = 16000
COUNT = 7


@pytest.fixture
def files(tmp_path) -> Path:
    """A manifest of recordings in several formats."""
    noise = np.random.default_rng(0)
    rows = []
    for row in range(COUNT):
        name = f"ü {row}.{('flac', 'wav', 'ogg')[row % 3]}"
        soundfile.write(tmp_path / name, 0.2 * noise.standard_normal(4000 + 900 * row), RATE)
        rows.append({"audio_filepath": name, "text": "A CAB "[: 1 + row % 5], "speaker": f"s{row % 2}"})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "train.jsonl"


@pytest.fixture
def written(files) -> shard_writing.Written:
    return shard_writing.write(manifests.read(files), files.parent / "shards", most_bytes=20_000)


def config(manifest: Path, folder: Path, **how) -> Config:
    data = DataConfig(**{"train_manifest": str(manifest), "batch_size": 2, "num_workers": 0} | how)
    speeds = AugmentationConfig(speeds=(0.9, 1.1))
    return resolve(
        Config(data_path=str(folder), data=data, augmentation=speeds, model=ModelConfig(labels=tuple("_ABC ")))
    )


def tar(path: Path, members: list, **how) -> Path:
    with tarfile.open(path, "w", **how) as archive:
        for name, content in members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def sound(samples: int = 3000) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.full(samples, 0.1), RATE, format="FLAC")
    return content.getvalue()


def test_shards_hold_the_recordings_byte_by_byte_where_their_manifest_says(files, written):
    plain, found = manifests.read(files), manifests.read(written.manifest)
    assert written.shards == len(list(written.manifest.parent.glob("train-*.tar"))) > 1
    assert [each._replace(audio="") for each in found] == [each._replace(audio="") for each in plain]
    for ours, theirs in zip(found, plain, strict=True):
        member = shards.member(ours.audio)
        assert member.shard.read_bytes()[member.offset :][: member.size] == theirs.audio.read_bytes()
        assert ours.audio.suffix == theirs.audio.suffix
        expected = audio.load(theirs.audio, sample_rate=RATE)
        assert np.array_equal(audio.load(ours.audio, sample_rate=RATE).samples, expected.samples)
        part = audio_parts.load(ours.audio, 0.1, 1500, sample_rate=RATE)
        assert np.array_equal(part.samples, audio_parts.load(theirs.audio, 0.1, 1500, sample_rate=RATE).samples)


def test_tar_lists_a_shard_in_the_layout_of_webdataset(written):
    listed = subprocess.run(
        ["tar", "-tf", written.manifest.parent / "train-000000.tar"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    keys = [name.partition(".")[0] for name in listed]
    assert listed[:4] == ["000000000.flac", "000000000.json", "000000001.wav", "000000001.json"]
    assert keys[::2] == keys[1::2]


def test_a_folder_of_shards_and_one_shard_are_manifests_too(files, written):
    plain = manifests.read(files)
    for path in (written.manifest.parent, *sorted(written.manifest.parent.glob("*.tar"))[:1]):
        found = manifests.read(path)
        assert [each[2:] for each in found] == [each[2:] for each in plain[: len(found)]]
    assert len(manifests.read(written.manifest.parent)) == COUNT


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("workers", "start"), [(0, 0), (1, 2)])
def test_batches_from_shards_have_the_bits_of_batches_from_files(tmp_path, files, written, workers, start, cached):
    def batches(manifest, workers, start, folder):
        cfg = config(manifest, tmp_path / folder, num_workers=workers, cache_features=cached)
        loader = Split.read("train", cfg, train=True).load(cfg, rank=0, ranks=1)
        found = [batch for epoch in (1, 2) for batch in loader.epoch(epoch, start=start)]
        loader.close()
        return found

    plain = batches(files, 0, 0, "files")
    ours = batches(written.manifest, workers, start, "shards")
    steps = len(plain) // 2
    expected = plain[start:steps] + plain[steps + start :]
    for one, other in zip(ours, expected, strict=True):
        assert all(map(torch.equal, one, other))


def test_a_run_notices_a_shard_that_was_written_again(files, written, tmp_path):
    how = {"val_manifest": str(written.manifest)}
    cfg = config(written.manifest, tmp_path, **how)
    cfg = resolve(Config(data_path=str(tmp_path), data=cfg.data, model=cfg.model))

    def record():
        return data_record.take({"train": Split.read("train", cfg)}, cfg)

    data_record.write(tmp_path, record())
    assert data_record.require_unchanged(tmp_path, record(), cfg) == []
    path = written.manifest.parent / "train-000000.tar"
    member = shards.member(manifests.read(written.manifest)[0].audio)
    content = bytearray(path.read_bytes())
    content[member.offset + member.size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="1 recordings replaced"):
        data_record.require_unchanged(tmp_path, record(), cfg)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_of_other_programs_are_read_with_long_names_too(tmp_path, form):
    long = f"{'d' * 90}/{'k' * 60}"
    if form == tarfile.USTAR_FORMAT:
        long = f"{'d' * 90}/{'k' * 40}"
    content = sound()
    fields = json.dumps({"text": "A CAB", "lang": "en"}).encode()
    members = [("x/b.json", fields), ("x/b.flac", content), (f"{long}.flac", content), (f"{long}.txt", b"CAB\n")]
    members += [("x/c.txt", b"no recording")]
    found = manifests.read(tar(tmp_path / "s.tar", members, format=form))
    assert [(each.transcript, each.lang, each.duration) for each in found] == [
        ("A CAB", "en", 3000 / RATE),
        ("CAB", "", 3000 / RATE),
    ]
    assert all(len(audio.load(each.audio, sample_rate=RATE).samples) == 3000 for each in found)


def test_names_that_climb_out_links_and_devices_do_nothing(tmp_path):
    link, device = tarfile.TarInfo("l.flac"), tarfile.TarInfo("d.flac")
    link.type, link.linkname, device.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE
    fields = json.dumps({"text": "A"}).encode()
    members = [("../../up.flac", sound()), ("../../up.json", fields), (link, b""), ("l.json", fields)]
    members += [(device, b""), ("/abs.flac", sound()), ("/abs.json", fields)]
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    found = manifests.read(tar(folder / "s.tar", members))
    assert [each.transcript for each in found] == ["A", "A"]
    assert all(len(audio.load(each.audio, sample_rate=RATE).samples) == 3000 for each in found)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([*before, "s.tar"])


def test_a_shard_that_is_cut_short_or_damaged_is_refused(tmp_path):
    path = tar(tmp_path / "s.tar", [("a.flac", sound()), ("a.json", b'{"text": "A"}')])
    (utterance,) = manifests.read(path)
    whole = path.read_bytes()
    member = shards.member(utterance.audio)
    path.write_bytes(whole[: member.offset + 9])
    with pytest.raises(InputError, match="cut short"):
        audio.load(utterance.audio)
    with pytest.raises(InputError, match=r"s\.tar: damaged or cut short at byte 0"):
        manifests.read(path)
    path.write_bytes(whole[: member.offset - 400] + b"?" + whole[member.offset - 399 :])
    with pytest.raises(InputError, match="no such member"):
        audio.load(utterance.audio)
    tar(path, [("other.flac", b"0" * member.size), ("a.json", b'{"text": "A"}')])
    with pytest.raises(InputError, match=r"has 'other\.flac' there"):
        audio.load(utterance.audio)
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        audio.load(utterance.audio)


@pytest.mark.parametrize(
    "address", ["s.tar/0+9+a.flac", "s.tar/512+999999999999+a.flac", "s.tar/1024+9+a.flac", "s.tar/999999999+9+a.flac"]
)
def test_addresses_that_lie_are_refused_without_reading_much(tmp_path, address):
    tar(tmp_path / "s.tar", [("a.flac", b"012345678")])
    with pytest.raises(InputError):
        audio.load(tmp_path / address)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.flac", b""), ("a.json", b"{")], "not JSON"),
        ([("a.flac", b""), ("a.json", b'{"txt": 1}')], 'no "text"'),
        ([("a.flac", b"x"), ("a.wav", b"x"), ("a.json", b"{}")], "2 recordings"),
        ([("a.flac", b"x")], r"no \.json or \.txt"),
        ([("a.flac", b"x"), ("a.txt", b"\xff")], "not UTF-8"),
        ([("a.flac", b"x"), ("a.json", b'{"text": "' + b"x" * (1 << 20) + b'"}')], "limit"),
        ([("a.flac", b"nonsense"), ("a.json", b'{"text": "A"}')], "not audio"),
        ([], "names no recordings"),
    ],
)
def test_samples_that_cannot_be_used_are_named(tmp_path, members, message):
    with pytest.raises(InputError, match=message):
        manifests.read(tar(tmp_path / "s.tar", members))


def test_parts_and_a_manifest_that_is_there_are_not_written(files, written):
    rows = manifests.read(files)
    with pytest.raises(InputError, match="is there already"):
        shard_writing.write(rows, written.manifest.parent)
    with pytest.raises(InputError, match="1 of 7 utterances are parts"):
        shard_writing.write([*rows[:-1], rows[-1]._replace(start=0.1)], files.parent / "new")
    assert not (files.parent / "new").exists()


def test_a_shard_that_is_missing_or_cut_short_is_found_at_the_start(written):
    first, second = sorted(written.manifest.parent.glob("*.tar"))[:2]
    content = second.read_bytes()
    rows = manifests.read(written.manifest)
    lost = [sum(str(path) in str(each.audio) for each in rows) for path in (first, second)]
    second.write_bytes(content[:600])
    found = []
    manifests.read(written.manifest, found=found)
    assert len(found) == lost[1]
    assert all("the shard is cut short" in each.reason for each in found)
    second.write_bytes(content)
    first.unlink()
    found = []
    manifests.read(written.manifest, found=found)
    assert len(found) == lost[0]
    assert all("No such file" in each.reason for each in found)


def test_whoever_verifies_a_manifest_opens_every_member(written):
    rows = len(manifests.read(written.manifest))
    shard = min(written.manifest.parent.glob("*.tar"))
    content = bytearray(shard.read_bytes())
    content[512 : 512 + 4] = b"none"  # of the first recording
    shard.write_bytes(content)
    cfg = DataConfig()
    assert len(manifests.read(written.manifest)) == rows, "the manifest is believed"
    (problem,) = manifest_opening.open_manifest(written.manifest, cfg=cfg).checked.problems
    assert "not audio" in problem.reason
    assert not manifest_opening.open_manifest(written.manifest, cfg=cfg, trust=True).checked.problems


def test_lhotse_cannot_name_a_member(written, tmp_path):
    rows = manifests.read(written.manifest)
    with pytest.raises(InputError, match=r"in a tar shard, which Lhotse's cuts cannot name; take --form=jsonl"):
        manifest_forms.write_form(tmp_path / "cuts.jsonl.gz", "lhotse", rows, [each.transcript for each in rows])


def test_a_full_disk_is_told_with_the_shard(files, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(OSError, match=r"new/train-000000\.tar"):
        shard_writing.write(manifests.read(files), files.parent / "new")
    assert list((files.parent / "new").iterdir()) == []


def test_a_recording_that_is_missing_leaves_no_manifest(files):
    rows = manifests.read(files)
    rows[2].audio.unlink()
    with pytest.raises(InputError, match="No such file"):
        shard_writing.write(rows, files.parent / "new")
    assert list((files.parent / "new").iterdir()) == []


def test_a_folder_with_recordings_and_an_archive_is_no_folder_of_shards(tmp_path):
    (tmp_path / "a.flac").write_bytes(sound())
    (tmp_path / "a.txt").write_text("A CAB")
    tar(tmp_path / "download.tar", [("a.flac", b"x")])
    assert [each.transcript for each in manifests.read(tmp_path)] == ["A CAB"]
