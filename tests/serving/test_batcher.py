"""The batching queue in this process: batches, errors of one recording, clients that leave, long recordings."""

import io
import time
from concurrent.futures import CancelledError

import pytest
from serving_process import recognizer, wav
from speaking_model import RATE

from ds2f.config import ServingConfig
from ds2f.errors import InputError, OutOfMemory
from ds2f.serving.api_errors import as_api_error
from ds2f.serving.batcher import Batcher, Busy
from ds2f.serving.serving_metrics import ServingMetrics
from ds2f.serving.upload import UploadedRecording


class Held(io.BytesIO):
    """An upload that notes when it is closed."""


def upload(content):
    return UploadedRecording(content, sample_rate=RATE, max_seconds=3600)


class Watched:
    """A recognizer that notes its batches, and fails where it is told to."""

    def __init__(self):
        self._shared = recognizer()
        self.batches, self.failing = [], None

    def __getattr__(self, name):
        return getattr(self._shared, name)

    def log_probs(self, parts):
        self.batches.append([part.features.shape[1] for part in parts])
        if self.failing is not None:
            error, self.failing = self.failing, None
            raise error
        return self._shared.log_probs(parts)


@pytest.fixture
def watched():
    return Watched()


@pytest.fixture
def batcher(watched):
    cfg = ServingConfig(wait_ms=200, queue=40)
    with Batcher(watched, cfg=cfg, metrics=ServingMetrics()) as running:
        yield running


def test_recordings_of_like_length_share_a_batch_and_each_has_its_own_text(batcher, watched):
    seconds = [2.0, 2.1, 2.2, 5.0, 5.2, 5.4, 2.0, 5.0]
    contents = [wav(length, seed) for seed, length in enumerate(seconds)]
    expected = [recognizer().transcribe(io.BytesIO(content)) for content in contents]
    assert len({each.text for each in expected}) >= 7
    jobs = [batcher.submit(upload(Held(content))) for content in contents]
    found = [job.future.result(60) for job in jobs]
    assert [each.text for each in found] == [each.text for each in expected]
    assert [each.duration for each in found] == [each.duration for each in expected]
    assert sorted(map(len, watched.batches)) == [4, 4]


def test_a_full_batch_does_not_wait(watched):
    cfg = ServingConfig(wait_ms=10_000, batch_frames=400)
    with Batcher(watched, cfg=cfg, metrics=ServingMetrics()) as running:
        begun = time.monotonic()
        jobs = [running.submit(upload(Held(wav(2, seed)))) for seed in range(4)]
        for job in jobs[:2]:
            job.future.result(60)
        assert time.monotonic() - begun < 8
        for job in jobs:
            job.future.cancel()


@pytest.mark.parametrize("error", [RuntimeError("the device"), ValueError("a fault")])
def test_an_error_of_the_device_fails_its_batch_and_no_other(batcher, watched, error):
    watched.failing = error
    with pytest.raises(type(error)):
        batcher.submit(upload(Held(wav(2)))).future.result(60)
    assert batcher.submit(upload(Held(wav(2)))).future.result(60).text
    assert batcher.waiting == 0


def test_a_recording_that_does_not_fit_into_memory_fails_alone(batcher, watched, monkeypatch):
    real = watched._shared._logits

    def little_memory(spectrograms):
        if max(each.shape[1] for each in spectrograms) > 450 or len(spectrograms) > 1:
            raise MemoryError
        return real(spectrograms)

    monkeypatch.setattr(watched._shared, "_logits", little_memory)
    small, large = batcher.submit(upload(Held(wav(4.6)))), batcher.submit(upload(Held(wav(4.4))))
    with pytest.raises(OutOfMemory):
        small.future.result(60)
    assert large.future.result(60).text


def test_what_is_read_is_closed_at_the_end_after_an_error_and_if_the_client_leaves(batcher):
    good, broken, left = Held(wav(2)), Held(wav(2)[:-100]), Held(wav(70))
    jobs = [batcher.submit(upload(content), close=content.close) for content in (good, broken, left)]
    jobs[2].future.cancel()
    assert jobs[0].future.result(60).text
    with pytest.raises(InputError):
        jobs[1].future.result(60)
    with pytest.raises(CancelledError):
        jobs[2].future.result(60)
    end = time.monotonic() + 20
    while not (good.closed and broken.closed and left.closed):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert batcher.waiting == 0


def test_a_long_recording_has_few_pieces_in_the_queue_and_does_not_hold_a_short_one_up(watched):
    cfg = ServingConfig(wait_ms=0, batch_frames=1)
    content = wav(400, seed=3)
    expected = recognizer().transcribe(io.BytesIO(content))
    with Batcher(watched, cfg=cfg, metrics=ServingMetrics()) as running:
        long = running.submit(upload(Held(content)))
        while len(watched.batches) < 2:
            time.sleep(0.005)
        done = []
        for seed in range(3):
            running.submit(upload(Held(wav(1, seed)))).future.result(60)
            done.append(len(watched.batches))
            assert len(running._queue) <= 4
        found = long.future.result(120)
        assert (found.text, len(found.segments)) == (expected.text, len(expected.segments))
        assert done[-1] - done[0] <= 8


def test_a_full_queue_refuses_and_says_when_to_try_again(watched):
    cfg = ServingConfig(wait_ms=10_000, queue=2)
    with Batcher(watched, cfg=cfg, metrics=ServingMetrics()) as running:
        jobs = [running.submit(upload(Held(wav(1)))) for _ in range(2)]
        with pytest.raises(Busy) as error:
            running.submit(upload(Held(wav(1))))
        assert 1 <= error.value.retry_after <= 60
        jobs[0].future.cancel()
        jobs.append(running.submit(upload(Held(wav(1)))))
        for job in jobs:
            job.future.cancel()


def test_errors_of_the_server_are_told_without_details():
    told = as_api_error(OutOfMemory("recording: does not fit; device npu:3 at /srv/model"))
    assert (told.status, told.code, "npu" in str(told)) == (503, "no_memory", False)
    assert told.headers["retry-after"]
    told = as_api_error(RuntimeError("/srv/secret"))
    assert (told.status, told.code, "/srv" in str(told)) == (500, "internal_error", False)
