import itertools

import attrs
import pytest
import torch
from reference_model import ReferenceModel, lively_model
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ds2f import tree
from ds2f.config import ModelConfig
from ds2f.convert import to_reference
from ds2f.grad import staged_value_and_grad
from ds2f.model import deepspeech2, layers, recurrent
from ds2f.precision import FULL, Policy
from ds2f.types import Logits, Stage

SMALL = ModelConfig(hidden_size=8, hidden_layers=3, num_bins=33, lookahead_context=4)
DOUBLE = Policy(torch.float64, torch.float64)
BF16 = Policy(torch.bfloat16, torch.bfloat16)
KINDS = list(itertools.product(["lstm", "gru", "rnn"], [True, False]))
KINDS_AND_KERNELS = [
    (*kind, kernel)
    for kind in KINDS
    for kernel in recurrent.KERNELS
    if kind[0] in {"hoisted": ("lstm",), "paired": ("lstm", "gru")}.get(kernel, recurrent.GATES)
]
LENGTHS = torch.tensor([31, 40, 17, 5])


def configured(rnn_type, bidirectional, kernel="fused"):
    return attrs.evolve(SMALL, rnn_type=rnn_type, bidirectional=bidirectional, kernel=kernel)


def speech(lengths, *, seed=0, dtype=torch.float32, size=None, bins=33):
    """Features [B, F, T] with zeros past each end."""
    size = size or int(lengths.max())
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(lengths), bins, size, generator=generator, dtype=torch.float64).to(dtype)
    return features.masked_fill(torch.arange(size) >= lengths[:, None, None], 0)


def twin(cfg, params, stats):
    module = ReferenceModel(cfg).to(tree.leaves(params)[0].dtype)
    module.load_state_dict(to_reference(cfg, params, stats))
    return module


def valid(logits):
    return [values[:length] for values, length in zip(logits.values, logits.lengths.tolist(), strict=True)]


def training_pass(params, stats, features, *, cfg, policy=FULL):
    """Logits and moments of utterances of ``LENGTHS``."""
    x, moments = features, {}
    for stage in deepspeech2.stages(cfg, stats, LENGTHS, train=True, policy=policy):
        x, moments[stage.name] = stage.fn(params[stage.name], x)
    return Logits(x, deepspeech2.output_lengths(LENGTHS, time_stride=cfg.time_stride)), moments


def composed(chain, params, x):
    for stage in chain:
        x, _ = stage.fn(tree.subtree(params, stage.name), x)
    return x


def same_bits(first, second):
    return all(torch.equal(a, b) for a, b in zip(tree.leaves(first), tree.leaves(second), strict=True))


