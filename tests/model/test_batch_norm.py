import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ds2f import tree
from ds2f.model import layers
from ds2f.model.batch_norm import batch_norm, masked_moments, merge, pool, update_stats
from ds2f.types import Moments

C = 3


def example(lengths, *, seed=0, dtype=torch.float64, size=None):
    """Time-major input, its padding mask, and the valid frames one after the other."""
    size = size or max([*lengths, 1])
    generator = torch.Generator().manual_seed(seed)
    x = 3 + 2 * torch.randn(size, len(lengths), C, generator=generator, dtype=torch.float64).to(dtype)
    padding = layers.frames(torch.tensor(lengths), size).padding[..., None]
    return x, padding, x[~padding[..., 0]]


def fresh(dtype=torch.float64):
    params = {"scale": torch.tensor([0.5, 1.0, 2.0], dtype=dtype), "bias": torch.tensor([1.0, 0.0, -1.0], dtype=dtype)}
    return params, {"mean": torch.full((C,), 0.3, dtype=dtype), "var": torch.full((C,), 1.7, dtype=dtype)}


def torch_norm(params, stats):
    module = nn.BatchNorm1d(C).double()
    module.load_state_dict(
        {
            "weight": params["scale"],
            "bias": params["bias"],
            "running_mean": stats["mean"].clone(),
            "running_var": stats["var"].clone(),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    return module


def in_ranks(count, work):
    """Runs ``work(rank, sum_over_ranks)`` in threads; the sum adds trees of tensors, in one autograd graph."""
    slots, barrier = [None] * count, threading.Barrier(count, timeout=20)

    def run(rank):
        def sum_over_ranks(values):
            slots[rank] = values
            barrier.wait()
            total = tree.map(lambda *parts: sum(parts[1:], parts[0]), *slots)
            barrier.wait()
            return total

        return work(rank, sum_over_ranks)

    with ThreadPoolExecutor(count) as executor:
        return list(executor.map(run, range(count)))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(lambda lengths: sum(lengths) > 1), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_training_equals_torch_on_the_valid_frames_alone(lengths, seed):
    x, padding, valid = example(lengths, seed=seed)
    params, stats = fresh()
    module = torch_norm(params, stats)
    expected = module(valid)
    y, moments = batch_norm(params, stats, x, padding, axis=2, train=True, dtype=x.dtype)
    new_stats = update_stats({"norm": stats}, {"norm": moments})["norm"]
    torch.testing.assert_close(y[~padding[..., 0]], expected)
    torch.testing.assert_close(new_stats["mean"], module.running_mean)
    torch.testing.assert_close(new_stats["var"], module.running_var)


def test_gradients_equal_those_of_torch_on_the_valid_frames_alone():
    x, padding, valid = example([5, 2, 4])
    params, stats = fresh()
    module, cotangent = torch_norm(params, stats), torch.randn(11, C, dtype=torch.float64)
    valid = valid.clone().requires_grad_()
    module(valid).backward(cotangent)
    leaves = {"x": x.requires_grad_(), **{name: leaf.requires_grad_() for name, leaf in params.items()}}
    y, _ = batch_norm(params, stats, x, padding, axis=2, train=True, dtype=x.dtype)
    y[~padding[..., 0]].backward(cotangent)
    torch.testing.assert_close(leaves["x"].grad[~padding[..., 0]], valid.grad)
    assert not leaves["x"].grad[padding[..., 0]].any()
    torch.testing.assert_close(leaves["scale"].grad, module.weight.grad)
    torch.testing.assert_close(leaves["bias"].grad, module.bias.grad)


def test_evaluation_normalises_by_the_running_statistics_and_measures_nothing():
    x, padding, _ = example([4, 4])
    params, stats = fresh()
    module = torch_norm(params, stats).eval()
    y, moments = batch_norm(params, stats, x, padding, axis=2, train=False, dtype=x.dtype)
    torch.testing.assert_close(y, module(x.flatten(0, 1)).view_as(x))
    assert moments is None


def test_images_are_normalised_over_batch_frequency_and_valid_time():
    lengths = [5, 3]
    x = torch.randn(2, C, 4, 5, dtype=torch.float64)
    padding = layers.frames(torch.tensor(lengths), 5).padding.T[:, None, None]
    moments, _ = masked_moments(x, padding, axis=1)
    valid = torch.cat([x[index, :, :, :length].flatten(1) for index, length in enumerate(lengths)], dim=1)
    assert moments.count == valid.shape[1]
    torch.testing.assert_close(moments.mean, valid.mean(1))
    torch.testing.assert_close(moments.m2, valid.var(1, correction=0) * valid.shape[1])


@pytest.mark.parametrize("shape", [(1, 1, 4), (3, 1, 4), (1, 3, 4)])
def test_axes_of_size_one_are_not_taken_for_channels(shape):
    x = torch.arange(torch.tensor(shape).prod(), dtype=torch.float64).view(shape)
    moments, _ = masked_moments(x, torch.zeros(*shape[:2], 1, dtype=torch.bool), axis=2)
    torch.testing.assert_close(moments.mean, x.flatten(0, 1).mean(0))
    assert moments.count == shape[0] * shape[1]


@pytest.mark.parametrize("poison", [1e30, torch.nan, torch.inf])
def test_moments_do_not_depend_on_what_or_how_much_padding_there_is(poison):
    lengths = [5, 2]
    x, padding, _ = example(lengths)
    longer, longer_padding, _ = example(lengths, size=9)
    longer[:5] = x
    clean, _ = masked_moments(x, padding, axis=2)
    poisoned, _ = masked_moments(longer.masked_fill(longer_padding, poison), longer_padding, axis=2)
    for ours, expected in zip(poisoned, clean, strict=True):
        torch.testing.assert_close(ours, expected)


def test_the_variance_survives_a_mean_that_is_large_beside_it():
    x = torch.randn(2000, 1, C, generator=torch.Generator().manual_seed(0)) + 10_000
    moments, _ = masked_moments(x, torch.zeros(2000, 1, 1, dtype=torch.bool), axis=2)
    torch.testing.assert_close(moments.m2.double() / 2000, x.double().var((0, 1), correction=0), rtol=1e-3, atol=0)


def test_half_precision_input_is_measured_in_float32_and_returned_as_asked():
    x, padding, _ = example([40, 30], dtype=torch.bfloat16)
    params, stats = fresh(torch.float32)
    y, moments = batch_norm(params, stats, x, padding, axis=2, train=True, dtype=torch.bfloat16)
    exact, _ = masked_moments(x.double(), padding, axis=2)
    assert y.dtype == torch.bfloat16
    assert moments.mean.dtype == moments.m2.dtype == torch.float32
    torch.testing.assert_close(moments.m2.double(), exact.m2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("lengths", [[0, 0], [1, 0]])
def test_fewer_than_two_frames_give_finite_results_and_leave_the_statistics(lengths):
    x, padding, _ = example(lengths, size=2)
    params, stats = fresh()
    x.requires_grad_()
    y, moments = batch_norm(params, stats, x, padding, axis=2, train=True, dtype=x.dtype)
    y.sum().backward()
    assert moments.count == sum(lengths)
    assert tree.all_finite([y.detach(), x.grad, list(moments)])
    new_stats = update_stats({"norm": stats}, {"norm": moments})["norm"]
    assert torch.equal(new_stats["mean"], stats["mean"])
    assert torch.equal(new_stats["var"], stats["var"])


def test_updating_statistics_changes_no_argument_and_ignores_stages_without_a_norm():
    _, stats = fresh()
    before = tree.map(torch.clone, stats)
    measured = {"layers": [{"norm": Moments(torch.tensor(4.0), torch.ones(C), torch.ones(C))}]}
    new_stats = update_stats({"conv": {"layers": [{"norm": stats}]}}, {"conv": measured, "rnn_0": {}})
    assert list(new_stats) == ["conv"]
    assert torch.equal(stats["mean"], before["mean"])
    torch.testing.assert_close(
        new_stats["conv"]["layers"][0]["norm"]["mean"], 0.9 * before["mean"] + 0.1, check_dtype=False
    )


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=3))
@settings(deadline=None, max_examples=20)
def test_pooled_ranks_have_the_moments_of_their_frames_together(ranks):
    parts = [example(lengths, seed=seed) for seed, lengths in enumerate(ranks)]

    def work(rank, sum_over_ranks):
        x, padding, _ = parts[rank]
        moments, _ = masked_moments(x + rank, padding, axis=2)
        return pool({"layers": [{"norm": moments}], "rnn_0": {}}, sum_over_ranks)["layers"][0]["norm"]

    frames = torch.cat([valid + rank for rank, (_, _, valid) in enumerate(parts)])
    for pooled in in_ranks(len(ranks), work):
        assert pooled.count == len(frames)
        expected = frames.mean(0) if len(frames) else torch.zeros(C, dtype=torch.float64)
        torch.testing.assert_close(pooled.mean, expected)
        torch.testing.assert_close(pooled.m2, (frames - expected).square().sum(0))


@given(st.lists(st.integers(0, 5), max_size=3), st.lists(st.integers(0, 5), max_size=3))
@settings(deadline=None, max_examples=20)
def test_merged_moments_are_those_of_both_batches_together(first, second):
    parts = [example(lengths, seed=seed) for seed, lengths in enumerate((first, second))]
    trees = [{"norm": masked_moments(x + 5 * rank, padding, axis=2)[0]} for rank, (x, padding, _) in enumerate(parts)]
    frames = torch.cat([valid + 5 * rank for rank, (_, _, valid) in enumerate(parts)])
    merged = merge(*trees)["norm"]
    assert merged.count == len(frames)
    expected = frames.mean(0) if len(frames) else torch.zeros(C, dtype=torch.float64)
    torch.testing.assert_close(merged.mean, expected)
    torch.testing.assert_close(merged.m2, (frames - expected).square().sum(0))


def test_synchronised_ranks_give_outputs_and_gradients_of_the_whole_batch():
    x, padding, _ = example([5, 2, 4])
    params, stats = fresh()
    whole = x.clone().requires_grad_()
    cotangent = torch.randn(x.shape, dtype=torch.float64)
    expected, moments = batch_norm(params, stats, whole, padding, axis=2, train=True, dtype=x.dtype)
    (expected * cotangent).masked_fill(padding, 0).sum().backward()
    halves = [x[:, :1].clone().requires_grad_(), x[:, 1:].clone().requires_grad_()]
    masks = [padding[:, :1], padding[:, 1:]]

    def work(rank, sum_over_ranks):
        return batch_norm(
            *(params, stats, halves[rank], masks[rank]),
            axis=2,
            train=True,
            dtype=x.dtype,
            reduce_moments=sum_over_ranks,
        )

    results = in_ranks(2, work)
    y = torch.cat([result for result, _ in results], dim=1)
    (y * cotangent).masked_fill(padding, 0).sum().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.cat([half.grad for half in halves], dim=1), whole.grad)
    for _, measured in results:
        torch.testing.assert_close(measured.m2, moments.m2)
