"""Each transform against its formula."""

import math

import attrs
import pytest
import torch

from ds2f import tree
from ds2f.config import ModelConfig
from ds2f.model import deepspeech2
from ds2f.optim import schedules, transforms
from ds2f.optim.base import apply_updates


def run(tx, grads, params, steps=1):
    """The updates of the last of several steps on the same gradients, and the state after it."""
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
    return updates, state


def test_momentum_of_a_constant_gradient_is_a_geometric_series():
    grads = {"w": torch.tensor([2.0, -1.0])}
    updates, state = run(transforms.trace(0.5), grads, grads, steps=4)
    torch.testing.assert_close(updates["w"], grads["w"] * (1 + 0.5 + 0.25 + 0.125))
    torch.testing.assert_close(state.trace["w"], updates["w"])


def test_nesterov_looks_one_step_ahead():
    grads = {"w": torch.tensor([2.0, -1.0])}
    updates, state = run(transforms.trace(0.5, nesterov=True), grads, grads, steps=3)
    torch.testing.assert_close(state.trace["w"], grads["w"] * 1.75)
    torch.testing.assert_close(updates["w"], grads["w"] * 1.875)


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_adam_of_a_constant_gradient_is_its_sign(steps):
    # Both bias corrections are exact for a constant gradient, at the first step above all.
    grads = {"w": torch.tensor([3.0, -0.2, 1e-3])}
    updates, state = run(transforms.scale_by_adam(eps=0.0), grads, grads, steps)
    torch.testing.assert_close(updates["w"], torch.tensor([1.0, -1.0, 1.0]), rtol=3e-6 * math.sqrt(steps), atol=0)
    assert state.step.item() == steps


def test_adam_without_decays_divides_by_the_gradients_size():
    grads = {"w": torch.tensor([4.0, -0.5])}
    updates, _ = run(transforms.scale_by_adam(b1=0.0, b2=0.0, eps=1.0), grads, grads, steps=2)
    torch.testing.assert_close(updates["w"], torch.tensor([0.8, -1 / 3]))


def test_trust_ratio_gives_an_update_the_norm_of_its_parameters():
    params = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[0.6], [0.8]])}
    updates = {"a": torch.tensor([0.0, 2.0]), "b": torch.tensor([[5.0], [0.0]])}
    scaled, _ = run(transforms.scale_by_trust_ratio(), updates, params)
    torch.testing.assert_close(scaled["a"], torch.tensor([0.0, 5.0]))
    torch.testing.assert_close(scaled["b"], torch.tensor([[1.0], [0.0]]))


def test_trust_ratio_scales_only_what_the_mask_names():
    params = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[0.6], [0.8]])}
    updates = {"a": torch.tensor([0.0, 2.0]), "b": torch.tensor([[5.0], [0.0]])}
    scaled, _ = run(transforms.scale_by_trust_ratio(mask=transforms.matrices_only), updates, params)
    assert torch.equal(scaled["a"], updates["a"])
    torch.testing.assert_close(scaled["b"], torch.tensor([[1.0], [0.0]]))


@pytest.mark.parametrize(("param", "update"), [(0.0, 2.0), (2.0, 0.0), (0.0, 0.0)])
def test_trust_ratio_is_one_where_a_norm_is_zero(param, update):
    scaled, _ = run(transforms.scale_by_trust_ratio(), {"w": torch.full((3,), update)}, {"w": torch.full((3,), param)})
    assert scaled["w"].tolist() == [update] * 3


def test_first_novograd_update_of_every_leaf_has_norm_one():
    grads = {"a": torch.linspace(-1e3, 2e3, 21).reshape(7, 3), "b": torch.tensor([1e-3, 2e-3]), "c": torch.tensor(-5.0)}
    updates, state = run(transforms.scale_by_novograd(eps=0.0), grads, grads)
    for leaf in tree.leaves(updates):
        torch.testing.assert_close(torch.linalg.vector_norm(leaf), torch.tensor(1.0))
    torch.testing.assert_close(state.nu["c"], torch.tensor(25.0))


