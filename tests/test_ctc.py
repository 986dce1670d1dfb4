import functools
import itertools
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ds2f import ctc
from ds2f.errors import InputError
from ds2f.types import Logits

NAMES = ("native", "warpctc", "scan")


@functools.cache
def paths_by_transcript(num_frames: int, num_labels: int, blank: int) -> dict[tuple[int, ...], np.ndarray]:
    """Every path over ``num_labels`` symbols, grouped by the transcript that it collapses to."""
    groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for path in itertools.product(range(num_labels), repeat=num_frames):
        transcript = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != blank)
        groups.setdefault(transcript, []).append(path)
    return {transcript: np.array(paths) for transcript, paths in groups.items()}


def enumerated(activations: np.ndarray, transcript: list[int], blank: int) -> tuple[float, np.ndarray]:
    """Loss and gradient of one utterance [T, V] by summing over all paths, in float64."""
    num_frames, num_labels = activations.shape
    exponentials = np.exp(activations.astype(np.float64))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    paths = paths_by_transcript(num_frames, num_labels, blank).get(tuple(transcript))
    if paths is None:
        return np.inf, np.zeros_like(probabilities)
    frames = np.arange(num_frames)
    weights = probabilities[frames, paths].prod(axis=1)
    occupancy = np.zeros_like(probabilities)
    for path, weight in zip(paths, weights / weights.sum(), strict=True):
        occupancy[frames, path] += weight
    return -np.log(weights.sum()), probabilities - occupancy


def stand_in_cpu_ctc(
    activations: Tensor,
    gradients: Tensor,
    labels: Tensor,
    label_sizes: Tensor,
    sizes: Tensor,
    minibatch_size: int,
    costs: Tensor,
    blank: int,
) -> int:
    """Does what the binding's entry of this name does: reads raw memory, writes costs and gradients in place."""
    for integers in (labels, label_sizes, sizes):
        assert integers.dtype == torch.int32
        assert integers.dim() == 1
    for tensor in (activations, gradients, labels, label_sizes, sizes, costs):
        assert tensor.is_contiguous()
        assert tensor.device.type == "cpu"
        assert not tensor.requires_grad
    assert activations.dtype == gradients.dtype == costs.dtype == torch.float32
    assert activations.shape == gradients.shape
    assert activations.shape[1] == minibatch_size == len(costs) == len(label_sizes) == len(sizes)
    assert int(label_sizes.sum()) == len(labels) > 0
    assert not gradients.any(), "the library expects a zeroed gradient"
    for row, transcript in enumerate(labels.split(label_sizes.tolist())):
        length = int(sizes[row])
        used = torch.softmax(activations[:length, row], dim=1)[:, [blank, *transcript.tolist()]]
        assert used.min() >= torch.finfo(torch.float32).tiny, "the library would take its logarithm for -inf"
        cost, gradient = enumerated(activations[:length, row].numpy(), transcript.tolist(), blank)
        assert np.isfinite(cost), "the library answers 0 to what cannot fit, and nothing at all on a GPU"
        costs[row] = cost
        gradients[:length, row] = torch.from_numpy(gradient).float()
    return 1


