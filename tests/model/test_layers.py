import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.model import layers

LENGTHS = st.lists(st.integers(0, 7), min_size=1, max_size=5)


@given(LENGTHS, st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_reversal_turns_every_utterance_round_and_is_its_own_inverse(lengths, extra):
    size = max(lengths) + extra
    x = torch.randn(size, len(lengths), 2)
    frames = layers.frames(torch.tensor(lengths), size)
    reversed_x = layers.reverse(x, frames)
    for index, length in enumerate(lengths):
        torch.testing.assert_close(reversed_x[:length, index], x[:length, index].flip(0), rtol=0, atol=0)
        torch.testing.assert_close(reversed_x[length:, index], x[length:, index], rtol=0, atol=0)
    assert torch.equal(layers.reverse(reversed_x, frames), x)


@given(LENGTHS, st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_padding_is_true_exactly_past_the_end(lengths, extra):
    frames = layers.frames(torch.tensor(lengths), max(lengths) + extra)
    expected = [[time >= length for length in lengths] for time in range(max(lengths) + extra)]
    assert frames.padding.tolist() == expected


def test_zero_padding_removes_nan_and_stops_the_gradient():
    x = torch.tensor([[1.0], [torch.nan]], requires_grad=True)
    y = layers.zero_padding(x, torch.tensor([[False], [True]]))
    y.sum().backward()
    assert y.tolist() == [[1.0], [0.0]]
    assert x.grad.tolist() == [[1.0], [0.0]]


def test_clip_is_the_identity_between_0_and_20_and_flat_outside():
    x = torch.tensor([-1.0, 0.5, 19.0, 21.0], requires_grad=True)
    y = layers.clip(x)
    y.sum().backward()
    assert y.tolist() == [0.0, 0.5, 19.0, 20.0]
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_lookahead_weighs_the_next_frames_of_each_unit():
    x, weight = torch.randn(6, 2, 3, dtype=torch.float64), torch.randn(3, 1, 4, dtype=torch.float64)
    y = layers.lookahead({"weight": weight}, x, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for time in range(6):
        for ahead in range(min(4, 6 - time)):
            expected[time] += weight[:, 0, ahead] * x[time + ahead]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_zeroes_the_given_share_and_keeps_the_mean(dtype):
    y = layers.dropout(torch.ones(200, 100, dtype=dtype), rate=0.25, key=3)
    assert y.dtype == dtype
    assert abs(float((y == 0).float().mean()) - 0.25) < 0.02
    torch.testing.assert_close(y[y != 0].float().unique(), torch.tensor([4 / 3]), rtol=0.01, atol=0)


def test_dropout_is_decided_by_its_key_alone():
    x = torch.ones(50)
    torch.manual_seed(1)
    first = layers.dropout(x, rate=0.5, key=7)
    torch.manual_seed(2)
    assert torch.equal(first, layers.dropout(x, rate=0.5, key=7))
    assert not torch.equal(first, layers.dropout(x, rate=0.5, key=8))


def test_variational_dropout_drops_units_of_utterances_at_all_frames_alike():
    y = layers.dropout(torch.ones(30, 40, 50), rate=0.25, key=3, same_frames=True)
    assert torch.equal(y, y[:1].expand_as(y))
    assert abs(float((y[0] == 0).float().mean()) - 0.25) < 0.04
    torch.testing.assert_close(y.unique(), torch.tensor([0, 4 / 3]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_convolution_gives_the_same_in_either_layout(channels):
    params = {
        "weight": torch.randn(4, channels, 5, 3, dtype=torch.float64),
        "bias": torch.randn(4, dtype=torch.float64),
    }
    x = torch.randn(2, channels, 9, 8, dtype=torch.float64)
    how = {"stride": (2, 1), "padding": (2, 1), "dtype": torch.float64}
    plain, fused = layers.conv2d(params, x, **how), layers.conv2d(params, x, fused=True, **how)
    torch.testing.assert_close(fused, plain)
    assert fused.stride()[1] == 1  # it is not converted back
