"""The hoisted LSTM against torch's operator and against its definition; ``test_recurrent`` runs it as a kernel."""

import pytest
import torch
from torch import nn

from ds2f.errors import InputError
from ds2f.model import hoisted, lstm_cell, recurrent

T, B, INPUT, H = 9, 4, 6, 5
WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh")


@pytest.fixture(params=["torch", *lstm_cell.KINDS])
def path(request, monkeypatch):
    """The elementwise part in plain torch, and in C for each kind of processor."""
    built = lstm_cell.native()
    if request.param == "torch":
        monkeypatch.setattr(lstm_cell, "native", lambda: None)
        return
    kind = lstm_cell.KINDS.index(request.param)
    if built is None or kind > built.capability:
        pytest.skip(f"no {request.param} here" if built else "the extension is not built: pip install -e .")
    monkeypatch.setattr(lstm_cell, "native", lambda: built._replace(capability=kind))


def example(dtype, frames=T, batch=B, units=H):
    shapes = {"w_ih": (4 * units, INPUT), "w_hh": (4 * units, units), "b_ih": (4 * units,), "b_hh": (4 * units,)}
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.5).to(dtype)

    state = draw(batch, units), draw(batch, units)
    return draw(frames, batch, INPUT), *state, *(draw(*shape) for shape in shapes.values())


def ours(x, h, c, *weights):
    y, (last_h, last_c) = hoisted.lstm(x, (h, c), dict(zip(WEIGHTS, weights, strict=True)))
    return y, last_h, last_c


def torchs(x, h, c, *weights):
    y, last_h, last_c = torch.lstm(x, (h[None], c[None]), list(weights), True, 1, 0.0, True, False, False)
    return y, last_h[0], last_c[0]


def gradients(fn, arguments):
    arguments = [argument.clone().requires_grad_() for argument in arguments]
    outputs = fn(*arguments)
    cotangents = [torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype) for y in outputs]
    return [y.detach() for y in outputs], torch.autograd.grad(outputs, arguments, cotangents)


@pytest.mark.parametrize("frames", [1, T])
@pytest.mark.parametrize("batch", [0, 1, B])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_outputs_states_and_all_gradients_equal_torchs(path, dtype, tolerance, batch, frames):
    arguments = example(dtype, frames, batch)
    for mine, theirs in zip(
        [leaf for part in gradients(ours, arguments) for leaf in part],
        [leaf for part in gradients(torchs, arguments) for leaf in part],
        strict=True,
    ):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("units", [1, 3, 7, 130])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 4e-6), (torch.bfloat16, 0.06), (torch.float16, 0.008)]
)
def test_every_path_is_as_close_to_the_truth_as_its_resolution_allows(path, dtype, tolerance, units):
    exact = gradients(torchs, example(torch.float64, units=units))
    rounded = gradients(ours, [argument.to(dtype) for argument in example(torch.float64, units=units)])
    for mine, truth in zip([*rounded[0], *rounded[1]], [*exact[0], *exact[1]], strict=True):
        assert mine.dtype == dtype
        assert float(torch.linalg.vector_norm(mine.double() - truth) / torch.linalg.vector_norm(truth)) < tolerance


def test_gradients_that_are_expanded_or_of_one_output_alone_are_taken(path):
    arguments = [argument.requires_grad_() for argument in example(torch.float32)]
    for pick in (lambda y, h, c: y.sum(), lambda y, h, c: c.square().sum(), lambda y, h, c: y.transpose(0, 1).mean()):
        mine, theirs = (torch.autograd.grad(pick(*fn(*arguments)), arguments) for fn in (ours, torchs))
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_cell_state_is_summed_in_single_precision():
    # Forget gates that are open and inputs that add 2**-9 a frame: in bf16 the sum would stand still at 1.
    frames, one = 64, torch.ones(1, 1, dtype=torch.bfloat16)
    bias = torch.tensor([-6.25, 20.0, 20.0, 20.0], dtype=torch.bfloat16)  # sigmoid(-6.25) is about 2**-9
    w = {"w_ih": torch.zeros(4, 1), "w_hh": torch.zeros(4, 1), "b_ih": bias, "b_hh": torch.zeros(4)}
    w = {name: weight.to(torch.bfloat16) for name, weight in w.items()}
    _, (_, c) = hoisted.lstm(one.expand(frames, 1, 1), (torch.zeros_like(one), one), w)
    assert float(c) == pytest.approx(1 + frames * float(torch.sigmoid(torch.tensor(-6.25))), rel=0.005)


def test_packed_and_plain_weights_multiply_alike():
    weight, h, addend = torch.randn(40, 24), torch.randn(6, 24), torch.randn(6, 40)
    product = hoisted._recurrent_product(weight, batch=6)
    with torch.backends.mkldnn.flags(enabled=False):
        plain = hoisted._recurrent_product(weight, batch=6)
    torch.testing.assert_close(product(h, None), plain(h, None))
    torch.testing.assert_close(product(h, addend), plain(h, addend))
    torch.testing.assert_close(plain(h, addend), nn.functional.linear(h, weight) + addend)


def test_vjp_gives_autograds_bits():
    arguments = example(torch.float32)
    outputs, expected = gradients(ours, arguments)
    _, pullback = torch.func.vjp(ours, *arguments)
    with torch.no_grad():
        found = pullback(
            tuple(torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype) for y in outputs)
        )
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_no_argument_is_written_to():
    arguments = example(torch.float32)
    before = [argument.clone() for argument in arguments]
    gradients(ours, arguments)
    assert all(torch.equal(now, then) for now, then in zip(arguments, before, strict=True))


def test_a_second_backward_pass_is_refused_since_the_first_took_the_gates():
    arguments = example(torch.float32)
    y, pullback = torch.func.vjp(lambda x: ours(x, *arguments[1:])[0], arguments[0])
    pullback(torch.ones_like(y))
    with pytest.raises(RuntimeError, match="runs once"):
        pullback(torch.ones_like(y))
    recorded = [argument.requires_grad_() for argument in arguments]
    loss = ours(*recorded)[0].sum()
    torch.autograd.grad(loss, recorded[0], retain_graph=True)
    with pytest.raises(RuntimeError, match="runs once"):
        torch.autograd.grad(loss, recorded[0])


def test_a_second_derivative_is_refused_with_the_remedy():
    x, *rest = example(torch.float64)

    def slope(x):
        return torch.func.grad(lambda x: ours(x, *rest)[0].square().sum())(x).sum()

    with pytest.raises(RuntimeError, match="use the scan kernel"):
        torch.func.grad(slope)(x)


def test_other_cells_are_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"use model\.kernel=fused"):
        recurrent.hoisted("gru")
