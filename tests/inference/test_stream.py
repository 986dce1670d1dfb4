"""Logits of a stream against those of the whole recording."""

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f import features, tree
from ds2f.config import Config, ModelConfig, SpectConfig, resolve
from ds2f.inference import stream
from ds2f.model import deepspeech2

RATE = 2000
SPECT = SpectConfig(sample_rate=RATE, normalize="global", mean=tuple(i / 100 for i in range(21)), deviation=0.7)
MODEL = ModelConfig(hidden_size=8, hidden_layers=2, bidirectional=False, lookahead_context=7)
CFG = resolve(Config(model=MODEL, spect=SPECT))
PARAMS, STATS = deepspeech2.init(CFG.model, key=1)
STATS = tree.map(lambda x: x + 0.1, STATS)
PARAMS["output"]["lookahead"]["weight"].abs_()  # outputs that the clip lets through
PARAMS["output"]["weight"] *= 10


def noise(samples: int, *, streams: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(streams, samples, generator=torch.Generator().manual_seed(samples))


def whole(samples: torch.Tensor, cfg: Config = CFG) -> torch.Tensor:
    """[B, T', V]: the logits of whole recordings."""
    values = torch.stack([features.log_spectrogram(row, cfg.spect) for row in samples])
    lengths = torch.full((len(values),), values.shape[2])
    logits = deepspeech2.apply(PARAMS, STATS, values, lengths, cfg=cfg.model, train=False)[0].values
    assert samples.shape[1] < RATE or logits.std(dim=1).max() > 0.01  # something that could differ
    return logits


def streamed(samples: torch.Tensor, cuts: list[int], *, block: int = 16, cfg: Config = CFG) -> torch.Tensor:
    """[B, T', V]: the logits of the samples in chunks that end at the cuts."""
    state, parts = stream.init(cfg, STATS, streams=len(samples), block=block), []
    for chunk in torch.tensor_split(samples, sorted(cuts), dim=1):
        state, logits = stream.step(PARAMS, STATS, state, chunk, cfg=cfg)
        parts.append(logits.values)
    parts.append(stream.finish(PARAMS, STATS, state, cfg=cfg).values)
    return torch.cat(parts, dim=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3000), st.lists(st.integers(0, 3000), max_size=8), st.sampled_from((2, 16)))
def test_a_stream_gives_the_logits_of_the_whole_recording(samples: int, cuts: list[int], block: int) -> None:
    recordings = noise(samples, streams=2)
    found = streamed(recordings, [min(cut, samples) for cut in cuts], block=block)
    torch.testing.assert_close(found, whole(recordings), rtol=0, atol=1e-5)


def test_without_samples_there_are_no_logits() -> None:
    assert streamed(noise(0), []).shape == (1, 0, len(CFG.model.labels))


def test_logits_come_as_soon_as_their_block_is_decided() -> None:
    state = stream.init(CFG, STATS, block=1)
    recording, given_frames = noise(4 * RATE), 0
    for samples in range(20, 4 * RATE, 20):
        state, logits = stream.step(PARAMS, STATS, state, recording[:, samples - 20 : samples], cfg=CFG)
        given_frames += logits.values.shape[1]
        # Frames of the spectrogram whose windows are there, then frames of logits that these decide.
        complete = max(0, (samples - SPECT.window_samples // 2) // SPECT.stride_samples + 1)
        decided = max(0, (complete - 1 - stream.streaming.delay(CFG.model)) // 2 + 1)
        assert decided - 1 <= given_frames <= decided


@pytest.mark.parametrize("normalize", ["utterance", "bins"])
def test_a_running_normalisation_does_not_depend_on_the_chunks(normalize: str) -> None:
    cfg = attrs.evolve(CFG, spect=attrs.evolve(SPECT, normalize=normalize))
    recording = noise(6000)
    once = streamed(recording, [], cfg=cfg)
    assert torch.equal(streamed(recording, list(range(0, 6000, 77)), cfg=cfg), once)
    assert not torch.equal(once, whole(recording, cfg))  # which is normalised by its own statistics from the start


@pytest.mark.parametrize("normalize", ["utterance", "bins"])
def test_the_running_statistics_are_those_of_the_frames(normalize: str) -> None:
    spect = attrs.evolve(SPECT, normalize=normalize)
    values = features.log_magnitudes(noise(4000, streams=3), spect)
    running = stream.Running(torch.zeros(3), torch.zeros(3, 21), torch.zeros(3, 21))
    valid = torch.ones(3, values.shape[2], dtype=torch.bool)
    valid[1, :7] = valid[2, 50:] = False
    for begin in range(0, values.shape[2], 30):
        part = slice(begin, begin + 30)
        running = stream._updated(running, values[..., part], valid[:, part])
    for row, mask in enumerate(valid):
        normal = stream._normalized(
            tree.map(lambda x, row=row: x[row : row + 1], running), values[row : row + 1], spect
        )
        expected = features.normalized(values[row][:, mask], spect)
        torch.testing.assert_close(normal[0][:, mask], expected, rtol=0, atol=1e-5)
