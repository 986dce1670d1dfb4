"""Both directions in one call: the same numbers as two calls, whatever the padding holds, in every dtype and engine."""

import pytest
import torch

from ds2f import rng
from ds2f.errors import InputError
from ds2f.grad import value_and_grad
from ds2f.model import layers, paired, recurrent

T, B, INPUT, H = 9, 4, 6, 5
LENGTHS = torch.tensor([3, 9, 1, 6])
FRAMES = layers.frames(LENGTHS, T)


def example(rnn_type, dtype):
    rows = recurrent.GATES[rnn_type] * H
    shapes = {"w_ih": (rows, INPUT), "w_hh": (rows, H), "b_ih": (rows,), "b_hh": (rows,)}
    draw = rng.generator(3)
    weights = [{k: torch.randn(shape, generator=draw).to(dtype) for k, shape in shapes.items()} for _ in range(2)]
    return torch.randn(T, B, INPUT, generator=draw).to(dtype), weights


def gradients(name, rnn_type, x, weights, engine):
    kernel = recurrent.KERNELS[name](rnn_type)
    cotangent = torch.randn(T, B, H, generator=rng.generator(5))

    def weighted(inputs):
        y, _ = kernel(inputs["x"], FRAMES, None, inputs["weights"])
        return (y.float() * cotangent).sum(), y

    (_, y), grads = value_and_grad(weighted, has_aux=True, engine=engine)({"x": x, "weights": weights})
    return y, grads


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
@pytest.mark.parametrize("engine", ["func", "autograd"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
def test_outputs_and_gradients_are_those_of_two_calls(rnn_type, engine, dtype, tolerance):
    x, weights = example(rnn_type, dtype)
    found, expected = (gradients(name, rnn_type, x, weights, engine) for name in ("paired", "fused"))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_padding_has_no_influence_not_even_of_nan_and_no_gradient(rnn_type):
    x, weights = example(rnn_type, torch.float32)
    padding = FRAMES.padding[..., None]
    clean, _ = gradients("paired", rnn_type, x, weights, "autograd")
    y, grads = gradients("paired", rnn_type, x.masked_fill(padding, torch.nan), weights, "autograd")
    assert torch.equal(y, clean)
    assert not y[FRAMES.padding].any()
    assert not grads["x"][FRAMES.padding].any()
    assert not any(part.isnan().any() for w in grads["weights"] for part in w.values())


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_state_of_the_backward_direction_is_exactly_zero_until_an_utterance_begins(rnn_type, dtype):
    x, weights = example(rnn_type, dtype)
    weights = [{name: part * 5 for name, part in w.items()} for w in weights]  # far from the trained ones
    only_padding = torch.ones(T, B, dtype=torch.bool)
    _, state = paired.both_directions(x, only_padding, weights, rnn_type)
    assert not any(part.any() for part in state[1])


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_a_given_state_and_one_direction_take_the_separate_calls(rnn_type):
    x, weights = example(rnn_type, torch.float32)
    state = recurrent.zero_state(x, weights, rnn_type)
    state = [tuple(part + 0.5 for part in way) for way in state]
    ours, fused = recurrent.paired(rnn_type), recurrent.fused(rnn_type)
    assert torch.equal(ours(x, FRAMES, state, weights)[0], fused(x, FRAMES, state, weights)[0])
    assert torch.equal(ours(x, FRAMES, None, weights[:1])[0], fused(x, FRAMES, None, weights[:1])[0])


def test_a_plain_network_is_refused():
    with pytest.raises(InputError, match="paired runs lstm and gru only, not rnn; use "):
        recurrent.paired("rnn")
