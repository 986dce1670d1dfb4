"""Optimizers against torch.optim and the papers' algorithms, and a table of optimizers crossed with properties."""

import pytest
import torch

from ds2f import optim, tree
from ds2f.config import OptimConfig
from ds2f.errors import InputError

STEPS = 25
TRUE, FALSE = torch.tensor(True), torch.tensor(False)


def make_params(dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    return {
        "conv": {"w": torch.randn(3, 4, generator=make, dtype=dtype), "b": torch.randn(3, generator=make, dtype=dtype)},
        "rnn": [torch.randn(2, 5, generator=make, dtype=dtype), torch.randn((), generator=make, dtype=dtype)],
    }


def make_grads(params, seed):
    """Gradients of a different size in every leaf."""
    make = torch.Generator().manual_seed(seed)
    leaves, rebuild = tree.flatten(params)
    return rebuild(
        [torch.randn(p.shape, generator=make, dtype=p.dtype) * 10.0 ** (1 - i) for i, p in enumerate(leaves)]
    )


def train(tx, params, *, steps=STEPS, donate=False):
    state = tx.init(params)
    for step in range(steps):
        params, state = optim.apply_step(tx, make_grads(params, step), state, params, finite=TRUE, donate=donate)
    return params, state


def clone(any_tree):
    return tree.map(torch.clone, any_tree)


def assert_close(actual, expected, **tolerance):
    for a, b in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def assert_same_bits(actual, expected):
    assert_close(actual, expected, rtol=0, atol=0)


def decaying(step):
    return 0.05 * torch.pow(0.9, step.to(torch.float32))


MAKERS = {
    "sgd_plain": lambda rate: optim.sgd(rate, momentum=0.0, nesterov=False),
    "sgd_momentum": lambda rate: optim.sgd(rate, nesterov=False),
    "sgd_nesterov": lambda rate: optim.sgd(rate, weight_decay=0.01),
    "sgd_unfused": lambda rate: optim.sgd(rate, weight_decay=0.01, fused=False),
    "adamw": lambda rate: optim.adamw(rate),
    "adamw_unfused": lambda rate: optim.adamw(rate, fused=False),
    "adamw_masked": lambda rate: optim.adamw(rate, weight_decay=0.1, mask=optim.transforms.matrices_only),
    "sgd_masked": lambda rate: optim.sgd(rate, weight_decay=0.1, mask=optim.transforms.matrices_only),
    "adamw_clipped": lambda rate: optim.chain(optim.clip_by_global_norm(0.5), optim.adamw(rate)),
    "lamb": lambda rate: optim.lamb(rate),
    "lamb_masked": lambda rate: optim.lamb(rate, mask=optim.transforms.matrices_only),
    "muon": lambda rate: optim.muon(rate),
    "novograd": lambda rate: optim.novograd(rate),
}
FUSED = [name for name in MAKERS if MAKERS[name](0.1).step is not None]
each_optimizer = pytest.mark.parametrize("name", MAKERS)


# Against independent implementations


def torch_train(make_optimizer, params):
    """The same gradients through torch.optim."""
    leaves, rebuild = tree.flatten(params)
    parameters = [torch.nn.Parameter(leaf.clone()) for leaf in leaves]
    optimizer = make_optimizer(parameters)
    for step in range(STEPS):
        for parameter, grad in zip(parameters, tree.leaves(make_grads(params, step)), strict=True):
            parameter.grad = grad
        optimizer.step()
    return rebuild([parameter.detach() for parameter in parameters])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.0, "nesterov": False},
        {"momentum": 0.9, "nesterov": False},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.0, "nesterov": False, "weight_decay": 0.1},
    ],
)
@pytest.mark.parametrize("fused", [False, True])
def test_sgd_is_torchs(settings, fused, dtype):
    params = make_params(dtype)
    expected = torch_train(lambda leaves: torch.optim.SGD(leaves, lr=0.01, **settings), params)
    actual, _ = train(optim.sgd(0.01, **settings, fused=fused), params)
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01, 1.0])
def test_adamw_is_torchs(weight_decay, fused, dtype):
    params = make_params(dtype)
    expected = torch_train(
        lambda leaves: torch.optim.AdamW(leaves, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=weight_decay),
        params,
    )
    tx = optim.adamw(0.02, b1=0.8, b2=0.95, eps=1e-6, weight_decay=weight_decay, fused=fused)
    assert (tx.step is not None) == fused
    actual, _ = train(tx, params)
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_adamw_with_a_schedule_is_torchs_with_a_scheduler():
    params = make_params()
    leaves, rebuild = tree.flatten(params)
    parameters = [torch.nn.Parameter(leaf.clone()) for leaf in leaves]
    optimizer = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for step in range(STEPS):
        for parameter, grad in zip(parameters, tree.leaves(make_grads(params, step)), strict=True):
            parameter.grad = grad
        optimizer.step()
        scheduler.step()
    for fused in (False, True):
        actual, _ = train(optim.adamw(decaying, weight_decay=0.1, fused=fused), params)
        assert_close(actual, rebuild([parameter.detach() for parameter in parameters]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("make", "theirs"),
    [
        (optim.adamw, lambda groups: torch.optim.AdamW(groups, lr=0.02)),
        (optim.sgd, lambda groups: torch.optim.SGD(groups, lr=0.02, momentum=0.9, nesterov=True)),
        (lambda *a, **k: optim.sgd(*a, momentum=0.0, **k), lambda groups: torch.optim.SGD(groups, lr=0.02)),
    ],
)
def test_a_mask_is_torchs_parameter_groups(make, theirs, fused):
    params = make_params()

    def make_optimizer(leaves):
        return theirs(
            [
                {"params": [leaf for leaf in leaves if leaf.ndim > 1], "weight_decay": 0.3},
                {"params": [leaf for leaf in leaves if leaf.ndim <= 1], "weight_decay": 0.0},
            ]
        )

    expected = torch_train(make_optimizer, params)
    tx = make(0.02, weight_decay=0.3, mask=optim.transforms.matrices_only, fused=fused)
    assert_close(train(tx, params)[0], expected, rtol=1e-5, atol=1e-5)


def apart(matrices, others):
    """A tree whose matrices are those of one tree and whose other leaves are those of another."""
    return tree.map(lambda matrix, other: matrix if matrix.ndim > 1 else other, matrices, others)


def test_lamb_takes_adams_plain_step_where_a_mask_leaves_parameters_alone():
    params = make_params()
    settings = {"b1": 0.9, "b2": 0.95, "eps": 1e-6}
    adam = torch_train(lambda leaves: torch.optim.Adam(leaves, lr=0.01, betas=(0.9, 0.95), eps=1e-6), params)
    expected = apart(tree.cast(lamb_by_the_paper(params, rate=0.01, decay=0.3, **settings), torch.float32), adam)
    tx = optim.lamb(0.01, weight_decay=0.3, mask=optim.transforms.matrices_only, **settings)
    assert_close(train(tx, params)[0], expected, rtol=1e-5, atol=1e-5)


def test_novograd_with_a_mask_decays_matrices_alone():
    params = make_params()
    settings = {"rate": 0.01, "b1": 0.9, "b2": 0.95, "eps": 1e-6}
    decayed, free = (novograd_by_the_paper(params, decay=decay, **settings) for decay in (0.3, 0.0))
    tx = optim.novograd(0.01, b1=0.9, b2=0.95, eps=1e-6, weight_decay=0.3, mask=optim.transforms.matrices_only)
    assert_close(train(tx, params)[0], tree.cast(apart(decayed, free), torch.float32), rtol=1e-5, atol=1e-5)


def lamb_by_the_paper(params, *, rate, b1, b2, eps, decay):
    """You et al. 2019, algorithm 2, in float64, one leaf and one step after the other."""
    leaves, rebuild = tree.flatten(params)
    results = []
    for index, leaf in enumerate(leaves):
        x, m, v = leaf.double(), torch.zeros_like(leaf.double()), torch.zeros_like(leaf.double())
        for t in range(1, STEPS + 1):
            g = tree.leaves(make_grads(params, t - 1))[index].double()
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            r = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
            direction = r + decay * x
            x = x - rate * x.norm() / direction.norm() * direction
        results.append(x)
    return rebuild(results)


def novograd_by_the_paper(params, *, rate, b1, b2, eps, decay):
    """Ginsburg et al. 2019, algorithm 1, in float64, one leaf and one step after the other."""
    leaves, rebuild = tree.flatten(params)
    results = []
    for index, leaf in enumerate(leaves):
        w = leaf.double()
        for t in range(STEPS):
            g = tree.leaves(make_grads(params, t))[index].double()
            if t == 0:
                v = float((g**2).sum())
                m = g / v**0.5 + decay * w
            else:
                v = b2 * v + (1 - b2) * float((g**2).sum())
                m = b1 * m + (g / (v**0.5 + eps) + decay * w)
            w = w - rate * m
        results.append(w)
    return rebuild(results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("make", "twin"), [(optim.lamb, lamb_by_the_paper), (optim.novograd, novograd_by_the_paper)])
def test_lamb_and_novograd_follow_their_papers(make, twin, dtype):
    params = make_params(dtype)
    settings = {"b1": 0.9, "b2": 0.95, "eps": 1e-6}
    expected = tree.cast(twin(params, rate=0.01, decay=0.05, **settings), dtype)
    actual, _ = train(make(0.01, weight_decay=0.05, **settings), params)
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def muon_by_singular_values(params, *, rate, momentum, nesterov, decay, b1, b2, eps):
    """Jordan et al. 2024 in float64, with the polynomial taken of the singular values; AdamW for the other leaves."""
    adamw, _ = train(optim.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=decay), params)
    leaves, rebuild = tree.flatten(adamw)
    for index, leaf in enumerate(tree.leaves(params)):
        if leaf.ndim < 2:
            continue
        x, m = leaf.double(), torch.zeros_like(leaf.double())
        for t in range(STEPS):
            g = tree.leaves(make_grads(params, t))[index].double()
            m = momentum * m + g
            u, s, v = torch.linalg.svd(g + momentum * m if nesterov else m, full_matrices=False)
            s = s / (s**2).sum().sqrt()
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            x = x - rate * (0.2 * max(x.shape) ** 0.5 * u @ torch.diag(s) @ v + decay * x)
        leaves[index] = x.to(leaf.dtype)
    return rebuild(leaves)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_muon_takes_a_polynomial_of_the_singular_values(dtype, nesterov):
    params = make_params(dtype)
    settings = {"momentum": 0.8, "nesterov": nesterov, "b1": 0.8, "b2": 0.95, "eps": 1e-6}
    actual, _ = train(optim.muon(0.05, weight_decay=0.3, **settings), params)
    expected = muon_by_singular_values(params, rate=0.05, decay=0.3, **settings)
    assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_muon_is_torchs():
    params = make_params()

    def make_optimizer(leaves):
        matrices = [leaf for leaf in leaves if leaf.ndim > 1]
        return torch.optim.Muon(matrices, lr=0.02, weight_decay=0.3, momentum=0.9, adjust_lr_fn="match_rms_adamw")

    expected = torch_train(make_optimizer, params)
    actual, _ = train(optim.muon(0.02, weight_decay=0.3, momentum=0.9), params)
    still = tree.map(lambda leaf, start: leaf if leaf.ndim > 1 else start, actual, params)
    # torch iterates in bfloat16, at 25 steps of up to 0.02 an element.
    assert_close(still, expected, rtol=0, atol=0.01)


