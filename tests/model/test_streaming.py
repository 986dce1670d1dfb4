"""The streaming model against the whole recording at once."""

import pytest
import torch

from ds2f import tree
from ds2f.config import ModelConfig
from ds2f.errors import InputError
from ds2f.model import deepspeech2, streaming
from ds2f.types import Params, Stats

FRAMES = 157


def model(**settings: object) -> tuple[ModelConfig, Params, Stats]:
    """A small unidirectional model with random statistics."""
    options = {"hidden_size": 8, "hidden_layers": 2, "lookahead_context": 7, "num_bins": 41} | settings
    cfg = ModelConfig(bidirectional=False, **options)  # type: ignore[arg-type]
    params, stats = deepspeech2.init(cfg, key=1)
    generator = torch.Generator().manual_seed(2)
    return cfg, params, tree.map(lambda x: x + 0.3 * torch.rand(x.shape, generator=generator), stats)


def features(*lengths: int) -> torch.Tensor:
    """[B, 41, FRAMES]: noise, and NaN past each recording's end."""
    values = torch.randn(len(lengths), 41, FRAMES, generator=torch.Generator().manual_seed(3))
    for row, length in zip(values, lengths, strict=True):
        row[:, length:] = torch.nan
    return values


def blocks_of(values: torch.Tensor, position: int, size: int) -> torch.Tensor:
    """The frames from ``position`` on, NaN where there are none."""
    frames = torch.arange(position, position + size)
    there = (frames >= 0) & (frames < FRAMES)
    return torch.where(there, values[..., frames.clamp(0, FRAMES - 1)], torch.nan)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("time_stride", [2, 4, 6, 8])
@pytest.mark.parametrize("block", [1, 3, 16])
def test_blocks_give_the_logits_of_whole_recordings(time_stride: int, block: int, cell: str) -> None:
    cfg, params, stats = model(time_stride=time_stride, rnn_type=cell)
    lengths, values = torch.tensor([FRAMES, 40, 1]), features(FRAMES, 40, 1)
    expected, _ = deepspeech2.apply(params, stats, values, lengths, cfg=cfg, train=False)

    state, parts = streaming.init(cfg, stats, streams=3, block=block), ([], [], [])
    for _ in range(3 + (FRAMES + streaming.delay(cfg)) // (block * time_stride)):
        window = blocks_of(values, int(state.position[0]), block * time_stride)
        state, found = streaming.step(params, stats, state, window, lengths, cfg=cfg)
        for part, row, (begin, end) in zip(
            parts, found.values, streaming.output_range(found, lengths, cfg=cfg).tolist(), strict=True
        ):
            part.append(row[begin:end])

    for part, row, length in zip(parts, expected.values, expected.lengths.tolist(), strict=True):
        assert row[:length].std() > 0.01
        torch.testing.assert_close(torch.cat(part), row[:length], rtol=0, atol=1e-6)


def test_streams_at_different_positions_are_batched() -> None:
    cfg, params, stats = model()
    values = features(FRAMES, FRAMES)
    alone = [streaming.init(cfg, stats, block=4) for _ in range(2)]
    for _ in range(5):  # the first stream is five blocks ahead
        window = blocks_of(values[:1], int(alone[0].position[0]), 8)
        alone[0], _ = streaming.step(params, stats, alone[0], window, cfg=cfg)

    together = tree.map(lambda *rows: torch.cat(rows), *alone)
    windows = [blocks_of(values[row : row + 1], int(alone[row].position[0]), 8) for row in range(2)]
    _, found = streaming.step(params, stats, together, torch.cat(windows), cfg=cfg)

    for row in range(2):
        _, expected = streaming.step(params, stats, alone[row], windows[row], cfg=cfg)
        assert found.begin[row] == expected.begin[0]
        torch.testing.assert_close(found.values[row], expected.values[0], rtol=0, atol=1e-6)


def test_frames_after_the_delay_decide_nothing() -> None:
    cfg, params, stats = model()
    reach = streaming.delay(cfg)
    values = torch.randn(1, 41, 100, generator=torch.Generator().manual_seed(4))
    lengths = torch.tensor([100])

    def logits(changed: int) -> torch.Tensor:
        other = values.clone()
        other[..., changed] += 1.0
        return deepspeech2.apply(params, stats, other, lengths, cfg=cfg, train=False)[0].values[0, 10]

    plain = deepspeech2.apply(params, stats, values, lengths, cfg=cfg, train=False)[0].values[0, 10]
    assert torch.equal(logits(20 + reach + 1), plain)
    assert not torch.equal(logits(20 + reach), plain)


def test_a_bidirectional_model_is_refused() -> None:
    cfg = ModelConfig(hidden_size=4, hidden_layers=1)
    with pytest.raises(InputError, match="bidirectional"):
        streaming.init(cfg, deepspeech2.init(cfg, key=0)[1])
