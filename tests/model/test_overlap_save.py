"""The convolution by blocks of transforms against torch's direct convolution, in float64 and float32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ds2f.model import layers, overlap_save


def example(batch, channels, rows, frames, taps, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(frames)
    x = torch.rand(batch, channels, rows, frames, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, channels, 3, taps, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    return tuple(part.to(dtype) for part in (x, weight, bias))


def direct(x, weight, bias, *, stride, padding):
    return F.conv2d(x, weight, bias, stride=stride, padding=(padding, weight.shape[3] // 2))


def with_gradients(fn, arguments, **how):
    arguments = [argument.clone().requires_grad_() for argument in arguments]
    y = fn(*arguments, **how)
    cotangent = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, arguments, cotangent)]


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 2, 4]),
    frames=st.integers(1, 190),
    taps=st.sampled_from([1, 3, 11]),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 2),
)
def test_result_and_gradients_equal_the_direct_convolutions(batch, channels, frames, taps, stride, padding):
    arguments = example(batch, channels, 7, frames, taps)
    ours = with_gradients(overlap_save.conv2d, arguments, stride=stride, padding=padding)
    theirs = with_gradients(direct, arguments, stride=stride, padding=padding)
    for mine, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("time_stride", [1, 2])
def test_rounding_errors_in_single_precision_are_those_of_the_direct_convolution(time_stride):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 32, 41, 150, generator=generator)
    weight, bias = 0.02 * torch.randn(32, 32, 21, 11, generator=generator), torch.zeros(32)
    how = {"stride": (2, time_stride), "padding": 10}
    truth = with_gradients(direct, [part.double() for part in (x, weight, bias)], **how)
    ours, theirs = (with_gradients(fn, (x, weight, bias), **how) for fn in (overlap_save.conv2d, direct))
    for mine, direct_result, exact in zip(ours, theirs, truth, strict=True):
        error, usual = (float((part.double() - exact).norm() / exact.norm()) for part in (mine, direct_result))
        assert error < max(4 * usual, 1e-6)


def test_an_inference_before_a_training_leaves_the_training_differentiable():
    arguments = example(1, 2, 7, 23, 11)
    overlap_save._transforms.cache_clear()
    with torch.inference_mode():
        overlap_save.conv2d(*arguments, stride=(1, 1), padding=1)
    assert len(with_gradients(overlap_save.conv2d, arguments, stride=(1, 1), padding=1)) == 4


def test_a_layer_takes_it_where_it_repays_and_gives_the_same_result():
    x, weight, bias = example(4, 2, 7, 50, 11, dtype=torch.float32)
    assert overlap_save.repays(x, weight, stride=1, padding=5)
    assert not overlap_save.repays(x, weight, stride=2, padding=5)  # few frames of output
    assert not overlap_save.repays(x[:1], weight, stride=1, padding=5)
    assert not overlap_save.repays(x.bfloat16(), weight.bfloat16(), stride=1, padding=5)
    assert not overlap_save.repays(x[:, :1], weight[:, :1], stride=1, padding=5)
    assert not overlap_save.repays(x, weight, stride=1, padding=4)
    how = {"stride": (2, 1), "padding": (1, 5), "dtype": torch.float32}
    fused, plain = (layers.conv2d({"weight": weight, "bias": bias}, x, fused=on, **how) for on in (True, False))
    torch.testing.assert_close(fused, plain)
    assert not torch.equal(fused, plain)
    assert fused.stride()[1] == 1  # channels last