def test_muon_without_matrices_is_adamw():
    params, settings = make_params(), {"b1": 0.8, "b2": 0.95, "eps": 1e-6, "weight_decay": 0.3}
    actual, _ = train(optim.muon(0.02, matrices=lambda path, leaf: False, **settings), params)
    expected, _ = train(optim.adamw(0.02, fused=False, **settings), params)
    assert_same_bits(actual, expected)


def test_muon_of_matrices_alone_does_with_them_what_it_does_beside_others():
    params = {f"leaf_{index}": leaf for index, leaf in enumerate(tree.leaves(make_params())) if leaf.ndim > 1}
    grads = tree.map(torch.ones_like, params)
    tx, beside = optim.muon(0.02), {"bias": torch.ones(3)}
    alone, _ = tx.update(grads, tx.init(params), params)
    both, _ = tx.update(grads | beside, tx.init(params | beside), params | beside)
    assert_same_bits(alone, {name: both[name] for name in params})


# Every optimizer, every property


@each_optimizer
def test_it_finds_the_minimum_of_a_quadratic(name):
    target = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([[3.0]])}
    # Neither leaf passes near zero on its way: LAMB's steps shrink with a leaf's norm.
    params = {"a": torch.tensor([3.0, -1.0]), "b": torch.tensor([[1.0]])}

    def loss(p):
        return sum(((x - t) ** 2).sum() for x, t in zip(tree.leaves(p), tree.leaves(target), strict=True))

    # A matrix moves by a fifth of the rate a step under muon.
    rate = 0.25 if name == "muon" else 0.05
    tx = MAKERS[name](lambda step: rate * torch.pow(0.99, step.to(torch.float32)))
    state = tx.init(params)
    start = loss(params)
    for _ in range(400):
        grads = tree.map(lambda x, t: 2 * (x - t), params, target)
        params, state = optim.apply_step(tx, grads, state, params, finite=TRUE, donate=True)
    assert loss(params) < 1e-2 * start


