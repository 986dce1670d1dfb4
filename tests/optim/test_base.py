"""How transforms combine, and what a step does with its arguments."""

import pytest
import torch

from ds2f import optim, tree


def make_params(dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    return {
        "conv": {"w": torch.randn(3, 4, generator=make, dtype=dtype), "b": torch.randn(3, generator=make, dtype=dtype)},
        "rnn": [torch.randn(2, 5, generator=make, dtype=dtype), torch.randn((), generator=make, dtype=dtype)],
    }


def make_grads(params, seed=1):
    make = torch.Generator().manual_seed(seed)
    return tree.map(lambda leaf: torch.randn(leaf.shape, generator=make, dtype=leaf.dtype), params)


def assert_same_bits(actual, expected):
    assert len(tree.leaves(actual)) == len(tree.leaves(expected))
    for a, b in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


TRUE, FALSE = torch.tensor(True), torch.tensor(False)


def test_identity_returns_the_gradients_themselves():
    params = make_params()
    grads = make_grads(params)
    tx = optim.pass_through()
    updates, state = tx.update(grads, tx.init(params), params)
    assert updates is grads
    assert state == optim.EmptyState()


def test_chain_with_identities_equals_the_transform_alone():
    params = make_params()
    grads = make_grads(params)
    alone = optim.clip_by_global_norm(0.5)
    chained = optim.chain(optim.pass_through(), alone, optim.pass_through())
    expected, _ = alone.update(grads, alone.init(params), params)
    actual, _ = chained.update(grads, chained.init(params), params)
    assert_same_bits(actual, expected)


def test_empty_chain_is_the_identity():
    params = make_params()
    grads = make_grads(params)
    tx = optim.chain()
    updates, _ = tx.update(grads, tx.init(params), params)
    assert_same_bits(updates, grads)


def test_chain_applies_its_transforms_in_order():
    params = {"w": torch.tensor([3.0])}
    grads = {"w": torch.tensor([10.0])}
    decay, halve = optim.transforms.add_decayed_weights(1.0), optim.transforms.scale(0.5)
    for transforms, expected in (((decay, halve), 6.5), ((halve, decay), 8.0)):
        tx = optim.chain(*transforms)
        assert tx.update(grads, tx.init(params), params)[0]["w"].item() == expected


def test_chain_refuses_the_state_of_a_longer_chain_and_says_what_to_do():
    params = make_params()
    short, long = optim.chain(optim.pass_through()), optim.chain(optim.pass_through(), optim.pass_through())
    with pytest.raises(ValueError, match=r"2 parts and the chain 1 transforms.*init"):
        short.update(make_grads(params), long.init(params), params)


def test_chain_in_front_of_a_fused_optimizer_clips_and_stays_fused():
    params = make_params()
    grads = make_grads(params)
    clip, last = optim.clip_by_global_norm(0.1), optim.adamw(0.1, eps=1.0)
    tx = optim.chain(clip, last)
    assert tx.step is not None
    actual, state = optim.apply_step(tx, grads, tx.init(params), params, finite=TRUE)
    clipped, _ = clip.update(grads, clip.init(params), params)
    expected, expected_state = optim.apply_step(last, clipped, last.init(params), params, finite=TRUE)
    assert_same_bits(actual, expected)
    assert_same_bits(state[1], expected_state)


def test_fused_chain_keeps_the_state_of_its_front_after_a_bad_step():
    params = make_params()
    tx = optim.chain(optim.transforms.trace(0.9), optim.adamw(0.1))
    _, state = optim.apply_step(tx, make_grads(params), tx.init(params), params, finite=TRUE)
    _, same = optim.apply_step(tx, make_grads(params, 2), state, params, finite=FALSE)
    assert_same_bits(same, state)
    _, other = optim.apply_step(tx, make_grads(params, 2), state, params, finite=TRUE)
    assert not torch.equal(other[0].trace["conv"]["w"], state[0].trace["conv"]["w"])


def test_partition_gives_each_transform_its_own_leaves():
    params = make_params()
    chosen, others = optim.transforms.trace(0.9), optim.transforms.scale_by_adam()
    tx = optim.partition(lambda path, leaf: path == ("conv", "w"), chosen, others)
    state = tx.init(params)
    states = chosen.init(params), others.init(params)
    for seed in range(3):
        grads = make_grads(params, seed)
        updates, state = tx.update(grads, state, params)
        first, second = chosen.update(grads, states[0], params), others.update(grads, states[1], params)
        states = first[1], second[1]
    expected = tree.flatten_with_names(second[0]) | {"conv/w": first[0]["conv"]["w"]}
    assert_same_bits(updates, tree.unflatten_like(params, expected))
    assert list(tree.flatten_with_names(state[0].trace)) == ["conv/w"]
    assert list(tree.flatten_with_names(state[1].mu)) == [name for name in expected if name != "conv/w"]


def test_masks_inside_a_partition_see_the_paths_that_they_see_outside():
    params = {"output": {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, "rnn": {"weight": torch.ones(2, 2)}}
    asked = []

    def mask(path, leaf):
        asked.append(path)
        return path == ("rnn", "weight")

    decay = optim.sgd(1.0, momentum=0.0, weight_decay=0.5, mask=mask, fused=False)
    tx = optim.partition(lambda path, leaf: leaf.ndim > 1, optim.partition(mask, decay, decay), optim.pass_through())
    updates, _ = tx.update(tree.zeros_like(params), tx.init(params), params)
    assert set(asked) == {("output", "weight"), ("rnn", "weight")}
    assert not updates["output"]["weight"].any()
    assert not updates["output"]["bias"].any()
    assert torch.equal(updates["rnn"]["weight"], torch.full((2, 2), -0.5))


@pytest.mark.parametrize("twin", [{"fc": {"weight": 0}}, {"fc.weight": 0}, {"fc_weight": 0}])
@pytest.mark.parametrize("make", [optim.sgd, optim.adamw, optim.lamb, optim.novograd])
def test_masks_and_partitions_tell_leaves_apart_whatever_their_keys(twin, make):
    params = tree.map(lambda _: torch.ones(2, 2), {"fc/weight": 0, **twin})
    grads = tree.zeros_like(params)

    def mask(path, leaf):
        return path == ("fc/weight",)

    decayed = make(0.5, weight_decay=0.5, mask=mask)
    for tx in (decayed, optim.partition(mask, make(0.5, weight_decay=0.5), make(0.5, weight_decay=0.0))):
        updates, _ = tx.update(grads, tx.init(params), params)
        assert [bool(leaf.any()) for leaf in updates.values() if isinstance(leaf, torch.Tensor)].count(True) == 1
        assert updates["fc/weight"].any()
        assert not tree.global_norm({name: leaf for name, leaf in updates.items() if name != "fc/weight"})


def test_apply_updates_adds_leaf_by_leaf():
    params = {"a": torch.tensor([1.0, 2.0]), "b": [torch.tensor(3.0, dtype=torch.float64)]}
    updates = {"a": torch.tensor([0.5, -2.0]), "b": [torch.tensor(1.0, dtype=torch.float64)]}
    new = optim.apply_updates(params, updates)
    assert new["a"].tolist() == [1.5, 0.0]
    assert new["b"][0].item() == 4.0
    assert new["b"][0].dtype == torch.float64


def test_apply_step_prefers_the_fused_form():
    calls = []

    def step(grads, state, params, *, finite, donate):
        calls.append((bool(finite), donate))
        return params, state

    params = make_params()
    tx = optim.pass_through()._replace(step=step)
    optim.apply_step(tx, make_grads(params), tx.init(params), params, finite=TRUE, donate=True)
    assert calls == [(True, True)]


def test_apply_step_without_a_fused_form_is_update_then_apply_updates():
    params = make_params()
    grads = make_grads(params)
    tx = optim.lamb(0.1)
    updates, expected_state = tx.update(grads, tx.init(params), params)
    actual, state = optim.apply_step(tx, grads, tx.init(params), params, finite=TRUE)
    assert_same_bits(actual, optim.apply_updates(params, updates))
    assert_same_bits(state, expected_state)


def test_parameters_that_require_gradients_leave_no_graph_behind():
    params = tree.map(lambda leaf: leaf.requires_grad_(), make_params())
    for tx in (optim.lamb(0.1), optim.adamw(0.1)):
        new, state = optim.apply_step(tx, make_grads(params), tx.init(params), params, finite=TRUE)
        assert not any(leaf.requires_grad for leaf in tree.leaves((new, state)))
