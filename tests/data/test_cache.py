import os
import shutil
import zlib

import numpy as np
import pytest
import torch

from ds2f.config import SpectConfig
from ds2f.data.cache import FeatureCache

pytestmark = pytest.mark.usefixtures("roomy_disk")


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"sound")
    return path


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "cache", SpectConfig())


class _Compute:
    """Other features on every call."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return torch.full((161, 7), float(self.calls))


def _never():
    raise AssertionError("computed although it is cached")


def test_a_hit_gives_the_bits_of_the_miss(cache, recording):
    features = torch.randn(161, 20)
    missed = cache.features(recording, 1.0, lambda: features)
    hit = cache.features(recording, 1.0, _never)
    assert torch.equal(missed, features)
    assert torch.equal(hit, features)
    assert hit.dtype == torch.float32


def test_a_cached_file_opens_with_numpy_and_stands_alone(cache, recording):
    features = torch.randn(161, 20)
    cache.features(recording, 1.0, lambda: features)
    files = [path for path in cache.directory.rglob("*") if path.is_file()]
    assert files == [cache.path(recording, 1.0)]
    np.testing.assert_array_equal(np.load(files[0]), features)


def test_what_numpy_saved_with_its_checksum_is_read(cache, recording):
    features = np.random.default_rng(0).normal(size=(161, 33)).astype(np.float32)
    path = cache.path(recording, 1.0)
    path.parent.mkdir(parents=True)
    np.save(path, features)
    content = path.read_bytes()
    path.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))
    np.testing.assert_array_equal(cache.features(recording, 1.0, _never), features)


def test_features_in_another_order_of_memory_are_kept_as_they_are(cache, recording):
    features = torch.randn(20, 161).T
    cache.features(recording, 1.0, lambda: features)
    assert torch.equal(cache.features(recording, 1.0, _never), features)


def test_what_is_read_may_be_written_to_and_changes_nothing_kept(cache, recording):
    features = torch.randn(161, 20)
    cache.features(recording, 1.0, lambda: features)
    cache.features(recording, 1.0, _never).zero_()
    assert torch.equal(cache.features(recording, 1.0, _never), features)


def test_speeds_recordings_and_settings_do_not_mix(tmp_path, cache, recording):
    other = tmp_path / "b.wav"
    other.write_bytes(b"other")
    compute = _Compute()
    coarse = FeatureCache(tmp_path / "cache", SpectConfig(window_stride=0.02))
    values = [
        source.features(path, speed, compute)[0, 0].item()
        for source, path, speed in [
            (cache, recording, 1.0),
            (cache, recording, 0.9),
            (cache, other, 1.0),
            (coarse, recording, 1.0),
        ]
    ]
    assert values == [1, 2, 3, 4]


def _rewritten(recording):
    recording.write_bytes(b"SOUND")


def _replaced(recording):
    other = recording.with_name("other.wav")
    other.write_bytes(b"SOUND")
    other.replace(recording)


def _linked(recording):
    other = recording.with_name("other.wav")
    other.write_bytes(b"SOUND")
    recording.unlink()
    recording.symlink_to(other)


@pytest.mark.parametrize("change", [_rewritten, _replaced, _linked])
def test_a_recording_that_is_replaced_with_the_same_size_and_time_is_computed_anew(cache, recording, change):
    compute = _Compute()
    cache.features(recording, 1.0, compute)
    before = recording.stat()
    change(recording)
    os.utime(recording, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = recording.stat()
    assert (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert cache.features(recording, 1.0, compute)[0, 0] == 2


def test_a_recording_that_is_moved_copied_or_touched_is_not_computed_anew(cache, recording, tmp_path):
    features = torch.randn(161, 20)
    cache.features(recording, 1.0, lambda: features)
    os.utime(recording, ns=(0, 0))
    assert torch.equal(cache.features(recording, 1.0, _never), features)
    copied = shutil.copy(recording, tmp_path / "caf\udce9.wav")
    assert torch.equal(cache.features(copied, 1.0, _never), features)


def test_a_pipe_in_place_of_a_recording_is_not_waited_for(cache, tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    assert cache.features(tmp_path / "pipe.wav", 1.0, _Compute())[0, 0] == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"\0" * 4,
        lambda content: content[: len(content) // 2],
        lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
        lambda content: b"\0" * len(content),
    ],
    ids=["empty", "four zeros", "cut", "one bit", "zeros"],
)
def test_a_damaged_file_is_computed_and_written_again(cache, recording, damage):
    compute = _Compute()
    cache.features(recording, 1.0, compute)
    path = cache.path(recording, 1.0)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.features(recording, 1.0, compute)[0, 0] == 2
    assert cache.features(recording, 1.0, _never)[0, 0] == 2


def test_a_missing_recording_is_left_to_the_computation(cache, tmp_path):
    def compute():
        raise LookupError("no such recording")

    with pytest.raises(LookupError, match="no such recording"):
        cache.features(tmp_path / "absent.wav", 1.0, compute)


def test_a_full_disk_is_noticed_once_and_leaves_nothing_behind(cache, recording, monkeypatch):
    attempts = []

    def full(self, target):
        attempts.append(target)
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.replace", full)
    compute = _Compute()
    assert [cache.features(recording, 1.0, compute)[0, 0].item() for _ in range(3)] == [1, 2, 3]
    assert "No space left on device" in cache.problem
    assert len(attempts) == 1
    assert not [path for path in cache.directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("total", "free", "full"),
    [(1000, 49, True), (1000, 50, False), (10**13, 2 * 2**30 - 1, True), (10**13, 2 * 2**30, False)],
)
def test_a_nearly_full_disk_is_left_alone(cache, recording, monkeypatch, total, free, full):
    usage = shutil.disk_usage(recording)._replace(total=total, free=free)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    cache.features(recording, 1.0, _Compute())
    assert ("nearly full" in str(cache.problem)) is full
    assert cache.path(recording, 1.0).exists() is not full