@each_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters_and_state_keep_structure_shapes_and_dtypes(name, dtype):
    params = make_params(dtype)
    tx = MAKERS[name](decaying)
    state = tx.init(params)
    new_params, new_state = train(tx, params, steps=2)
    for before, after in ((params, new_params), (state, new_state)):
        signature = {path: (x.shape, x.dtype, x.device) for path, x in tree.flatten_with_paths(before).items()}
        assert signature == {path: (x.shape, x.dtype, x.device) for path, x in tree.flatten_with_paths(after).items()}
        assert tree.map(lambda a, b: True, before, after) is not None


@each_optimizer
def test_arguments_are_left_unchanged(name):
    params = make_params()
    tx = MAKERS[name](decaying)
    _, state = train(tx, params, steps=2)
    grads = make_grads(params, 7)
    before = clone((params, state, grads))
    new_params, new_state = optim.apply_step(tx, grads, state, params, finite=TRUE)
    tx.update(grads, state, params)
    assert_same_bits((params, state, grads), before)
    tree.map(lambda leaf: leaf.zero_(), (new_params, new_state))
    assert_same_bits((params, state, grads), before)


@each_optimizer
def test_donated_buffers_give_the_same_bits(name):
    tx = MAKERS[name](decaying)
    assert_same_bits(train(tx, make_params(), donate=True), train(tx, make_params(), donate=False))


