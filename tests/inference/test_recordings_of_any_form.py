"""Tests of recordings in their forms: paths, open files, pipes, arrays; and of one that is too large for memory."""

import io
import json
import os
import resource
import select

import numpy as np
import pytest
import soundfile
import torch

from ds2f.config import Config, ModelConfig
from ds2f.data.audio_blocks import Recording
from ds2f.errors import InputError
from ds2f.inference import Recognizer, engine, recognizer
from ds2f.model import deepspeech2
from ds2f.runner.device.backend import open_backend

RATE = 16000
SOUND = np.random.default_rng(0).integers(-9999, 9999, RATE).astype(np.int16)


@pytest.fixture(scope="module")
def model():
    cfg = Config(model=ModelConfig(hidden_size=8, hidden_layers=1))
    params, stats = deepspeech2.init(cfg.model, key=0)
    return Recognizer(cfg, params, stats, backend=open_backend("cpu"))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    written = tmp_path_factory.mktemp("sound") / "a.wav"
    soundfile.write(written, SOUND, RATE)
    return written


class Pipe(io.RawIOBase):
    """A binary file that can only be read on."""

    def __init__(self, content):
        self._content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        found = self._content.read(min(len(buffer), 1000))
        buffer[: len(found)] = found
        return len(found)


def test_a_recording_gives_the_same_text_in_each_of_its_forms(model, path):
    expected = model.transcribe(path)
    assert expected.text
    content = path.read_bytes()
    assert model.transcribe(str(path)) == expected
    assert model.transcribe(io.BytesIO(content)) == expected
    assert model.transcribe(Pipe(content)) == expected
    with path.open("rb") as file:
        assert model.transcribe(file) == expected
    floats = SOUND / 32768
    for array in (
        SOUND,
        SOUND.astype(np.int32) * 2**16,
        floats,
        floats.astype(np.float32),
        floats[:, None],
        SOUND[::1],
    ):
        assert model.transcribe(array, rate=RATE) == expected
    assert model.transcribe(np.stack([SOUND, SOUND], axis=1), rate=RATE).segments == expected.segments
    assert model.transcribe(torch.from_numpy(SOUND), rate=RATE) == expected
    assert model.transcribe(torch.from_numpy(floats).float().requires_grad_(), rate=RATE) == expected


def test_remarks_about_a_recording_are_told(model, path):
    assert model.transcribe(np.stack([SOUND, -SOUND], axis=1), rate=8000).notes == (
        "its 2 channels cancel each other: the loudest is taken alone",
        "resampled from 8000 Hz to 16000 Hz",
    )
    assert model.transcribe(path).notes == ()


@pytest.mark.parametrize(
    ("recording", "rate", "message"),
    [
        (SOUND, None, "it: samples do not tell their sampling rate; pass rate="),
        (io.BytesIO(b""), 16000, "it: a file tells its own sampling rate"),
        (io.BytesIO(b""), None, "it: the file is empty"),
        (Pipe(b""), None, "it: nothing came"),
        (SOUND[:0], RATE, "it: the recording has no samples"),
        (SOUND[None, :], RATE, r"it: samples of shape \(1, 16000\); give \[N\], or \[N, channels\]"),
        (SOUND[None, None], RATE, "it: samples of shape"),
        (SOUND.astype(complex), RATE, "it: samples of dtype complex128"),
        (SOUND, 16, "it: 16 samples a second"),
        (np.array([0.0, np.nan]), RATE, "it: contains NaN"),
    ],
)
def test_what_cannot_be_transcribed_is_named_with_a_remedy(model, recording, rate, message):
    with pytest.raises(InputError, match=message):
        model.transcribe(recording, rate=rate, name="it")


def test_a_pipe_that_does_not_end_is_given_up_at_the_limit(model):
    class Endless(Pipe):
        def readinto(self, buffer):
            buffer[:] = bytes(len(buffer))
            return len(buffer)

    with pytest.raises(InputError, match=r"it: more than 3,840,000 bytes came"):
        model.transcribe(Recording(Endless(b""), name="it", max_seconds=10))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: 12 bytes"),
        RuntimeError("std::bad_alloc"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("NPU out of memory. Tried to allocate 2 GiB"),
    ],
)
@pytest.mark.parametrize("where", ["engine.eval_step", "model._cut", "features.log_spectrogram"])
def test_a_recording_for_which_memory_lacks_is_reported(model, path, monkeypatch, error, where):
    def full(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        owner, _, name = where.rpartition(".")
        owners = {"engine": engine, "model": model, "features": recognizer.features}
        patched.setattr(owners[owner], name, full)
        with pytest.raises(InputError, match=r"a\.wav: does not fit into the memory that is free"):
            model.transcribe(path)
    assert model.transcribe(path).text


def test_another_error_of_the_model_is_no_lack_of_memory(model, path, monkeypatch):
    def wrong(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(engine, "eval_step", wrong)
    with pytest.raises(RuntimeError, match="mat1"):
        model.transcribe(path)


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_quarter_of_an_hour_takes_less_memory_than_its_features_would(model, tmp_path):
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(tmp_path / "long.flac", "w", RATE, 1) as file:
        for _ in range(90):
            file.write(generator.integers(-9999, 9999, 10 * RATE).astype(np.int16))
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        try:
            told = [model.transcribe(SOUND, rate=RATE).text]
            pages = int(open("/proc/self/statm").read().split()[0])  # noqa: PTH123, SIM115
            limit = pages * resource.getpagesize() + (700 << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            try:
                told.append(model.transcribe(tmp_path / "long.flac").text)
            except InputError as error:
                told.append(str(error))
            told.append(model.transcribe(SOUND, rate=RATE).text)
            os.write(send, json.dumps([len(each) for each in told]).encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        assert select.select([pipe], [], [], 120)[0]
        first, long, last = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert first == last == len(model.transcribe(SOUND, rate=RATE).text)
    assert long > 1000


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ([0.0, 0.1], "list; give a path"),
        (None, "NoneType; give a path"),
        (b"abc", "bytes; give a path"),
        (io.StringIO("abc"), "open as text"),
        ("a\0b.wav", "check the path"),
        ("x" * 5000, "check the path"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_things_than_recordings_are_told(model, source, told):
    with pytest.raises(InputError, match=told):
        model.transcribe(source)


def test_a_closed_file_is_told(model, path):
    with path.open("rb") as file:
        pass
    with pytest.raises(InputError, match="closed"):
        model.transcribe(file)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_without_a_known_full_scale_are_refused(model, dtype):
    with pytest.raises(InputError, match="give int16 or int32"):
        model.transcribe(np.abs(SOUND).astype(dtype), rate=RATE)


def test_a_tensor_of_bfloat16_is_a_recording(model):
    assert model.transcribe(torch.from_numpy(SOUND / 32768).bfloat16(), rate=RATE).duration == 1.0
