"""value_and_grad against closed forms and torch.autograd, and its two engines against each other."""

import pytest
import torch
from devices import like_cudnns
from live import peak_bytes

from ds2f import grad, tree
from ds2f.types import Stage

ENGINES = ("func", "autograd")


def lstm_params(*, dtype=torch.float32, inputs=5, hidden=4):
    generator = torch.Generator().manual_seed(3)
    shapes = {"w_ih": (4 * hidden, inputs), "w_hh": (4 * hidden, hidden), "b_ih": (4 * hidden,), "b_hh": (4 * hidden,)}
    return {name: torch.randn(shape, generator=generator, dtype=dtype) / 2 for name, shape in shapes.items()}


def lstm_loss(params, x):
    weights = [params[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    zeros = x.new_zeros(1, x.shape[1], params["w_hh"].shape[1])
    y, _, _ = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, False, False, False)
    return (y**2).sum(), {"mean": y.mean()}


@pytest.mark.parametrize("engine", ENGINES)
def test_gradient_of_a_quadratic_is_its_closed_form(engine):
    params = {"b": torch.tensor([1.0, -2.0]), "a": [torch.tensor(3.0)]}
    value, grads = grad.value_and_grad(lambda p: (p["b"] ** 2).sum() + 5 * p["a"][0], engine=engine)(params)
    assert value == 20
    assert torch.equal(grads["b"], torch.tensor([2.0, -4.0]))
    assert grads["a"][0] == 5
    assert not any(leaf.requires_grad for leaf in tree.leaves((params, grads, value)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_engines_give_the_same_bits_through_the_fused_lstm(dtype):
    params, x = lstm_params(dtype=dtype), torch.randn(7, 3, 5, dtype=dtype)
    results = [grad.value_and_grad(lstm_loss, has_aux=True, engine=engine)(params, x) for engine in ENGINES]
    leaf = {name: value.clone().requires_grad_() for name, value in params.items()}
    lstm_loss(leaf, x)[0].backward()
    for (value, aux), grads in results:
        assert torch.equal(value, results[0][0][0])
        assert torch.equal(aux["mean"], results[0][0][1]["mean"])
        assert all(torch.equal(grads[name], leaf[name].grad) for name in params)


def test_the_engine_for_cards_lets_operators_look_for_the_memory_of_their_weights(monkeypatch):
    params, x = lstm_params(), torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(0))
    _, expected = grad.value_and_grad(lstm_loss, has_aux=True)(params, x)
    monkeypatch.setattr(torch, "lstm", like_cudnns(torch.lstm))
    engines = [grad.engine_for(torch.device(name)) for name in ("cpu", "cuda", "meta")]
    assert engines == ["func", "autograd", "autograd"]
    _, found = grad.value_and_grad(lstm_loss, has_aux=True, engine=engines[1])(params, x)
    assert all(torch.equal(found[name], leaf) for name, leaf in expected.items())
    with pytest.raises(NotImplementedError, match="Cannot access storage of TensorWrapper"):
        grad.value_and_grad(lstm_loss, has_aux=True, engine="func")(params, x)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_leaf_that_the_value_ignores_has_zero_gradient(engine):
    params = {"used": torch.ones(2), "unused": torch.ones(3)}
    _, grads = grad.value_and_grad(lambda p: p["used"].sum(), engine=engine)(params)
    assert torch.equal(grads["unused"], torch.zeros(3))


@pytest.mark.parametrize("engine", ENGINES)
def test_differentiating_through_it_is_refused(engine):
    square = grad.value_and_grad(lambda p: (p**2).sum(), engine=engine)
    with pytest.raises(RuntimeError, match=r"torch\.func\.grad"):
        torch.func.grad(lambda p: square(p)[1].sum())(torch.ones(2))
    with pytest.raises(RuntimeError, match="silently give zeros"):
        torch.vmap(lambda p: square(p)[1])(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="detached"):
        square(torch.ones(2, requires_grad=True))


def test_an_unknown_engine_is_refused_by_name():
    with pytest.raises(ValueError, match="func, autograd"):
        grad.value_and_grad(lambda p: p, engine="jax")


def chain():
    def first(params, x):
        return torch.tanh(x @ params["w"]), {"first": params["w"].mean()}

    def second(params, x):
        return torch.tanh(x @ params["w"] + params["b"]), {}

    def last(_, x):
        return (x**3).sum(), {}

    return [Stage("first", first), Stage("second", second), Stage("last", last)]


@pytest.mark.parametrize("engine", ENGINES)
def test_stages_give_the_bits_of_their_composition_and_hand_gradients_out_from_the_top(engine):
    generator = torch.Generator().manual_seed(0)
    params = {
        "first": {"w": torch.randn(3, 4, generator=generator)},
        "second": {"b": torch.randn(2, generator=generator), "w": torch.randn(4, 2, generator=generator)},
    }
    x, stages, seen = torch.randn(5, 3, generator=generator), chain(), []

    def composed(p):
        y = x
        for stage in stages:
            y, _ = stage.fn(p.get(stage.name, {}), y)
        return y

    value, grads = grad.value_and_grad(composed)(params)
    run = grad.staged_value_and_grad(stages, on_grads=lambda name, _: seen.append(name), engine=engine)
    (staged_value, aux), staged_grads = run(params, x)
    assert torch.equal(value, staged_value)
    assert aux["first"]["first"] == params["first"]["w"].mean()
    assert seen == ["second", "first"]
    for ours, theirs in zip(tree.leaves(staged_grads), tree.leaves(grads), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("engine", ENGINES)
def test_stages_may_hand_on_tuples_and_lie_anywhere_in_the_parameters(engine):
    generator = torch.Generator().manual_seed(1)
    params = {"a": {"x": torch.randn(3, 3, generator=generator), "y": torch.randn(3, 3, generator=generator)}}

    def both(p, x):
        return (x, x @ p), {}

    def joined(p, pair):
        return (pair[1] + torch.tanh(pair[0] @ p)).square().sum(), {}

    x = torch.randn(2, 3, generator=generator)
    stages = [Stage("a/x", both), Stage("a/y", joined)]
    _, grads = grad.staged_value_and_grad(stages, engine=engine)(params, x)
    first, second = (leaf.clone().requires_grad_() for leaf in (params["a"]["x"], params["a"]["y"]))
    expected = torch.autograd.grad(joined(second, both(first, x)[0])[0], [first, second])
    assert torch.equal(grads["a"]["x"], expected[0])
    assert torch.equal(grads["a"]["y"], expected[1])


def test_stages_that_share_parameters_are_refused_by_name():
    def times(w, x):
        return w * x, ()

    def total(w, x):
        return (w * x).sum(), ()

    params = {"a": torch.tensor(3.0), "b": {"c": torch.tensor(2.0)}}
    with pytest.raises(ValueError, match="two stages have one name: a, b, a"):
        grad.staged_value_and_grad([Stage("a", times), Stage("b", times), Stage("a", total)])
    for first, second in (("", "a"), ("b/c", "b"), ("b", "b/c")):
        differentiate = grad.staged_value_and_grad([Stage(first, times), Stage(second, total)])
        with pytest.raises(ValueError, match=f"stages .*{second}.* share parameters"):
            differentiate(params, torch.ones(()))
    without = [Stage("", lambda p, x: (p["a"] * x, ())), Stage("none", lambda _, y: (y.sum(), ()))]
    _, grads = grad.staged_value_and_grad(without)(params, torch.ones(2))
    assert grads["a"] == 2


def test_what_on_grads_returns_takes_the_place_of_the_gradients():
    params = {"first": {"w": torch.ones(3, 4)}, "second": {"w": torch.ones(4, 2), "b": torch.ones(2)}}

    def doubled_below(name, grads):
        return tree.map(lambda leaf: 2 * leaf, grads) if name == "first" else None

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    _, plain = grad.staged_value_and_grad(chain())(params, x)
    _, replaced = grad.staged_value_and_grad(chain(), on_grads=doubled_below)(params, x)
    assert torch.equal(replaced["first"]["w"], 2 * plain["first"]["w"])
    assert torch.equal(replaced["second"]["b"], plain["second"]["b"])


def test_one_stage_over_all_parameters_is_value_and_grad():
    params = lstm_params()
    x = torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(0))
    (value, _), grads = grad.value_and_grad(lstm_loss, has_aux=True)(params, x)
    (staged_value, _), staged = grad.staged_value_and_grad([Stage("", lstm_loss)])(params, x)
    assert torch.equal(value, staged_value)
    assert all(torch.equal(grads[name], staged[name]) for name in params)


@pytest.mark.parametrize("remat", [False, True])
def test_recomputation_runs_every_stage_but_the_last_twice_and_from_the_top_down(remat):
    params = {"first": {"w": torch.ones(3, 4)}, "second": {"w": torch.ones(4, 2), "b": torch.ones(2)}}
    ran = []

    def noted(stage):
        def fn(p, x):
            ran.append(stage.name)
            return stage.fn(p, x)

        return stage._replace(fn=fn)

    grad.staged_value_and_grad([noted(stage) for stage in chain()], remat=remat)(params, torch.ones(5, 3))
    assert ran == ["first", "second", "last"] + (["second", "first"] if remat else [])


@pytest.mark.parametrize("engine", ENGINES)
def test_recomputation_gives_the_same_bits_and_auxiliary_outputs(engine):
    generator = torch.Generator().manual_seed(0)
    params = {
        "lstm": lstm_params(),
        "first": {"w": torch.randn(4, 4, generator=generator)},
        "second": {"b": torch.randn(2, generator=generator), "w": torch.randn(4, 2, generator=generator)},
    }

    def layer(p, x):
        zeros = x.new_zeros(1, x.shape[1], 4)
        y, *_ = torch.lstm(
            x, (zeros, zeros), [p[n] for n in ("w_ih", "w_hh", "b_ih", "b_hh")], True, 1, 0.0, False, False, False
        )
        return y, {"mean": y.mean()}

    stages, x = [Stage("lstm", layer), *chain()], torch.randn(7, 3, 5, generator=generator)
    (value, aux), grads = grad.staged_value_and_grad(stages, engine=engine)(params, x)
    (again, aux_again), grads_again = grad.staged_value_and_grad(stages, engine=engine, remat=True)(params, x)
    for ours, theirs in zip(
        tree.leaves((again, aux_again, grads_again)), tree.leaves((value, aux, grads)), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("engine", ENGINES)
def test_recomputation_needs_little_more_memory_than_the_inputs_of_the_stages(engine):
    def deep(p, x):
        for _ in range(8):
            x = torch.tanh(x * p)
        return x, {}

    def last(_, x):
        return x.square().sum(), {}

    depth, x = 10, torch.ones(1000, 8)
    params = {f"{index}": torch.full((1000, 8), 0.9) for index in range(depth)}
    stages = [*(Stage(name, deep) for name in params), Stage("last", last)]
    size = x.numel() * 4
    kept, recomputed = (
        peak_bytes(lambda remat=remat: grad.staged_value_and_grad(stages, engine=engine, remat=remat)(params, x))
        for remat in (False, True)
    )
    assert kept >= 8 * depth * size  # every tanh keeps its result
    assert recomputed <= (2 * depth + 2 * 8 + 4) * size  # inputs and gradients of all stages, what one of them keeps


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stages_gradients_are_not_held_when_its_caller_has_put_them_elsewhere(engine):
    def layer(p, x):
        return torch.tanh(x @ p), {}

    depth, x = 12, torch.ones(2, 100)
    params = {f"{index}": torch.full((100, 100), 0.01) for index in range(depth)}
    stages = [*(Stage(name, layer) for name in params), Stage("last", lambda _, x: (x.sum(), {}))]
    run = grad.staged_value_and_grad(stages, on_grads=lambda name, grads: torch.zeros(()), engine=engine)
    assert peak_bytes(lambda: run(params, x)) <= 1.5 * params["0"].numel() * 4


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_the_terms_of_a_sum_share_no_memory(engine):
    params = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(3)}
    _, grads = grad.value_and_grad(lambda p: 2 * (p["a"] + p["b"]).sum() + p["c"].sum(), engine=engine)(params)
    for leaf in grads.values():
        leaf.mul_(5)
    assert torch.equal(grads["a"], torch.full((2,), 10.0))
    assert torch.equal(grads["b"], torch.full((2,), 10.0))
    assert torch.equal(grads["c"], torch.full((3,), 5.0))