def test_novograds_second_moment_averages_squared_norms():
    tx = transforms.scale_by_novograd(b2=0.75, eps=0.0)
    first, second = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([0.0, 1.0])}
    state = tx.update(first, tx.init(first), first)[1]
    updates, state = tx.update(second, state, first)
    assert state.nu["w"].item() == pytest.approx(0.75 * 25 + 0.25 * 1)
    torch.testing.assert_close(updates["w"], second["w"] / 19**0.5)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (4, 2, 3, 2), (3, 1, 7)])
def test_orthogonalizing_keeps_singular_vectors_and_levels_singular_values(shape):
    grads = {"w": torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    rows, columns = shape[0], math.prod(shape[1:])
    updates, _ = run(transforms.orthogonalize(), grads, grads)
    assert updates["w"].shape == shape
    u, _, v = torch.linalg.svd(grads["w"].reshape(rows, columns), full_matrices=False)
    inner = u.T @ updates["w"].reshape(rows, columns) @ v.T / (0.2 * max(rows, columns) ** 0.5)
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()))
    assert torch.all((inner.diagonal() > 0.6) & (inner.diagonal() < 1.3))


def test_orthogonalizing_nothing_gives_nothing():
    updates, _ = run(transforms.orthogonalize(), {"w": torch.zeros(3, 2)}, {"w": torch.zeros(3, 2)})
    assert updates["w"].tolist() == [[0.0, 0.0]] * 3


def test_muons_matrices_are_those_inside_the_model():
    cfg = ModelConfig(hidden_size=4, hidden_layers=2, num_bins=9, labels=tuple("_AB"), intermediate_ctc=0.3)
    for model in (cfg, attrs.evolve(cfg, bidirectional=False)):
        params, _ = deepspeech2.init(model, key=0)
        leaves = tree.flatten_with_paths(params).items()
        chosen = {"/".join(map(str, path)) for path, leaf in leaves if transforms.hidden_matrices(path, leaf)}
        convolutions = {f"conv/layers/{index}/weight" for index in (0, 1)}
        directions = ("forward", "backward") if model.bidirectional else ("forward",)
        recurrent = {f"rnn_{i}/{d}/{part}" for i in (0, 1) for d in directions for part in ("w_ih", "w_hh")}
        assert chosen == convolutions | recurrent


def test_decay_reaches_only_what_the_mask_names():
    params = {"layer": {"w": torch.ones(2, 2), "b": torch.ones(2)}}
    zeros = tree.zeros_like(params)
    everywhere, _ = run(transforms.add_decayed_weights(0.1), zeros, params)
    matrices, _ = run(transforms.add_decayed_weights(0.1, mask=transforms.matrices_only), zeros, params)
    by_path, _ = run(transforms.add_decayed_weights(0.1, mask=lambda path, _: path == ("layer", "b")), zeros, params)
    sums = [[round(leaf.sum().item(), 6) for leaf in tree.leaves(t)] for t in (everywhere, matrices, by_path)]
    assert sums == [[0.2, 0.4], [0.0, 0.4], [0.2, 0.0]]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_models_biases_scales_and_shifts_are_no_matrices(bidirectional):
    params, _ = deepspeech2.init(ModelConfig(hidden_size=4, hidden_layers=2, bidirectional=bidirectional), key=0)
    spared = {
        path for path, leaf in tree.flatten_with_paths(params).items() if not transforms.matrices_only(path, leaf)
    }
    vectors = ("scale", "bias", "b_ih", "b_hh")
    assert spared == {path for path in tree.flatten_with_paths(params) if path[-1] in vectors}


def test_no_decay_is_the_identity():
    grads = {"w": torch.ones(2)}
    assert run(transforms.add_decayed_weights(0.0), grads, grads)[0] is grads


def test_scale_multiplies():
    updates, _ = run(transforms.scale(-0.5), {"w": torch.tensor([2.0])}, {"w": torch.tensor([9.0])})
    assert updates["w"].item() == -1.0