@each_optimizer
def test_donation_leaves_the_gradients_alone(name):
    params = make_params()
    tx = MAKERS[name](decaying)
    grads = make_grads(params, 7)
    before = clone(grads)
    optim.apply_step(tx, grads, tx.init(params), params, finite=TRUE, donate=True)
    assert_same_bits(grads, before)


@each_optimizer
@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_step_leaves_everything_as_before(name, donate, bad):
    tx = MAKERS[name](decaying)
    params, state = train(tx, make_params(), steps=3)
    before = clone((params, state))
    grads = make_grads(params, 7)
    grads["conv"]["w"][0, 0] = bad
    after = optim.apply_step(tx, grads, state, params, finite=FALSE, donate=donate)
    assert_same_bits(after, before)
    expected, _ = optim.apply_step(tx, make_grads(params, 8), *reversed(before), finite=TRUE)
    actual, _ = optim.apply_step(tx, make_grads(params, 8), *reversed(after), finite=TRUE)
    assert_same_bits(actual, expected)


@each_optimizer
def test_a_bad_step_right_after_initialisation_leaves_everything_as_before(name):
    tx = MAKERS[name](decaying)
    params = make_params()
    state = tx.init(params)
    grads = tree.map(lambda leaf: torch.full_like(leaf, float("nan")), params)
    assert_same_bits(optim.apply_step(tx, grads, state, params, finite=FALSE), (params, state))


