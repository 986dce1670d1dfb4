"""train_step as one pure function: what it leaves alone, what it skips, what scaling and summing must not change."""

from functools import partial

import attrs
import pytest
import torch
from devices import like_cudnns
from live import peak_bytes

from ds2f import ctc, optim, steps, tree
from ds2f.config import ApexConfig, Config, ModelConfig, OptimConfig
from ds2f.grad import value_and_grad
from ds2f.types import SINGLE, Batch

MODEL = ModelConfig(hidden_size=6, hidden_layers=2, num_bins=17, labels=tuple("_AB "))
CFG = Config(model=MODEL, optim=OptimConfig(max_norm=400), apex=ApexConfig(loss_scale="1"))


def make_batch(*, size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([40, 33, 25, 38, 29, 31][:size])
    return Batch(
        features=torch.randn(size, 17, int(lengths.max()), generator=generator),
        lengths=lengths,
        labels=torch.randint(1, 4, (size, 4), generator=generator),
        label_lengths=torch.tensor([4, 3, 0, 2, 4, 1][:size]),
        ids=torch.arange(size),
        weight=torch.tensor(1.0 / size),
    )


def one_step(batch, *, cfg=CFG, tx=None, state=None, loss=None, collectives=SINGLE, donate=False):
    tx = tx or optim.sgd(0.1)
    state = state or steps.init_state(cfg, tx, key=1)
    loss = loss or steps.objective(cfg.model)
    new_state, metrics = steps.train_step(
        state, batch, loss=loss, tx=tx, collectives=collectives, cfg=cfg, donate=donate
    )
    return state, new_state, metrics


def assert_same_bits(a, b):
    for path, leaf in tree.flatten_with_paths(a).items():
        assert torch.equal(leaf, tree.flatten_with_paths(b)[path]), path


def clone(state):
    return tree.map(torch.clone, state)


@pytest.mark.parametrize("engine", ["func", "autograd"])
def test_loss_falls_and_arguments_stay_as_they_were(engine):
    cfg = attrs.evolve(CFG, training=attrs.evolve(CFG.training, engine=engine))
    tx, batch = optim.adamw(0.01), make_batch()
    state = steps.init_state(cfg, tx, key=1)
    before, batch_before, losses = clone(state), tree.map(torch.clone, batch), []
    for _ in range(15):
        previous = state
        state, metrics = steps.train_step(state, batch, loss=steps.objective(MODEL), tx=tx, cfg=cfg)
        losses.append(float(metrics.loss))
        if len(losses) == 1:
            assert_same_bits(previous, before)
    assert losses[-1] < losses[0] / 2
    assert int(state.step) == 15
    assert_same_bits(batch, batch_before)


def test_metrics_are_the_mean_loss_and_the_norm_of_its_gradient():
    batch = make_batch()
    state, _, metrics = one_step(batch)
    loss = steps.objective(MODEL)
    leaves, unflatten = tree.flatten(state.params)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    mean = loss(unflatten(leaves), state.stats, batch)[0].mean()
    grads = torch.autograd.grad(mean, leaves)
    torch.testing.assert_close(metrics.loss, mean.detach())
    expected = torch.cat([grad.reshape(-1) for grad in grads]).norm()
    torch.testing.assert_close(metrics.grad_norm, expected, rtol=1e-5, atol=0)


def test_gradients_above_max_norm_are_clipped_to_it():
    batch, limit = make_batch(), 0.01
    cfg = attrs.evolve(CFG, optim=OptimConfig(max_norm=limit))
    state, new_state, metrics = one_step(batch, cfg=cfg, tx=optim.sgd(1.0, momentum=0.0))
    moved = tree.global_norm(tree.map(torch.sub, state.params, new_state.params))
    assert float(metrics.grad_norm) > 10 * limit
    assert float(moved) == pytest.approx(limit, rel=1e-3)


@pytest.mark.parametrize("make_tx", [lambda: optim.adamw(0.01), lambda: optim.sgd(0.1)])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_donating_buffers_gives_the_same_bits(make_tx, decay):
    cfg = attrs.evolve(CFG, optim=OptimConfig(average_decay=decay))
    tx, batch = make_tx(), make_batch()
    kept = donated = steps.init_state(cfg, tx, key=1)
    donated = clone(donated)
    for _ in range(3):
        _, kept, _ = one_step(batch, cfg=cfg, tx=tx, state=kept)
        _, donated, _ = one_step(batch, cfg=cfg, tx=tx, state=donated, donate=True)
    assert_same_bits(kept, donated)


def test_averages_follow_parameters_and_statistics_and_change_nothing_else():
    cfg, plain_cfg = (attrs.evolve(CFG, optim=OptimConfig(average_decay=decay)) for decay in (0.15, 0.0))
    tx, batch = optim.adamw(0.01), make_batch()
    state, plain = (steps.init_state(each, tx, key=1) for each in (cfg, plain_cfg))
    assert plain.average == ()
    expected = (plain.params, plain.stats)
    assert_same_bits(state.model, expected)
    for step in range(3):
        _, state, _ = one_step(batch, cfg=cfg, tx=tx, state=state)
        _, plain, _ = one_step(batch, cfg=plain_cfg, tx=tx, state=plain)
        share = 1 - min(0.15, (1 + step) / (10 + step))
        expected = tree.map(lambda old, new: old + share * (new - old), expected, (plain.params, plain.stats))  # noqa: B023
    assert_same_bits(state._replace(average=()), plain)
    for path, leaf in tree.flatten_with_paths(expected).items():
        torch.testing.assert_close(tree.flatten_with_paths(state.model)[path], leaf)
    assert not [path for path in tree.flatten_with_names(plain) if path.startswith("average")]
    assert_same_bits(plain.model, (plain.params, plain.stats))


@pytest.mark.parametrize("scale", [2.0**-6, 2.0**15])
def test_a_power_of_two_as_loss_scale_changes_no_bit(scale):
    batch = make_batch()
    _, plain, _ = one_step(batch)
    _, scaled, metrics = one_step(batch, cfg=attrs.evolve(CFG, apex=ApexConfig(loss_scale=str(scale))))
    assert_same_bits(plain.params, scaled.params)
    assert float(metrics.loss_scale) == scale


@pytest.mark.parametrize("donate", [False, True])
def test_a_step_with_a_non_finite_gradient_changes_nothing_but_the_scale(donate):
    apex, averaged = ApexConfig(loss_scale="dynamic", initial_scale=1024), OptimConfig(average_decay=0.9)
    cfg = attrs.evolve(CFG, apex=apex, optim=averaged)
    tx, batch = optim.adamw(0.01), make_batch()
    _, state, _ = one_step(batch, cfg=cfg, tx=tx)
    before = clone(state)
    batch.features[1, 3, 7] = float("nan")
    _, after, metrics = one_step(batch, cfg=cfg, tx=tx, state=state, donate=donate)
    assert not bool(metrics.finite)
    assert_same_bits(after._replace(loss_scale=before.loss_scale), before)
    assert float(after.loss_scale.value) == 512


def test_an_utterance_whose_transcript_cannot_fit_counts_for_nothing():
    whole = make_batch(size=3)
    impossible = whole._replace(
        labels=torch.cat([whole.labels, torch.ones(3, 16, dtype=torch.int64)], dim=1),
        label_lengths=torch.tensor([4, 20, 0]),
        weight=torch.tensor(0.5),
    )
    _, after, metrics = one_step(impossible)
    assert metrics.losses.isinf().tolist() == [False, True, False]
    assert bool(metrics.finite)
    assert float(metrics.loss) == pytest.approx(float(metrics.losses[[0, 2]].mean()))
    assert tree.all_finite(after)


def test_a_batch_without_utterances_leaves_parameters_and_statistics_alone():
    empty = Batch(*(field[:0] if field.dim() else torch.zeros(()) for field in make_batch()))
    state, after, metrics = one_step(empty, tx=optim.sgd(0.1))
    assert bool(metrics.finite)
    assert_same_bits((state.params, state.stats), (after.params, after.stats))


class Mirror:
    """Stands for two ranks that hold the same utterances: a sum over them is twice one's own."""

    rank, size = 0, 2

    def all_reduce_async(self, buffer):
        buffer.mul_(2)
        return self

    def wait(self):
        return None

    def all_finite(self, flag):
        return flag


def test_two_ranks_with_half_the_weight_each_are_one_rank():
    batch = make_batch()
    _, single, _ = one_step(batch)
    _, doubled, metrics = one_step(batch._replace(weight=batch.weight / 2), collectives=Mirror())
    assert float(metrics.loss) == pytest.approx(float(metrics.losses.mean()))
    for ours, theirs in zip(tree.leaves(doubled.params), tree.leaves(single.params), strict=True):
        torch.testing.assert_close(ours, theirs)
    means = [
        tree.leaves(tree.map(lambda leaf: leaf, state.stats["output"]["norm"]["mean"])) for state in (single, doubled)
    ]
    torch.testing.assert_close(*means)


def plain_loss(params, stats, batch, *, key=None):
    return steps.objective(MODEL)(params, stats, batch, key=key)


@pytest.mark.parametrize("overlap", [True, False])
def test_an_objective_a_plain_function_and_a_list_of_stages_give_the_same_bits(overlap):
    batch, tx = make_batch(), optim.sgd(0.1)
    state = steps.init_state(CFG, tx, key=1)
    objective = steps.objective(MODEL)
    losses = [objective, plain_loss, objective.stages(state.stats, batch)]
    results = [
        steps.train_step(state, batch, loss=loss, tx=tx, collectives=Mirror(), cfg=CFG, overlap=overlap)
        for loss in losses
    ]
    for result in results[1:]:
        assert_same_bits(results[0], result)


def test_a_list_of_stages_takes_no_second_batch():
    batch, tx = make_batch(), optim.sgd(0.1)
    state = steps.init_state(CFG, tx, key=1)
    stages = steps.objective(MODEL).stages(state.stats, batch)
    with pytest.raises(ValueError, match="made for one batch"):
        steps.train_step(state, [batch, make_batch(seed=1)], loss=stages, tx=tx, cfg=CFG)
    assert_same_bits(*(steps.train_step(state, each, loss=stages, tx=tx, cfg=CFG) for each in (batch, [batch])))


def test_a_step_takes_the_engine_that_suits_the_device_of_its_state(monkeypatch):
    tx, asked = optim.sgd(0.1), []

    def for_cards(device):
        asked.append(device)
        return "autograd"

    monkeypatch.setattr(steps, "engine_for", for_cards)
    monkeypatch.setattr(torch, "lstm", like_cudnns(torch.lstm))
    steps.train_step(steps.init_state(CFG, tx, key=1), make_batch(), loss=steps.objective(MODEL), tx=tx, cfg=CFG)
    assert asked == [torch.device("cpu")]


def test_reductions_start_in_the_backward_pass_from_the_top_stage_down():
    started = []

    class Recorder(Mirror):
        def all_reduce_async(self, buffer):
            started.append(buffer.numel())
            return super().all_reduce_async(buffer)

    state, _, _ = one_step(make_batch(), collectives=Recorder())
    parts = [state.params["output"], state.params["rnn_1"], state.params["rnn_0"]["backward"]]
    parts += [state.params["rnn_0"]["forward"], state.params["conv"]]
    assert started[:5] == [tree.size(part) for part in parts]


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch():
    cfg = attrs.evolve(CFG, model=attrs.evolve(MODEL, sync_batch_norm=True))
    parts = [make_batch(size=2, seed=seed)._replace(weight=torch.tensor(0.25)) for seed in (3, 4)]
    tx = optim.sgd(0.1, momentum=0.0)
    state = steps.init_state(cfg, tx, key=1)
    loss = steps.objective(cfg.model)

    def mean(params):
        return torch.cat([loss(params, state.stats, part)[0] for part in parts]).mean()

    _, grads = value_and_grad(mean)(state.params)
    new_state, metrics = steps.train_step(state, parts, loss=loss, tx=tx, cfg=cfg)
    assert metrics.losses.shape == (4,)
    torch.testing.assert_close(metrics.loss, metrics.losses.mean())
    for path, leaf in tree.flatten_with_paths(new_state.params).items():
        expected = tree.flatten_with_paths(state.params)[path] - 0.1 * tree.flatten_with_paths(grads)[path]
        torch.testing.assert_close(leaf, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("engine", ["func", "autograd"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("collectives", [SINGLE, Mirror()])
def test_recomputing_activations_changes_no_bit(engine, bidirectional, collectives):
    tx, parts = optim.adamw(0.01), [make_batch(size=2, seed=seed) for seed in (3, 4)]
    results = []
    for remat in (False, True):
        model = attrs.evolve(MODEL, dropout=0.3, bidirectional=bidirectional, remat=remat)
        cfg = attrs.evolve(CFG, model=model, training=attrs.evolve(CFG.training, engine=engine))
        loss, state = steps.objective(model), steps.init_state(cfg, tx, key=1)
        for key in (5, 6):
            state, metrics = steps.train_step(
                state, parts, loss=loss, tx=tx, collectives=collectives, cfg=cfg, key=key, donate=True
            )
        results.append((state, metrics))
    assert_same_bits(*results)


def test_recomputing_activations_takes_less_memory():
    batch, tx, peaks = make_batch(size=6), optim.sgd(0.1), []
    batch = batch._replace(features=batch.features.repeat(1, 1, 5), lengths=batch.lengths * 5)
    for remat in (False, True):
        model = attrs.evolve(MODEL, hidden_size=16, hidden_layers=6, remat=remat)
        cfg = attrs.evolve(CFG, model=model)
        step = partial(steps.train_step, batch=batch, loss=steps.objective(model), tx=tx, cfg=cfg, donate=True)
        peaks.append(peak_bytes(partial(step, steps.init_state(cfg, tx, key=1))))
    assert peaks[1] < 0.5 * peaks[0]


@pytest.mark.parametrize("collectives", [SINGLE, Mirror()])
def test_more_micro_batches_need_no_more_memory_than_two(collectives):
    state, batch, tx = steps.init_state(CFG, optim.sgd(0.1), key=1), make_batch(), optim.sgd(0.1)

    def peak(count):
        return peak_bytes(
            lambda: steps.train_step(
                state, [batch] * count, loss=steps.objective(MODEL), tx=tx, collectives=collectives, cfg=CFG
            )
        )

    size = 4 * tree.size(state.params)
    assert peak(4) <= peak(2) + 0.05 * size


def test_parameters_that_are_only_added_up_are_scaled_once_each():
    batch, state = make_batch(), steps.init_state(CFG, optim.sgd(1.0), key=1)
    state = state._replace(params={"a": torch.zeros(3), "b": torch.zeros(3)}, stats={}, opt_state=None)
    cfg = attrs.evolve(CFG, apex=ApexConfig(loss_scale="8"))
    tx = optim.sgd(1.0, momentum=0.0, nesterov=False)

    def loss(params, stats, batch, *, key=None):
        return (params["a"] + params["b"]) * torch.tensor([1.0, 2.0, 3.0]), {}

    new_state, _ = steps.train_step(state._replace(opt_state=tx.init(state.params)), batch, loss=loss, tx=tx, cfg=cfg)
    for leaf in new_state.params.values():
        torch.testing.assert_close(leaf, -torch.tensor([1.0, 2.0, 3.0]) / 3)


def test_each_share_of_a_batch_draws_its_own_dropout():
    model = attrs.evolve(MODEL, dropout=0.5)
    tx, batch = optim.sgd(0.1), make_batch()
    state = steps.init_state(CFG, tx, key=1)
    _, metrics = steps.train_step(state, [batch, batch], loss=steps.objective(model), tx=tx, cfg=CFG, key=5)
    _, alone = steps.train_step(state, batch, loss=steps.objective(model), tx=tx, cfg=CFG, key=5)
    first, second = metrics.losses.split(3)
    assert torch.equal(first, alone.losses)
    assert not torch.allclose(first, second)


def test_an_overflow_that_only_the_device_noted_skips_the_step():
    cfg = attrs.evolve(CFG, apex=ApexConfig(loss_scale="dynamic", initial_scale=1024))
    tx, batch = optim.adamw(0.01), make_batch()
    state = steps.init_state(cfg, tx, key=1)
    for noted in (True, False):
        after, metrics = steps.train_step(
            state,
            batch,
            loss=steps.objective(MODEL),
            tx=tx,
            cfg=cfg,
            overflowed=lambda noted=noted: torch.tensor(noted),
        )
        assert bool(metrics.finite) is not noted
        assert int(after.step) == int(not noted)
        assert float(after.loss_scale.value) == (512 if noted else 1024)


def test_eval_step_leaves_statistics_alone_and_reports_losses():
    batch = make_batch()
    state = steps.init_state(CFG, optim.sgd(0.1), key=1)
    logits, losses = steps.eval_step(state.params, state.stats, batch, cfg=MODEL, criterion=ctc.native)
    assert logits.values.shape == (3, 20, 4)
    assert losses.shape == (3,)
    assert not logits.values.requires_grad