def test_schedule_sees_steps_zero_one_two_as_integers():
    seen = []

    def schedule(step):
        seen.append((step.item(), step.dtype, step.shape))
        return step.to(torch.float32)

    grads = {"w": torch.tensor([2.0])}
    updates, state = run(transforms.scale_by_schedule(schedule), grads, grads, steps=3)
    assert seen == [(step, torch.int64, ()) for step in range(3)]
    assert updates["w"].item() == 4.0
    assert state.step.item() == 3


def test_a_number_and_its_constant_schedule_have_the_same_state_and_updates():
    grads = {"w": torch.tensor([2.0])}
    by_number, number_state = run(transforms.scale_by_learning_rate(0.1), grads, grads, steps=2)
    by_schedule, schedule_state = run(transforms.scale_by_learning_rate(schedules.constant(0.1)), grads, grads, 2)
    assert number_state == schedule_state
    assert torch.equal(by_number["w"], by_schedule["w"])
    assert by_number["w"].item() == pytest.approx(-0.2)


@pytest.mark.parametrize("max_norm", [5.0, 5.1, 400.0])
def test_gradients_of_at_most_the_largest_norm_keep_their_bits(max_norm):
    grads = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    updates, _ = run(transforms.clip_by_global_norm(max_norm), grads, grads)
    assert [leaf.item() for leaf in tree.leaves(updates)] == [3.0, 4.0]


def test_larger_gradients_keep_their_direction_and_get_the_largest_norm():
    grads = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    updates, _ = run(transforms.clip_by_global_norm(0.5), grads, grads)
    torch.testing.assert_close(updates["a"], torch.tensor([0.3]))
    torch.testing.assert_close(updates["b"], torch.tensor([[0.4]]))


def test_clipping_agrees_with_torch():
    make = torch.Generator().manual_seed(3)
    grads = {"a": torch.randn(11, 3, generator=make), "b": torch.randn(5, generator=make)}
    leaves = [torch.nn.Parameter(torch.zeros_like(leaf)) for leaf in tree.leaves(grads)]
    for leaf, grad in zip(leaves, tree.leaves(grads), strict=True):
        leaf.grad = grad.clone()
    torch.nn.utils.clip_grad_norm_(leaves, 1.5)
    updates, _ = run(transforms.clip_by_global_norm(1.5), grads, grads)
    for leaf, actual in zip(leaves, tree.leaves(updates), strict=True):
        torch.testing.assert_close(actual, leaf.grad, rtol=1e-5, atol=1e-7)


def test_zero_gradients_are_clipped_to_zero_not_to_nan():
    grads = {"w": torch.zeros(3)}
    assert run(transforms.clip_by_global_norm(1.0), grads, grads)[0]["w"].tolist() == [0.0] * 3


def test_clip_factor_uses_the_norm_it_is_given():
    updates = torch.tensor([8.0]) * transforms.clip_factor(torch.tensor(4.0), 2.0)
    assert updates.item() == 4.0


def test_clip_factor_with_torchs_epsilon_agrees_with_torch_at_the_largest_norm():
    leaf = torch.nn.Parameter(torch.zeros(()))
    leaf.grad = torch.tensor(0.5)
    torch.nn.utils.clip_grad_norm_([leaf], 0.5)
    assert torch.equal(torch.tensor(0.5) * transforms.clip_factor(torch.tensor(0.5), 0.5, eps=1e-6), leaf.grad)


def test_decoupled_decay_of_a_zero_gradient_shrinks_parameters_geometrically():
    params = {"w": torch.tensor([2.0])}
    tx = transforms.add_decayed_weights(0.5)
    for _ in range(3):
        updates, _ = tx.update({"w": torch.zeros(1)}, tx.init(params), params)
        params = apply_updates(params, tree.map(lambda u: -0.1 * u, updates))
    assert params["w"].item() == pytest.approx(2.0 * 0.95**3)
