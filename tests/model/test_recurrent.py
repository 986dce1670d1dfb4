import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ds2f import tree
from ds2f.model import layers, recurrent

T, B, INPUT, H = 7, 4, 5, 3
LENGTHS = torch.tensor([4, 7, 1, 5])
MODULES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
EVERY = list(itertools.product(MODULES, [1, 2]))
CELLS = {"hoisted": ["lstm"], "paired": ["lstm", "gru"]}  # of kernels that do not run every cell
KERNELS = [(name, cell) for name in recurrent.KERNELS for cell in CELLS.get(name, MODULES)]


def example(rnn_type, directions, dtype=torch.float64):
    """A torch module, the same weights in our form, and an input with garbage in its padding."""
    torch.manual_seed(0)
    module = MODULES[rnn_type](INPUT, H, bidirectional=directions == 2).to(dtype)
    parts = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "b_ih": "bias_ih_l0", "b_hh": "bias_hh_l0"}
    weights = [
        {ours: getattr(module, theirs + suffix).detach() for ours, theirs in parts.items()}
        for suffix in ("", "_reverse")[:directions]
    ]
    x = torch.randn(T, B, INPUT, dtype=dtype)
    frames = layers.frames(LENGTHS, T)
    return module, weights, x.masked_fill(frames.padding[..., None], 50.0), frames


def packed(module, x):
    y, _ = module(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    y, _ = pad_packed_sequence(y, total_length=T)
    return y.unflatten(-1, (-1, H)).sum(-2)


@pytest.mark.parametrize(("name", "rnn_type"), KERNELS)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_kernel_equals_torch_on_packed_sequences(name, rnn_type, directions):
    module, weights, x, frames = example(rnn_type, directions)
    y, _ = recurrent.KERNELS[name](rnn_type)(x, frames, None, weights)
    torch.testing.assert_close(y, packed(module, x).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "rnn_type"), KERNELS)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_kernels_gradients_equal_torchs_on_packed_sequences(name, rnn_type, directions):
    module, weights, x, frames = example(rnn_type, directions)
    x.requires_grad_()
    weights = tree.map(lambda leaf: leaf.clone().requires_grad_(), weights)
    cotangent = torch.randn(T, B, H, dtype=x.dtype)
    y, _ = recurrent.KERNELS[name](rnn_type)(x, frames, None, weights)
    ours = torch.autograd.grad(y, [x, *tree.leaves(weights)], cotangent)
    parameters = dict(module.named_parameters())
    order = [
        f"{kind}_l0{suffix}"
        for suffix in ("", "_reverse")[:directions]
        for kind in ("bias_hh", "bias_ih", "weight_hh", "weight_ih")
    ]
    expected = torch.autograd.grad(packed(module, x), [x, *(parameters[key] for key in order)], cotangent)
    for ours_leaf, expected_leaf in zip(ours, expected, strict=True):
        torch.testing.assert_close(ours_leaf, expected_leaf, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("rnn_type", "directions"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_runs_under_vjp_without_a_graph_and_agrees_with_scan(rnn_type, directions, dtype):
    _, weights, x, frames = example(rnn_type, directions, torch.float32)
    weights, x = tree.cast(weights, dtype), x.to(dtype)
    grads = []
    for name in ("fused", "scan"):
        kernel = recurrent.KERNELS[name](rnn_type)
        y, pullback = torch.func.vjp(lambda x, w, kernel=kernel: kernel(x, frames, None, w)[0].float(), x, weights)
        with torch.no_grad():
            grads.append([y, *tree.leaves(pullback(torch.ones_like(y), retain_graph=False))])
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for fused, scan in zip(*grads, strict=True):
        assert float(torch.linalg.vector_norm((fused - scan).float())) <= tolerance * (
            float(torch.linalg.vector_norm(scan.float())) + 1e-6
        )


@pytest.mark.parametrize(("name", "rnn_type"), KERNELS)
def test_a_forward_layer_in_two_chunks_equals_one_run(name, rnn_type):
    _, weights, _, _ = example(rnn_type, 1)
    x = torch.randn(T, B, INPUT, dtype=torch.float64)
    kernel, full = recurrent.KERNELS[name](rnn_type), torch.full((B,), T)
    whole, final = kernel(x, layers.frames(full, T), None, weights)
    first, state = kernel(x[:3], layers.frames(full, 3), None, weights)
    second, state = kernel(x[3:], layers.frames(full, T - 3), state, weights)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    for ours, expected in zip(state[0], final[0], strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("rnn_type", "directions"), EVERY)
def test_scans_state_is_each_utterances_own_whatever_its_padding(rnn_type, directions):
    module, weights, x, frames = example(rnn_type, directions)
    _, state = recurrent.scan(rnn_type)(x, frames, None, weights)
    _, expected = module(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    expected = expected if rnn_type == "lstm" else (expected,)
    for direction in range(directions):
        for ours, theirs in zip(state[direction], expected, strict=True):
            torch.testing.assert_close(ours, theirs[direction].detach())


@pytest.mark.parametrize("rnn_type", MODULES)
def test_scan_has_right_second_derivatives(rnn_type):
    frames = layers.frames(torch.tensor([3, 2]), 3)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    shape = recurrent.GATES[rnn_type] * 2
    weights = [
        {
            "w_ih": torch.randn(shape, 2, dtype=torch.float64, requires_grad=True),
            "w_hh": torch.randn(shape, 2, dtype=torch.float64, requires_grad=True),
            "b_ih": torch.randn(shape, dtype=torch.float64),
            "b_hh": torch.randn(shape, dtype=torch.float64),
        }
        for _ in range(2)
    ]

    def outputs(x, *matrices):
        pairs = zip(matrices[::2], matrices[1::2], weights, strict=True)
        replaced = [{**w, "w_ih": w_ih, "w_hh": w_hh} for w_ih, w_hh, w in pairs]
        return recurrent.scan(rnn_type)(x, frames, None, replaced)[0]

    matrices = [w[part] for w in weights for part in ("w_ih", "w_hh")]
    assert torch.autograd.gradgradcheck(outputs, (x, *matrices))


@pytest.mark.parametrize("rnn_type", MODULES)
def test_scan_is_vmapped_over_an_ensemble_of_weights(rnn_type):
    members = []
    for seed in (1, 2):
        _, weights, x, frames = example(rnn_type, 2)
        members.append(tree.map(lambda leaf, seed=seed: leaf + 0.1 * seed, weights))
    stacked = tree.map(lambda *leaves: torch.stack(leaves), *members)
    kernel = recurrent.scan(rnn_type)
    together = torch.func.vmap(lambda w: kernel(x, frames, None, w)[0])(stacked)
    for member, y in zip(members, together, strict=True):
        torch.testing.assert_close(y, kernel(x, frames, None, member)[0])
