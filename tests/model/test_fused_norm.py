"""The fused batch norm against its definition: batch norm, clip and zeros for padding, one after the other."""

import attrs
import pytest
import torch

from ds2f import precision, steps, tree
from ds2f.config import Config, ModelConfig
from ds2f.model import deepspeech2, layers
from ds2f.model.batch_norm import batch_norm
from ds2f.model.fused_norm import normalise

LENGTHS = torch.tensor([7, 3, 5])
FORMS = {  # shape, axis of the channels, clipped
    "convolution": ((3, 4, 5, 7), 1, True),
    "recurrent": ((7, 3, 4), 2, False),
}


def example(form, dtype, lengths=LENGTHS):
    shape, axis, clipped = FORMS[form]
    ended = torch.arange(7)[:, None] >= lengths
    padding = ended.T[:, None, None] if axis == 1 else ended[..., None]
    generator = torch.Generator().manual_seed(5)
    x = 3 + 20 * torch.randn(shape, generator=generator, dtype=torch.float64)
    params = {
        "scale": 1 + torch.rand(4, generator=generator, dtype=torch.float64),
        "bias": torch.randn(4, generator=generator, dtype=torch.float64),
    }
    cotangent = torch.randn(shape, generator=generator, dtype=torch.float64).masked_fill(padding, 0)
    single = torch.promote_types(dtype, torch.float32)
    return tree.cast(params, single), x.to(dtype), padding, cotangent.to(dtype), axis, clipped


def defined(params, x, padding, *, axis, dtype, clipped):
    y, moments = batch_norm(params, {}, x, padding, axis=axis, train=True, dtype=dtype)
    return (layers.zero_padding(layers.clip(y), padding) if clipped else y), moments


def outcome(fn, params, x, padding, cotangent, axis, clipped):
    """Result, moments and gradients."""
    params, x = tree.map(lambda leaf: leaf.clone().requires_grad_(), (params, x))
    y, moments = fn(params, x, padding, axis=axis, dtype=x.dtype, clipped=clipped)
    gradients = torch.autograd.grad(y, [x, params["scale"], params["bias"]], cotangent)
    shown = y if clipped else layers.zero_padding(y, padding)
    return [shown.detach(), *(leaf.detach() for leaf in moments), *gradients]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 0.02)]
)
@pytest.mark.parametrize("lengths", [LENGTHS, torch.full((3,), 7), torch.tensor([1, 1, 0])])
def test_result_moments_and_gradients_are_those_of_the_definition(form, dtype, tolerance, lengths):
    arguments = example(form, dtype, lengths)
    for ours, expected in zip(outcome(normalise, *arguments), outcome(defined, *arguments), strict=True):
        assert ours.dtype == expected.dtype
        assert float((ours - expected).double().norm()) <= tolerance * (1 + float(expected.double().norm()))


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_padding_or_of_nothing_gives_zeros_and_finite_gradients(form):
    params, x, padding, cotangent, axis, clipped = example(form, torch.float32, torch.zeros(3, dtype=torch.int64))
    utterances = 0 if axis == 1 else 1
    for size in (3, 0):
        part = (slice(None),) * utterances + (slice(size),)
        found = outcome(normalise, params, x[part], padding[part], cotangent[part], axis, clipped)
        assert all(torch.isfinite(leaf).all() for leaf in found)
        assert float(found[1]) == 0
        assert not found[0].any()


@pytest.mark.parametrize("form", FORMS)
def test_a_large_mean_does_not_cancel_the_variance(form):
    params, x, padding, cotangent, axis, clipped = example(form, torch.float32)
    near, far = (outcome(normalise, params, x + shift, padding, cotangent, axis, clipped)[0] for shift in (0.0, 1000.0))
    torch.testing.assert_close(far, near, rtol=1e-3, atol=1e-3)


def test_a_second_derivative_is_refused_with_the_remedy():
    params, x, padding, _, axis, clipped = example("recurrent", torch.float64)

    def slope(x):
        def value(x):
            return normalise(params, x, padding, axis=axis, dtype=x.dtype, clipped=clipped)[0].square().sum()

        return torch.func.grad(value)(x).sum()

    with pytest.raises(RuntimeError, match="plain Policy"):
        torch.func.grad(slope)(x)


@pytest.mark.parametrize("engine", ["func", "autograd"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_models_gradients_under_a_fused_policy_are_those_under_a_plain_one(engine, bidirectional):
    model = ModelConfig(hidden_size=8, hidden_layers=2, num_bins=41, bidirectional=bidirectional)
    plain = precision.Policy(torch.float64, torch.float64)
    params, stats = tree.cast(deepspeech2.init(model, key=1), torch.float64)
    lengths = torch.tensor([40, 31])
    batch = steps.Batch(
        features=torch.randn(2, 41, 40, dtype=torch.float64),
        lengths=lengths,
        labels=torch.tensor([[3, 4, 5], [6, 7, 8]]),
        label_lengths=torch.tensor([3, 2]),
        ids=torch.arange(2),
        weight=torch.tensor(0.5, dtype=torch.float64),
    )

    def gradients(policy):
        loss = steps.objective(model, policy=policy)
        differentiate = steps.staged_value_and_grad(
            [*loss.stages(stats, batch), steps.Stage("sum", lambda _, losses: (losses.sum(), {}))], engine=engine
        )
        (value, auxiliary), grads = differentiate(params, batch.features)
        return [value, *tree.leaves(auxiliary), *tree.leaves(grads)]

    for ours, expected in zip(gradients(plain._replace(fused=True)), gradients(plain), strict=True):
        assert float((ours - expected).norm()) <= 1e-10 * (1 + float(expected.norm()))


def test_a_rank_without_utterances_takes_part_under_a_fused_policy():
    cfg = Config(model=attrs.evolve(ModelConfig(), hidden_size=8, hidden_layers=2, num_bins=41))
    params, stats = deepspeech2.init(cfg.model, key=1)
    loss = steps.objective(cfg.model, policy=precision.FULL._replace(fused=True))
    none = torch.zeros(0, dtype=torch.int64)
    batch = steps.Batch(torch.zeros(0, 41, 8), none, torch.zeros(0, 1, dtype=torch.int64), none, none, torch.zeros(()))
    differentiate = steps.staged_value_and_grad(
        [*loss.stages(stats, batch), steps.Stage("sum", lambda _, losses: (losses.sum(), {}))]
    )
    _, grads = differentiate(params, batch.features)
    assert not any(leaf.any() for leaf in tree.leaves(grads))