@pytest.mark.parametrize(("rnn_type", "bidirectional", "kernel"), KINDS_AND_KERNELS)
def test_evaluation_equals_the_reference_on_unequal_lengths(rnn_type, bidirectional, kernel):
    cfg = configured(rnn_type, bidirectional, kernel)
    params, stats = lively_model(cfg)
    features = speech(LENGTHS)
    with torch.no_grad():
        expected, lengths = twin(cfg, params, stats).eval()(features, LENGTHS)
    logits, same_stats = deepspeech2.apply(params, stats, features, LENGTHS, cfg=cfg, train=False)
    assert logits.values.shape == expected.shape == (4, 20, 29)
    assert torch.equal(logits.lengths, lengths)
    assert same_stats is stats
    for ours, theirs in zip(valid(logits), valid(Logits(expected, lengths)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("strides", [{"time_stride": 4}, {"time_stride": 6}, {"time_stride": 4, "frequency_stride": 8}])
def test_a_longer_stride_equals_the_reference_on_unequal_lengths(strides):
    cfg = attrs.evolve(SMALL, **strides)
    params, stats = lively_model(cfg)
    module = ReferenceModel(cfg)
    usual = attrs.evolve(cfg, time_stride=2, frequency_stride=4)  # the same names whatever the strides
    module.load_state_dict(to_reference(usual, params, stats))
    with torch.no_grad():
        expected, lengths = module.eval()(speech(LENGTHS), LENGTHS)
    logits, _ = deepspeech2.apply(params, stats, speech(LENGTHS), LENGTHS, cfg=cfg, train=False)
    assert torch.equal(logits.lengths, lengths)
    for ours, theirs in zip(valid(logits), valid(Logits(expected, lengths)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("rnn_type", "bidirectional", "kernel"), KINDS_AND_KERNELS)
def test_a_training_step_equals_the_reference_on_equal_lengths(rnn_type, bidirectional, kernel):
    cfg = configured(rnn_type, bidirectional, kernel)
    params, stats = lively_model(cfg, dtype=torch.float64)
    lengths, labels, label_lengths = torch.tensor([36, 36, 36]), torch.randint(1, 29, (3, 5)), torch.tensor([5, 3, 4])
    features = speech(lengths, dtype=torch.float64)

    def ctc(values, frames):
        return F.ctc_loss(values.log_softmax(-1).transpose(0, 1), labels, frames, label_lengths, reduction="sum")

    module = twin(cfg, params, stats).train()
    expected = ctc(*module(features, lengths))
    expected.backward()

    def loss(params):
        logits, new_stats = deepspeech2.apply(params, stats, features, lengths, cfg=cfg, train=True, policy=DOUBLE)
        return ctc(*logits), new_stats

    value, pullback, new_stats = torch.func.vjp(loss, params, has_aux=True)
    with torch.no_grad():
        (grads,) = pullback(torch.ones_like(value))
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    ours = to_reference(cfg, grads, new_stats)
    unmoved = {"conv.seq_module.0.bias", "conv.seq_module.3.bias"}  # batch norm takes them off again: rounding only
    for name, parameter in module.named_parameters():
        if name not in unmoved:
            error = torch.linalg.vector_norm(ours[name] - parameter.grad) / torch.linalg.vector_norm(parameter.grad)
            assert error < 1e-9, name
    for name, buffer in module.named_buffers():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(ours[name], buffer, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("rnn_type", "bidirectional"), KINDS)
def test_an_utterances_logits_do_not_depend_on_its_batch(rnn_type, bidirectional):
    """To 1e-5: matrix products of other sizes add in another order."""
    cfg = configured(rnn_type, bidirectional)
    params, stats = lively_model(cfg)
    features = speech(LENGTHS)
    together, _ = deepspeech2.apply(params, stats, features, LENGTHS, cfg=cfg, train=False)
    for index, length in enumerate(LENGTHS.tolist()):
        own = features[index : index + 1, :, :length]
        alone, _ = deepspeech2.apply(params, stats, own, LENGTHS[index : index + 1], cfg=cfg, train=False)
        torch.testing.assert_close(alone.values[0], valid(together)[index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("poison", [1e30, torch.nan])
def test_padding_changes_neither_logits_nor_statistics(bidirectional, train, poison):
    cfg = configured("lstm", bidirectional)
    params, stats = lively_model(cfg)
    clean, clean_stats = deepspeech2.apply(params, stats, speech(LENGTHS), LENGTHS, cfg=cfg, train=train)
    longer = F.pad(speech(LENGTHS), (0, 13)).masked_fill(torch.arange(53) >= LENGTHS[:, None, None], poison)
    logits, new_stats = deepspeech2.apply(params, stats, longer, LENGTHS, cfg=cfg, train=train)
    for ours, expected in zip(valid(logits), valid(clean), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    for ours, expected in zip(tree.leaves(new_stats), tree.leaves(clean_stats), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_padding_does_not_change_gradients():
    params, stats = lively_model(SMALL)
    longer = F.pad(speech(LENGTHS), (0, 13)).masked_fill(torch.arange(53) >= LENGTHS[:, None, None], 1e30)

    def gradient(features):
        def loss(params):
            logits, _ = deepspeech2.apply(params, stats, features, LENGTHS, cfg=SMALL, train=True)
            return sum(values.square().sum() for values in valid(logits))

        value, pullback = torch.func.vjp(loss, params)
        with torch.no_grad():
            return tree.flatten_with_names(pullback(torch.ones_like(value))[0])

    ours, expected = gradient(longer), gradient(speech(LENGTHS))
    for path, leaf in expected.items():
        if path not in {"conv/layers/0/bias", "conv/layers/1/bias"}:  # batch norm takes them off again: rounding only
            assert torch.linalg.vector_norm(ours[path] - leaf) < 1e-3 * torch.linalg.vector_norm(leaf), path


@pytest.mark.parametrize("train", [True, False])
def test_apply_is_the_composition_of_the_stages(train):
    params, stats = lively_model(SMALL)
    features = speech(LENGTHS)
    logits, new_stats = deepspeech2.apply(params, stats, features, LENGTHS, cfg=SMALL, train=train)
    chain = deepspeech2.stages(SMALL, stats, LENGTHS, train=train)
    assert [stage.name for stage in chain] == ["conv", "rnn_0", "rnn_1", "rnn_2", "output"]
    x, moments = features, {}
    for stage in chain:
        x, moments[stage.name] = stage.fn(params[stage.name], x)
    assert torch.equal(x, logits.values)
    if train:
        assert same_bits(deepspeech2.update_stats(stats, moments), new_stats)
    else:
        assert not any(moments.values())


@pytest.mark.parametrize("policy", [FULL, BF16])
def test_the_first_recurrent_layer_in_two_stages_gives_the_same_bits(policy):
    cfg = SMALL
    params, stats = lively_model(cfg)
    results = []
    for split in (False, True):
        chain = deepspeech2.stages(cfg, stats, LENGTHS, train=True, policy=policy, split_first=split)
        total = Stage("total", lambda _, logits: ((logits**2).sum(), {}))
        results.append(staged_value_and_grad([*chain, total])(params, speech(LENGTHS)))
    assert [stage.name for stage in chain][:4] == ["conv", "rnn_0/forward", "rnn_0/backward", "rnn_1"]
    (whole, whole_grads), (halves, halves_grads) = results
    assert torch.equal(whole[0], halves[0])
    assert same_bits(whole_grads, halves_grads)
    scan = attrs.evolve(cfg, kernel="scan")  # reads the other direction without turning it round: rounds differently
    values = [
        deepspeech2.stages(scan, stats, LENGTHS, train=True, policy=DOUBLE, split_first=split)
        for split in (True, False)
    ]
    double_params = tree.cast(params, torch.float64)
    torch.testing.assert_close(*[composed(chain, double_params, speech(LENGTHS).double()) for chain in values])
    one_way = attrs.evolve(cfg, bidirectional=False)
    _, stats = lively_model(one_way)
    names = [stage.name for stage in deepspeech2.stages(one_way, stats, LENGTHS, train=True, split_first=True)]
    assert names == ["conv", "rnn_0", "rnn_1", "rnn_2", "output"]


def test_stages_cut_features_to_the_longest_utterance_unless_told_their_size():
    params, stats = lively_model(SMALL)
    features = speech(LENGTHS, size=64)
    for frames, expected in ((None, 20), (64, 32)):
        x = features
        for stage in deepspeech2.stages(SMALL, stats, LENGTHS, train=False, frames=frames):
            x, _ = stage.fn(params[stage.name], x)
        assert x.shape == (4, expected, 29)


@pytest.mark.parametrize("policy", [FULL, BF16])
def test_applying_twice_gives_the_same_bits_and_leaves_the_arguments(policy):
    cfg = attrs.evolve(SMALL, dropout=0.3)
    params, stats = lively_model(cfg)
    features = speech(LENGTHS)
    before = tree.map(torch.clone, [params, stats, features, LENGTHS])
    first, second = (
        deepspeech2.apply(params, stats, features, LENGTHS, cfg=cfg, train=True, key=4, policy=policy) for _ in range(2)
    )
    assert same_bits(first, second)
    assert same_bits(before, [params, stats, features, LENGTHS])


@pytest.mark.parametrize("policy", [Policy(torch.bfloat16, torch.float32), BF16])
@pytest.mark.parametrize(("rnn_type", "bidirectional"), KINDS)
def test_half_precision_follows_full_precision_and_gives_float32_gradients(rnn_type, bidirectional, policy):
    cfg = configured(rnn_type, bidirectional)
    params, stats = lively_model(cfg)
    features, results = speech(LENGTHS), []
    for each in (FULL, policy):

        def loss(params, each=each):
            logits, moments = training_pass(params, stats, features, cfg=cfg, policy=each)
            assert logits.values.dtype == torch.float32
            return torch.stack([values.square().mean() for values in valid(logits)]).mean(), moments

        value, pullback, moments = torch.func.vjp(loss, params, has_aux=True)
        with torch.no_grad():
            (grads,) = pullback(torch.ones_like(value))
        assert all(leaf.dtype == torch.float32 for leaf in [*tree.leaves(grads), *tree.leaves(moments)])
        results.append((value, grads))
    (full, full_grads), (half, half_grads) = results
    torch.testing.assert_close(half, full, rtol=0.05, atol=0)
    difference = tree.global_norm(tree.map(torch.sub, half_grads, full_grads))
    assert difference < 0.25 * tree.global_norm(full_grads)


def test_a_float64_policy_computes_in_float64_throughout():
    params, stats = lively_model(SMALL, dtype=torch.float64)
    logits, new_stats = deepspeech2.apply(
        params, stats, speech(LENGTHS, dtype=torch.float64), LENGTHS, cfg=SMALL, train=True, policy=DOUBLE
    )
    assert logits.values.dtype == torch.float64
    assert all(leaf.dtype == torch.float64 for leaf in tree.leaves(new_stats))
    single = deepspeech2.apply(
        *tree.cast([params, stats], torch.float32), speech(LENGTHS), LENGTHS, cfg=SMALL, train=True
    )[0]
    for exact, rounded in zip(valid(logits), valid(single), strict=True):
        assert 0 < (exact - rounded).abs().max() < 1e-3


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_batch_without_frames_gives_zeros_for_gradients_and_leaves_the_statistics(train, bidirectional):
    cfg = configured("lstm", bidirectional)
    params, stats = lively_model(cfg)
    for batch, size in ((0, 20), (2, 20), (2, 0), (0, 0)):
        features, lengths = torch.zeros(batch, 33, size), torch.zeros(batch, dtype=torch.int64)

        def loss(params, features=features, lengths=lengths):
            logits, new_stats = deepspeech2.apply(params, stats, features, lengths, cfg=cfg, train=train)
            return sum((values.sum() for values in valid(logits)), logits.values.sum() * 0), new_stats

        value, pullback, new_stats = torch.func.vjp(loss, params, has_aux=True)
        with torch.no_grad():
            (grads,) = pullback(torch.ones_like(value))
        assert same_bits(new_stats, stats)
        assert not any(leaf.any() for leaf in tree.leaves(grads))


def test_dropout_follows_its_key_and_rests_in_evaluation():
    cfg = attrs.evolve(SMALL, dropout=0.4)
    params, stats = lively_model(cfg)

    def values(**options):
        return deepspeech2.apply(params, stats, speech(LENGTHS), LENGTHS, cfg=cfg, **options)[0].values

    torch.manual_seed(1)
    first = values(train=True, key=1)
    torch.manual_seed(2)
    assert torch.equal(first, values(train=True, key=1))
    assert not torch.equal(first, values(train=True, key=2))
    plain = deepspeech2.apply(params, stats, speech(LENGTHS), LENGTHS, cfg=SMALL, train=False)[0].values
    assert torch.equal(values(train=False, key=1), plain)
    with pytest.raises(ValueError, match="pass key="):
        values(train=True)


def test_dropout_reaches_every_layer_but_the_first():
    cfg = attrs.evolve(SMALL, dropout=0.4)
    params, stats = lively_model(cfg)
    x, changed = speech(LENGTHS), []
    chains = [deepspeech2.stages(cfg, stats, LENGTHS, train=True, key=key) for key in (1, 2)]
    for first, second in zip(*chains, strict=True):
        outputs = [stage.fn(params[stage.name], x)[0] for stage in (first, second)]
        changed.append(not torch.equal(*outputs))
        x = outputs[0]
    assert changed == [False, False, True, True, True]


def test_variational_dropout_is_handed_to_every_layer_that_drops(monkeypatch):
    cfg = attrs.evolve(SMALL, dropout=0.4, variational_dropout=True)
    params, stats = lively_model(cfg)
    asked = []
    monkeypatch.setattr(layers, "dropout", lambda x, *, rate, key, same_frames: asked.append(same_frames) or x)
    deepspeech2.apply(params, stats, speech(LENGTHS), LENGTHS, cfg=cfg, train=True, key=1)
    assert asked == [True] * 3


def test_every_layer_drops_other_elements(monkeypatch):
    cfg = attrs.evolve(SMALL, dropout=0.4)
    params, stats = lively_model(cfg)
    keys = []
    monkeypatch.setattr(layers, "dropout", lambda x, *, rate, key, same_frames: keys.append((rate, key)) or x)
    deepspeech2.apply(params, stats, speech(LENGTHS), LENGTHS, cfg=cfg, train=True, key=1)
    assert len(set(keys)) == 3
    assert {rate for rate, _ in keys} == {0.4}


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("split_first", [True, False])
def test_the_intermediate_layer_reads_the_middle_one_and_changes_nothing_else(depth, split_first):
    cfg = attrs.evolve(SMALL, hidden_layers=depth, intermediate_ctc=0.3)
    params, stats = lively_model(cfg)
    chain = deepspeech2.stages(cfg, stats, LENGTHS, train=True, intermediate=True, split_first=split_first)
    logits, scores = composed(chain, params, speech(LENGTHS))
    plain = deepspeech2.stages(cfg, stats, LENGTHS, train=True)
    assert torch.equal(logits, composed(plain, params, speech(LENGTHS)))
    middle = composed(plain[: {1: 2, 2: 2, 3: 3, 5: 4}[depth]], params, speech(LENGTHS))
    torch.testing.assert_close(scores, (middle @ params["intermediate"]["weight"].T).transpose(0, 1))


def test_moments_are_detached_from_the_parameters():
    params, stats = lively_model(SMALL)
    params = tree.map(lambda leaf: leaf.requires_grad_(), params)
    logits, moments = training_pass(params, stats, speech(LENGTHS), cfg=SMALL)
    assert logits.values.requires_grad
    assert not any(leaf.requires_grad for leaf in tree.leaves(moments))


def test_lengths_beyond_the_features_are_refused():
    params, stats = lively_model(SMALL)
    with pytest.raises(ValueError, match="40 frames does not fit into features of 39"):
        deepspeech2.apply(params, stats, speech(LENGTHS)[..., :39], LENGTHS, cfg=SMALL, train=False)


class CountReads(TorchDispatchMode):
    """Counts how often the host reads a tensor's value."""

    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.reads += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kernel", recurrent.KERNELS)
def test_nothing_is_read_back_but_the_longest_length_which_is_on_the_host(kernel):
    cfg = configured("lstm", True, kernel)
    params, stats = lively_model(cfg)
    features = speech(LENGTHS)
    with CountReads() as counter:
        deepspeech2.apply(params, stats, features, LENGTHS, cfg=cfg, train=True)
    assert counter.reads == 1


def test_another_kernel_is_used_when_one_is_passed():
    params, stats = lively_model(SMALL)
    calls = []

    def counting(x, frames, state, weights):
        calls.append(x.shape)
        return recurrent.scan("lstm")(x, frames, state, weights)

    deepspeech2.apply(params, stats, speech(LENGTHS), LENGTHS, cfg=SMALL, train=False, kernel=counting)
    assert len(calls) == 3


def test_the_whole_model_is_vmapped_over_an_ensemble_with_the_scan_kernel():
    cfg = configured("lstm", True, "scan")
    members = [lively_model(cfg, key=key)[0] for key in (1, 2)]
    _, stats = lively_model(cfg)
    stacked = tree.map(lambda *leaves: torch.stack(leaves), *members)
    features = speech(LENGTHS)

    def values(params):
        return deepspeech2.apply(params, stats, features, LENGTHS, cfg=cfg, train=True)[0].values

    for member, together in zip(members, torch.func.vmap(values)(stacked), strict=True):
        torch.testing.assert_close(together, values(member), rtol=0, atol=1e-4)


def test_a_second_derivative_with_the_scan_kernel_agrees_with_finite_differences():
    cfg = ModelConfig(hidden_size=3, hidden_layers=2, num_bins=5, labels=tuple("_AB"), kernel="scan")
    params, stats = lively_model(cfg, dtype=torch.float64)
    lengths = torch.tensor([6, 4])
    features = speech(lengths, dtype=torch.float64, bins=5)
    generator = torch.Generator().manual_seed(1)
    direction = tree.map(lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype), params)

    def loss(params):
        logits, _ = deepspeech2.apply(params, stats, features, lengths, cfg=cfg, train=False, policy=DOUBLE)
        return sum(values.square().sum() for values in valid(logits))

    gradient = torch.func.grad(loss)

    def slope(params):
        return sum((g * move).sum() for g, move in zip(*map(tree.leaves, (gradient(params), direction)), strict=True))

    curvature = torch.func.grad(slope)(params)
    step = 1e-6
    ahead, behind = (
        gradient(tree.map(lambda leaf, move, sign=sign: leaf + sign * step * move, params, direction))
        for sign in (1, -1)
    )
    numeric = tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)
    error = tree.global_norm(tree.map(torch.sub, curvature, numeric)) / tree.global_norm(numeric)
    assert error < 1e-5


@pytest.mark.parametrize("kernel", ["scan", "fused", "hoisted", "paired"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_vmap_over_batches_with_lengths_or_over_parameters_gives_what_a_loop_gives(kernel, bidirectional, train):
    cfg = ModelConfig(hidden_size=4, hidden_layers=2, num_bins=9, kernel=kernel, bidirectional=bidirectional)
    models = [deepspeech2.init(cfg, key=key) for key in range(3)]
    features = torch.randn(3, 2, 9, 12, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([[12, 5], [8, 1], [3, 12]])

    def run(params, stats, features, lengths):
        logits, stats = deepspeech2.apply(params, stats, features, lengths, cfg=cfg, train=train)
        return logits.values, logits.lengths, stats

    stacked = tree.map(lambda *leaves: torch.stack(leaves), *models)
    for found, expected in (
        (
            torch.func.vmap(run, (None, None, 0, 0))(*models[0], features, lengths),
            [run(*models[0], *batch) for batch in zip(features, lengths, strict=True)],
        ),
        (
            torch.func.vmap(run, (0, 0, None, None))(*stacked, features[0], lengths[0]),
            [run(*model, features[0], lengths[0]) for model in models],
        ),
        (
            torch.func.vmap(run)(*stacked, features, lengths),
            [run(*model, *batch) for model, batch in zip(models, zip(features, lengths, strict=True), strict=True)],
        ),
    ):
        looped = tree.map(lambda *leaves: torch.stack(leaves), *expected)
        for one, other in zip(tree.leaves(found), tree.leaves(looped), strict=True):
            torch.testing.assert_close(one, other.expand_as(one), rtol=1e-5, atol=1e-6)


def test_inside_vmap_stages_need_the_number_of_frames():
    cfg = ModelConfig(hidden_size=4, hidden_layers=1, num_bins=9)
    _, stats = deepspeech2.init(cfg, key=0)

    def count(lengths):
        return lengths + len(deepspeech2.stages(cfg, stats, lengths, train=False))

    with pytest.raises(ValueError, match=r"pass frames="):
        torch.func.vmap(count)(torch.tensor([[3], [4]]))