@pytest.fixture(autouse=True)
def warpctc_binding(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Puts a stand-in of the binding, with its module layout, where ``import`` finds it."""
    package, low_level = types.ModuleType("warpctc_pytorch"), types.ModuleType("warpctc_pytorch._warp_ctc")
    low_level.cpu_ctc = stand_in_cpu_ctc  # type: ignore[attr-defined]
    package._warp_ctc = low_level  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "warpctc_pytorch", package)
    monkeypatch.setitem(sys.modules, "warpctc_pytorch._warp_ctc", low_level)
    return low_level


def pad(transcripts: list[list[int]], padding: int = -7) -> tuple[Tensor, Tensor]:
    longest = max(map(len, transcripts))
    rows = [transcript + [padding] * (longest - len(transcript)) for transcript in transcripts]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), longest), torch.tensor([*map(len, transcripts)])


def random_values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loss_and_gradient(
    name: str,
    values: Tensor,
    lengths: Tensor,
    labels: Tensor,
    label_lengths: Tensor,
    *,
    blank: int = 0,
    cotangent: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    def losses(inputs: Tensor) -> Tensor:
        return ctc.ctc_loss(Logits(inputs, lengths), labels, label_lengths, blank=blank, impl=name)

    value, pull_back = torch.func.vjp(losses, values)
    return value, pull_back(torch.ones_like(value) if cotangent is None else cotangent)[0]


# Repeats that just fit and just do not, an empty transcript, one label too many, an utterance of full length.
EDGES = [([1, 1], 3), ([1, 1], 2), ([], 4), ([2, 1, 2], 2), ([1, 2, 1], 5), ([2], 1)]


def edges(blank: int) -> tuple[Tensor, Tensor, Tensor, list[list[int]]]:
    shift = {1: 1, 2: 2} if blank == 0 else {1: 0, 2: 2 if blank == 1 else 1}
    transcripts = [[shift[label] for label in transcript] for transcript, _ in EDGES]
    return torch.tensor([length for _, length in EDGES]), *pad(transcripts), transcripts


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_those_of_a_sum_over_all_paths(name: str, blank: int) -> None:
    lengths, labels, label_lengths, transcripts = edges(blank)
    values = random_values(len(EDGES), 5, 3)
    losses, gradient = loss_and_gradient(name, values, lengths, labels, label_lengths, blank=blank)
    for row, (transcript, length) in enumerate(zip(transcripts, lengths.tolist(), strict=True)):
        loss, expected = enumerated(values[row, :length].numpy(), transcript, blank)
        assert losses[row].item() == pytest.approx(loss, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(gradient[row, :length], expected, atol=2e-6)
        assert not gradient[row, length:].any()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_implementations_agree_with_the_enumeration_on_any_batch(data: st.DataObject) -> None:
    num_labels = data.draw(st.integers(2, 4))
    blank = data.draw(st.integers(0, num_labels - 1))
    symbols = st.sampled_from([label for label in range(num_labels) if label != blank])
    rows = data.draw(st.lists(st.tuples(st.lists(symbols, max_size=4), st.integers(1, 5)), min_size=1, max_size=4))
    transcripts, lengths = [row[0] for row in rows], torch.tensor([row[1] for row in rows])
    labels, label_lengths = pad(transcripts, padding=data.draw(st.sampled_from([-1, 0, 10**9])))
    values = random_values(len(rows), 5, num_labels, seed=data.draw(st.integers(0, 1000)))
    for name in NAMES:
        losses, gradient = loss_and_gradient(name, values, lengths, labels, label_lengths, blank=blank)
        for row, transcript in enumerate(transcripts):
            length = int(lengths[row])
            loss, expected = enumerated(values[row, :length].numpy(), transcript, blank)
            assert losses[row].item() == pytest.approx(loss, rel=1e-4, abs=1e-5), name
            np.testing.assert_allclose(gradient[row, :length], expected, atol=1e-5, err_msg=name)
            assert not gradient[row, length:].any()


@pytest.mark.parametrize("name", NAMES)
def test_the_published_example_of_warp_ctc(name: str) -> None:
    values = torch.tensor([[[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1]]])
    loss = ctc.ctc_loss(Logits(values, torch.tensor([2])), torch.tensor([[1, 2]]), torch.tensor([2]), impl=name)
    assert loss.item() == pytest.approx(2.4628584384918, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_transcript_as_long_as_the_utterance_costs_its_only_path(name: str) -> None:
    values = random_values(1, 4, 5)
    losses, gradient = loss_and_gradient(
        name, values, torch.tensor([4]), torch.tensor([[3, 1, 4, 2]]), torch.tensor([4])
    )
    cross_entropy = torch.nn.functional.cross_entropy(values[0], torch.tensor([3, 1, 4, 2]), reduction="sum")
    torch.testing.assert_close(losses[0], cross_entropy)
    one_hot = torch.nn.functional.one_hot(torch.tensor([3, 1, 4, 2]), 5)
    torch.testing.assert_close(gradient[0], values[0].softmax(dim=1) - one_hot)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_fit_is_infinite_with_an_exactly_zero_gradient(name: str) -> None:
    lengths, labels, label_lengths, _ = edges(0)
    values = random_values(len(EDGES), 5, 3)
    losses, gradient = loss_and_gradient(name, values, lengths, labels, label_lengths)
    impossible = torch.tensor([False, True, False, True, False, False])
    assert losses.isposinf().equal(impossible)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).any(dim=1).equal(~impossible)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_nothing_but_empty_or_impossible_transcripts(name: str) -> None:
    values = random_values(2, 3, 4)
    empty = (torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0]))
    losses, _ = loss_and_gradient(name, values, torch.tensor([3, 2]), *empty)
    silence = -values.log_softmax(dim=2)[:, :, 0]
    torch.testing.assert_close(losses, torch.stack([silence[0].sum(), silence[1, :2].sum()]))
    losses, gradient = loss_and_gradient(
        name, values, torch.tensor([1, 1]), torch.tensor([[1, 2], [1, 1]]), torch.tensor([2, 2])
    )
    assert losses.isposinf().all()
    assert not gradient.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_utterances_has_no_losses(name: str) -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    losses, gradient = loss_and_gradient(
        name, torch.zeros(0, 3, 4), nothing, torch.zeros(0, 2, dtype=torch.int64), nothing
    )
    assert (losses.shape, gradient.shape) == ((0,), (0, 3, 4))


@pytest.mark.parametrize("name", NAMES)
def test_an_utterance_without_frames_fits_only_an_empty_transcript(name: str) -> None:
    losses, gradient = loss_and_gradient(
        name, random_values(2, 3, 4), torch.tensor([0, 0]), torch.tensor([[1], [1]]), torch.tensor([0, 1])
    )
    assert losses.tolist() == [0.0, np.inf]
    assert not gradient.any()


@pytest.mark.parametrize("name", NAMES)
def test_not_even_nan_in_the_padding_has_any_effect(name: str) -> None:
    lengths, labels, label_lengths, _ = edges(0)
    values = random_values(len(EDGES), 5, 3)
    poisoned = torch.where(torch.arange(5)[None, :, None] < lengths[:, None, None], values, torch.nan)
    expected = loss_and_gradient(name, values, lengths, labels, label_lengths)
    for actual, wanted in zip(loss_and_gradient(name, poisoned, lengths, labels, label_lengths), expected, strict=True):
        assert actual.equal(wanted)


@pytest.mark.parametrize("name", ["native", "scan"])
def test_nan_within_an_utterance_stays_visible_and_stays_in_it(name: str) -> None:
    values = random_values(2, 3, 4)
    values[0, 1, 2] = torch.nan
    losses, gradient = loss_and_gradient(
        name, values, torch.tensor([3, 3]), torch.tensor([[1], [2]]), torch.tensor([1, 1])
    )
    assert losses.isnan().tolist() == [True, False]
    assert gradient[1].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_each_utterances_gradient_scales_with_its_own_cotangent(name: str) -> None:
    lengths, labels, label_lengths, _ = edges(0)
    values = random_values(len(EDGES), 5, 3)
    _, gradient = loss_and_gradient(name, values, lengths, labels, label_lengths)
    cotangent = 1024 * torch.tensor([1.0, 2.0, 0.0, 3.0, -1.0, 0.5])
    _, scaled = loss_and_gradient(name, values, lengths, labels, label_lengths, cotangent=cotangent)
    torch.testing.assert_close(scaled, cotangent[:, None, None] * gradient, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_autograd_and_vjp_give_the_same_gradient_and_can_be_asked_twice(name: str) -> None:
    lengths, labels, label_lengths, _ = edges(0)
    values = random_values(len(EDGES), 5, 3)
    leaf = values.clone().requires_grad_()
    losses = ctc.ctc_loss(Logits(leaf, lengths), labels, label_lengths, impl=name)
    counted = torch.where(losses.isinf(), 0.0, losses).sum() * 1024
    first, second = (torch.autograd.grad(counted, leaf, retain_graph=True)[0] for _ in range(2))
    _, expected = loss_and_gradient(name, values, lengths, labels, label_lengths)
    assert first.equal(second)
    torch.testing.assert_close(first, 1024 * expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_utterance_costs_the_same_alone_as_in_a_batch(name: str) -> None:
    lengths, labels, label_lengths, transcripts = edges(0)
    values = random_values(len(EDGES), 5, 3)
    losses, gradient = loss_and_gradient(name, values, lengths, labels, label_lengths)
    for row, transcript in enumerate(transcripts):
        length = int(lengths[row])
        alone, alone_gradient = loss_and_gradient(
            name, values[row : row + 1, :length], lengths[row : row + 1], *pad([transcript])
        )
        torch.testing.assert_close(alone[0], losses[row])
        torch.testing.assert_close(alone_gradient[0], gradient[row, :length])


@pytest.mark.parametrize("name", ["native", "scan"])
def test_float64_stays_float64(name: str) -> None:
    values = random_values(1, 4, 3, dtype=torch.float64)
    losses, gradient = loss_and_gradient(name, values, torch.tensor([4]), torch.tensor([[1, 1]]), torch.tensor([2]))
    loss, expected = enumerated(values[0].numpy(), [1, 1], 0)
    assert losses.dtype == torch.float64
    assert losses.item() == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(gradient[0], expected, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_smoothing_adds_its_share_of_the_divergence_from_uniform(name: str) -> None:
    lengths, labels, label_lengths, _ = edges(blank=0)
    values = random_values(len(lengths), 5, 3)
    plain = functools.partial(ctc.ctc_loss, impl=name)
    losses = ctc.smoothed(plain, share=0.3)(Logits(values, lengths), labels, label_lengths)
    uniform = torch.full((3,), 1 / 3)
    for row, expected in enumerate(plain(Logits(values, lengths), labels, label_lengths)):
        frames = values[row, : lengths[row]].softmax(dim=1)
        divergence = sum(float((uniform * (uniform / frame).log()).sum()) for frame in frames)
        assert float(losses[row]) == pytest.approx(0.7 * float(expected) + 0.3 * divergence, rel=1e-5)


def test_smoothing_leaves_what_cannot_fit_infinite_with_a_zero_gradient() -> None:
    lengths, labels, label_lengths, _ = edges(blank=0)
    values = random_values(len(lengths), 5, 3).requires_grad_()
    losses = ctc.smoothed(ctc.native, share=0.3)(Logits(values, lengths), labels, label_lengths)
    (gradient,) = torch.autograd.grad(losses.sum(), values)
    impossible = losses == torch.inf
    assert impossible.sum() == 2
    assert not gradient[impossible].any()
    assert gradient[~impossible].flatten(1).any(dim=1).all()


def test_scan_agrees_with_torch_on_long_utterances_with_extreme_scores() -> None:
    values = 10 * random_values(3, 200, 29, dtype=torch.float64)
    labels = torch.randint(1, 29, (3, 60), generator=torch.Generator().manual_seed(1))
    arguments = (torch.tensor([200, 117, 90]), labels, torch.tensor([60, 40, 3]))
    native, scan = (loss_and_gradient(name, values, *arguments) for name in ("native", "scan"))
    torch.testing.assert_close(scan, native, rtol=1e-9, atol=1e-9)


def scan_losses(blank: int = 0) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    lengths, labels, label_lengths, _ = edges(blank)
    possible = ctc.feasible(lengths, labels, label_lengths)

    def losses(values: Tensor) -> Tensor:
        return ctc.scan(Logits(values, lengths), labels, label_lengths, blank=blank)[possible]

    return losses, random_values(len(EDGES), 5, 3, dtype=torch.float64)


def test_scan_is_differentiable_twice() -> None:
    losses, values = scan_losses()
    values.requires_grad_()
    assert torch.autograd.gradcheck(losses, values)
    assert torch.autograd.gradgradcheck(losses, values)


def test_second_derivatives_of_scan_are_finite_where_a_transcript_cannot_fit() -> None:
    hessian = torch.func.hessian(
        lambda values: ctc.scan(Logits(values, torch.tensor([1])), torch.tensor([[1, 1]]), torch.tensor([2]))[0]
    )(random_values(1, 2, 3))
    assert not hessian.any()


def test_scan_maps_over_logits_labels_and_lengths() -> None:
    values, lengths = random_values(4, 2, 5, 3), torch.tensor([[5, 3], [2, 5], [4, 4], [1, 5]])
    labels = torch.tensor([[[1, 1], [2, 1]], [[1, 1], [1, 2]], [[2, 2], [0, 0]], [[1, 0], [2, 2]]])
    label_lengths = torch.tensor([[2, 2], [2, 1], [2, 0], [1, 2]])

    def per_model(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        losses, pull_back = torch.func.vjp(
            lambda inputs: ctc.scan(Logits(inputs, arguments[1]), arguments[2], arguments[3]), arguments[0]
        )
        return losses, pull_back(torch.ones_like(losses))[0]

    mapped = torch.func.vmap(per_model)(values, lengths, labels, label_lengths)
    looped = [per_model(*row) for row in zip(values, lengths, labels, label_lengths, strict=True)]
    torch.testing.assert_close(mapped[0], torch.stack([losses for losses, _ in looped]))
    torch.testing.assert_close(mapped[1], torch.stack([gradient for _, gradient in looped]))


def test_a_second_derivative_through_warpctc_is_an_error_and_not_a_zero() -> None:
    leaf = random_values(1, 3, 3).requires_grad_()
    loss = ctc.warpctc(Logits(leaf, torch.tensor([3])), torch.tensor([[1]]), torch.tensor([1]))
    (gradient,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"use ctc\.scan"):
        torch.autograd.grad(gradient.square().sum(), leaf)


@pytest.mark.parametrize("name", ["native", "scan"])
def test_no_tensor_is_read_on_the_host(name: str) -> None:
    class NoReading(TorchDispatchMode):
        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert operator.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "masked_select", "index")
            return operator(*args, **(kwargs or {}))

    lengths, labels, label_lengths, _ = edges(0)
    leaf = random_values(len(EDGES), 5, 3).requires_grad_()
    with NoReading():
        losses = ctc.ctc_loss(Logits(leaf, lengths), labels, label_lengths, impl=name)
        torch.autograd.grad(torch.where(losses.isinf(), 0.0, losses).sum(), leaf)


def test_arguments_are_left_as_they_were() -> None:
    for name in NAMES:
        lengths, labels, label_lengths, _ = edges(0)
        arguments = (random_values(len(EDGES), 5, 3), lengths, labels, label_lengths)
        copies = [argument.clone() for argument in arguments]
        loss_and_gradient(name, *arguments)
        assert all(argument.equal(copy) for argument, copy in zip(arguments, copies, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 2), max_size=4), st.integers(1, 5))
def test_feasible_says_whether_any_path_exists(transcript: list[int], num_frames: int) -> None:
    labels, label_lengths = pad([transcript, [1, 1, 1, 1, 1]])
    exists = tuple(transcript) in paths_by_transcript(num_frames, 3, 0)
    assert bool(ctc.feasible(torch.tensor([num_frames, 9]), labels, label_lengths)[0]) == exists
    assert ctc.min_frames(labels, label_lengths)[1].item() == 9


def test_min_frames_ignores_the_padding() -> None:
    labels = torch.tensor([[3, 3, 3, 3], [1, 2, 2, 2], [5, 5, 5, 5]])
    assert ctc.min_frames(labels, torch.tensor([4, 2, 0])).tolist() == [7, 2, 0]
    assert ctc.min_frames(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0])).tolist() == [0, 0]


def test_an_unknown_implementation_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="'cudnn' is not one of native, warpctc, scan"):
        ctc.ctc_loss(Logits(random_values(1, 2, 3), torch.tensor([2])), torch.ones(1, 1), torch.ones(1), impl="cudnn")


def test_a_missing_binding_says_where_to_get_it_and_what_to_use_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "warpctc_pytorch", None)
    with pytest.raises(InputError, match=r"SeanNaren/warp-ctc, folder pytorch_binding.*--model\.ctc=native") as error:
        ctc.warpctc(Logits(random_values(1, 2, 3), torch.tensor([2])), torch.tensor([[1]]), torch.tensor([1]))
    assert isinstance(error.value.__cause__, ImportError)


def test_a_cost_that_the_library_never_wrote_is_not_taken_for_a_number(warpctc_binding: types.ModuleType) -> None:
    warpctc_binding.cpu_ctc = lambda *_: 1  # type: ignore[attr-defined]  # what the binding does when the library refuses
    losses = ctc.warpctc(Logits(random_values(1, 2, 3), torch.tensor([2])), torch.tensor([[1]]), torch.tensor([1]))
    assert losses.isnan().all()


UNDERFLOWS = {  # logits [3, 3], transcript
    "another label is certain": ([[0.0, 0.0, 120.0]] * 3, [1]),
    "the blank is impossible at one frame": ([[0.0, 0.0, 0.0], [-95.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [1]),
    "a repeated label": ([[0.0, -300.0, 1.0], [2.0, 0.0, 300.0], [0.0, 1.0, 2.0]], [1, 1]),
    "each path has one improbable frame": ([[100.0, 0.0, 0.0], [0.0, 100.0, 0.0], [0.0, 0.0, 100.0]], [2, 1]),
}


@pytest.mark.parametrize("case", UNDERFLOWS)
@pytest.mark.parametrize("name", NAMES)
def test_what_float32_cannot_hold_as_a_probability_has_its_loss(name: str, case: str) -> None:
    rows, transcript = UNDERFLOWS[case]
    usual = [[0.1, 0.2, 0.3], [0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    values = torch.tensor([usual, rows])
    labels, label_lengths = pad([[1], transcript])
    loss, gradient = loss_and_gradient(name, values, torch.tensor([3, 3]), labels, label_lengths)
    for row, wanted in enumerate(([1], transcript)):
        exact, slope = enumerated(values[row].double().numpy(), wanted, 0)
        assert np.isfinite(exact)
        assert loss[row].item() == pytest.approx(exact, rel=1e-5)
        np.testing.assert_allclose(gradient[row].numpy(), slope, atol=1e-4)