@each_optimizer
def test_a_step_never_asks_for_the_value_of_the_verdict(name):
    # A meta tensor has no value: whatever would wait for the device raises. The fused kernel has no meta form.
    params = tree.to(make_params(), "meta")
    tx = MAKERS[name](decaying)._replace(step=None)
    new_params, _ = optim.apply_step(tx, params, tx.init(params), params, finite=torch.tensor(True, device="meta"))
    assert new_params["conv"]["w"].device.type == "meta"


# The fused step


@pytest.mark.parametrize(
    ("tx", "other"),
    [(optim.adamw(0.1), optim.lamb(0.1)), (optim.adamw(0.1), optim.sgd(0.1)), (optim.sgd(0.1), optim.adamw(0.1))],
)
def test_a_fused_step_refuses_another_optimizers_state_and_says_what_to_do(tx, other):
    params = {"w": torch.ones(3)}
    with pytest.raises(ValueError, match=r"made by another optimizer; make a new one with .*init\(params\)"):
        optim.apply_step(tx, params, other.init(params), params, finite=torch.tensor(True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUSED)
def test_fused_step_agrees_with_update_and_apply_updates(name, dtype):
    tx = MAKERS[name](decaying)
    params = make_params(dtype)
    fused = train(tx, params)
    chained = train(tx._replace(step=None), params)
    assert_close(fused, chained, rtol=2e-6, atol=2e-6)


def test_fused_and_chained_steps_can_take_turns_on_one_state():
    tx = optim.adamw(decaying, weight_decay=0.1)
    params = make_params()
    state = tx.init(params)
    for step in range(STEPS):
        form = tx if step % 2 else tx._replace(step=None)
        params, state = optim.apply_step(form, make_grads(params, step), state, params, finite=TRUE)
    expected = train(tx, make_params())
    assert_close((params, state), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["sgd_plain", "sgd_momentum", "adamw"])
def test_donation_reuses_the_buffers_of_parameters_and_moments(name):
    params = make_params()
    tx = MAKERS[name](0.1)

    def buffers(params, state):
        return [leaf.data_ptr() for leaf in tree.leaves((params, state)) if leaf.is_floating_point()]

    state = tx.init(params)
    before = buffers(params, state)
    assert buffers(*optim.apply_step(tx, make_grads(params, 0), state, params, finite=TRUE, donate=True)) == before


@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("name", FUSED)
def test_fused_step_heeds_strides(name, donate):
    params = {"w": torch.arange(12.0).reshape(4, 3).t(), "v": torch.arange(10.0).reshape(2, 5)}
    grads = {"w": torch.arange(-6.0, 6.0).reshape(3, 4), "v": torch.arange(5.0).expand(2, 5)}
    tx = MAKERS[name](0.1)
    expected, _ = optim.apply_step(tx._replace(step=None), grads, tx.init(params), params, finite=TRUE)
    actual, _ = optim.apply_step(tx, grads, tx.init(params), clone(params), finite=TRUE, donate=donate)
    assert_close(actual, expected, rtol=2e-6, atol=2e-6)


# Identities and the table of names


def test_sgd_without_momentum_is_a_step_down_the_gradient():
    params, grads = make_params(), make_grads(make_params(), 0)
    for nesterov in (False, True):
        tx = optim.sgd(0.25, momentum=0.0, nesterov=nesterov)
        new, _ = optim.apply_step(tx, grads, tx.init(params), params, finite=TRUE)
        assert_close(new, tree.map(lambda p, g: p - 0.25 * g, params, grads), rtol=1e-6, atol=1e-6)


def test_first_adamw_step_moves_every_parameter_by_the_learning_rate():
    params = {"w": torch.zeros(4)}
    grads = {"w": torch.tensor([1e-3, -2.0, 30.0, -4e2])}
    for fused in (False, True):
        tx = optim.adamw(0.5, eps=0.0, fused=fused)
        new, _ = optim.apply_step(tx, grads, tx.init(params), params, finite=TRUE)
        torch.testing.assert_close(new["w"], -0.5 * grads["w"].sign())


def test_lamb_does_not_care_for_the_gradients_size():
    params, grads = make_params(), make_grads(make_params(), 0)
    tx = optim.lamb(0.1, eps=0.0)
    small, _ = optim.apply_step(tx, grads, tx.init(params), params, finite=TRUE)
    large, _ = optim.apply_step(tx, tree.map(lambda g: 1024 * g, grads), tx.init(params), params, finite=TRUE)
    assert_close(large, small)


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        (OptimConfig(name="sgd"), optim.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=1e-5)),
        (
            OptimConfig(name="sgd", momentum=0.5, nesterov=False, weight_decay=0.2),
            optim.sgd(0.1, momentum=0.5, nesterov=False, weight_decay=0.2),
        ),
        (OptimConfig(name="adamw"), optim.adamw(0.1, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-5)),
        (
            OptimConfig(name="adamw", beta1=0.5, beta2=0.7, eps=0.1, weight_decay=0.2),
            optim.adamw(0.1, b1=0.5, b2=0.7, eps=0.1, weight_decay=0.2),
        ),
        (
            OptimConfig(name="lamb", beta1=0.5, beta2=0.7, eps=0.1, weight_decay=0.2),
            optim.lamb(0.1, b1=0.5, b2=0.7, eps=0.1, weight_decay=0.2),
        ),
        (
            OptimConfig(name="novograd", beta1=0.5, beta2=0.7, eps=0.1, weight_decay=0.2),
            optim.novograd(0.1, b1=0.5, b2=0.7, eps=0.1, weight_decay=0.2),
        ),
        (
            OptimConfig(
                name="muon",
                momentum=0.7,
                nesterov=False,
                beta1=0.5,
                beta2=0.7,
                eps=0.1,
                weight_decay=0.2,
                decay_matrices_only=True,
            ),
            optim.muon(
                0.1,
                momentum=0.7,
                nesterov=False,
                b1=0.5,
                b2=0.7,
                eps=0.1,
                weight_decay=0.2,
                mask=optim.transforms.matrices_only,
            ),
        ),
        (
            OptimConfig(name="sgd", weight_decay=0.2, decay_matrices_only=True),
            optim.sgd(0.1, weight_decay=0.2, mask=optim.transforms.matrices_only),
        ),
        (
            OptimConfig(name="lamb", weight_decay=0.2, decay_matrices_only=True),
            optim.lamb(0.1, eps=1e-8, weight_decay=0.2, mask=optim.transforms.matrices_only),
        ),
    ],
)
def test_the_configuration_names_the_optimizer(cfg, expected):
    actual = optim.from_config(cfg, 0.1)
    assert (actual.step is None) == (expected.step is None)
    assert_same_bits(train(actual, make_params(), steps=3), train(expected, make_params(), steps=3))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "muon", "novograd"])
