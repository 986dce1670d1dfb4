"""The moving average against its definition, and what it shares with the steps that it follows."""

import pytest
import torch

from ds2f import optim, tree
from ds2f.types import Averages

TRUE, FALSE = torch.tensor(True), torch.tensor(False)


def model(seed, dtype=torch.float32):
    drawn = torch.Generator().manual_seed(seed)
    params = {
        "w": torch.randn(3, 5, generator=drawn, dtype=dtype),
        "b": [torch.randn((), generator=drawn, dtype=dtype)],
    }
    return params, {"norm": {"var": torch.rand(4, generator=drawn, dtype=dtype)}}


def follow(models, *, decay, donate=False):
    """The averages after steps that led from each model to the next."""
    average = optim.average.init(*models[0])
    for step, (params, stats) in enumerate(models[1:]):
        average = optim.average.update(
            average, params, stats, decay=decay, step=torch.tensor(step), finite=TRUE, donate=donate
        )
    return average


def assert_same_bits(actual, expected):
    for a, b in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999, 1.0])
def test_it_is_the_weighted_sum_of_all_models(decay, dtype):
    count = 40
    models = [model(seed, dtype) for seed in range(count)]
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(count - 1)]
    shares = [1.0]
    for each in decays:
        shares = [share * each for share in shares] + [1 - each]
    assert sum(shares) == pytest.approx(1)
    wide = [[leaf.double() for leaf in tree.leaves(each)] for each in models]
    for index, leaf in enumerate(tree.leaves(follow(models, decay=decay))):
        expected = sum(share * leaves[index] for share, leaves in zip(shares, wide, strict=True))
        torch.testing.assert_close(leaf, expected.to(dtype), rtol=1e-5, atol=1e-6)


def test_after_the_warm_up_a_model_fades_by_the_decay_per_step():
    one, zero = ({"w": torch.full((2,), value)} for value in (1.0, 0.0))
    average = Averages(one, {})
    for step in range(9_000, 9_100):
        average = optim.average.update(average, zero, {}, decay=0.99, step=torch.tensor(step), finite=TRUE)
    torch.testing.assert_close(average.params["w"], torch.full((2,), 0.99**100), rtol=1e-4, atol=0)


def test_the_first_weights_do_not_linger():
    one, zero = ({"w": torch.full((2,), value)} for value in (1.0, 0.0))
    left = follow([(one, {}), *[(zero, {})] * 10], decay=0.9999).params["w"]
    torch.testing.assert_close(left, torch.full((2,), 1 / 92378))  # 1/10 * 2/11 * ... * 10/19


def test_arguments_are_left_alone_and_donated_buffers_hold_the_same_bits():
    models = [model(seed) for seed in range(4)]
    before = tree.map(torch.clone, models)
    kept, donated = follow(models, decay=0.9), follow(models, decay=0.9, donate=True)
    assert_same_bits(models, before)
    assert_same_bits(donated, kept)
    places = [leaf.data_ptr() for leaf in tree.leaves(donated)]
    after = optim.average.update(donated, *models[0], decay=0.9, step=torch.tensor(9), finite=TRUE, donate=True)
    assert [leaf.data_ptr() for leaf in tree.leaves(after)] == places


@pytest.mark.parametrize("donate", [False, True])
def test_a_bad_step_leaves_it_as_it_was(donate):
    average = optim.average.init(*model(0))
    before = tree.map(torch.clone, average)
    after = optim.average.update(average, *model(1), decay=0.9, step=torch.tensor(3), finite=FALSE, donate=donate)
    assert_same_bits(after, before)


def test_it_starts_from_copies():
    params, stats = model(0)
    average = optim.average.init(params, stats)
    params["w"].zero_()
    assert_same_bits(average, model(0))


def test_where_none_is_kept_none_comes_back():
    assert optim.average.update((), *model(0), decay=0.9, step=torch.tensor(0), finite=TRUE) == ()


def test_no_value_is_asked_for_on_the_host():
    # A meta tensor has no value: whatever would wait for the device raises.
    params, stats = tree.to(model(0), "meta")
    step, finite = torch.zeros((), dtype=torch.int64, device="meta"), torch.tensor(True, device="meta")
    for donate in (False, True):
        average = optim.average.init(params, stats)
        new = optim.average.update(average, params, stats, decay=0.9, step=step, finite=finite, donate=donate)
        assert new.params["w"].device.type == "meta"
