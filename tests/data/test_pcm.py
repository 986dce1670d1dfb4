"""Raw PCM in pieces of any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds2f.data import audio
from ds2f.data.pcm import PcmDecoder
from ds2f.errors import InputError

PCM = np.random.default_rng(0).integers(-9999, 9999, 3000).astype("<i2")


def decoded(content: bytes, cuts: list[int], rate: int = 16000) -> np.ndarray:
    decoder = PcmDecoder(rate, sample_rate=16000)
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    parts = [decoder.decode(content[begin:end]) for begin, end in zip(bounds, bounds[1:], strict=False)]  # noqa: RUF007
    return np.concatenate((*parts, decoder.finish()))


@given(st.integers(0, 400), st.lists(st.integers(0, 400), max_size=8))
def test_bytes_in_any_pieces_are_the_whole_samples(size: int, cuts: list[int]) -> None:
    found = decoded(PCM.tobytes()[:size], cuts)
    assert np.array_equal(found, PCM[: size // 2].astype(np.float32) / 32768)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_other_rates_are_converted(rate: int) -> None:
    found = decoded(PCM.tobytes(), [1, 777, 778, 3001], rate)
    expected = audio.resample(PCM.astype(np.float32) / 32768, rate, 16000)
    assert len(found) == pytest.approx(len(expected), abs=1)
    both = min(len(found), len(expected))
    np.testing.assert_allclose(found[:both], expected[:both], atol=1e-3)


@pytest.mark.parametrize("magic", [b"RIFF", b"fLaC", b"OggS", b"NIST", b"ID3\x04"])
@pytest.mark.parametrize("cuts", [[], [1], [1, 2, 3]])
def test_a_file_is_not_taken_for_samples(magic: bytes, cuts: list[int]) -> None:
    with pytest.raises(InputError, match=r"stream: a .* file, but raw PCM is expected .* by its path"):
        decoded(magic + bytes(100), cuts)


@pytest.mark.parametrize("rate", [0, -1, 999, 10**9])
def test_rates_that_no_recording_has_are_refused(rate: int) -> None:
    with pytest.raises(InputError, match="hertz"):
        PcmDecoder(rate)