def test_the_configuration_can_do_without_fused_steps(name):
    assert optim.from_config(OptimConfig(name=name), 0.1, fused=False).step is None


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon", "novograd"])
@pytest.mark.parametrize("beta", ["beta1", "beta2"])
def test_a_moment_that_never_forgets_is_refused(name, beta):
    with pytest.raises(InputError, match=f"optim.{beta}=1"):
        optim.from_config(OptimConfig(name=name, **{beta: 1.0}), 0.1)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("size", [1e19, 1e25])
def test_a_gradient_whose_square_overflows_leaves_the_parameters_finite(name, at, size):
    tx, params = MAKERS[name](0.01), make_params()
    state = tx.init(params)
    for step in range(8):
        grads = tree.map(lambda leaf, step=step: torch.full_like(leaf, size if step == at else 0.5), params)
        params, state = optim.apply_step(tx, grads, state, params, finite=TRUE)
        assert tree.all_finite(params), step


def test_novograd_goes_on_learning_after_a_gradient_whose_square_overflows():
    tx, params = optim.novograd(0.01, weight_decay=0.0), make_params()
    state = tx.init(params)
    for size, counts in ((0.5, True), (1e25, False), (0.5, True)):
        grads = tree.map(lambda leaf, size=size: torch.full_like(leaf, size), params)
        nu = clone(state[0].nu)
        updates, state = tx.update(grads, state, params)
        assert tree.all_finite((updates, state))
        assert counts or tree.leaves(nu) == tree.leaves(state[0].nu)
    assert tree.global_norm(updates) > 0.01
