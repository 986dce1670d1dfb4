"""The objective and its regularisers, held to the same sums written out by hand."""

import math

import attrs
import pytest
import torch
from torch.nn import functional as F

from ds2f import augment, ctc, rng, tree
from ds2f.config import AugmentationConfig, ModelConfig
from ds2f.convolutions import output_lengths
from ds2f.grad import staged_value_and_grad, value_and_grad
from ds2f.model import deepspeech2
from ds2f.objective import divergence, objective
from ds2f.types import Batch, Logits, Stage

MODEL = ModelConfig(hidden_size=6, hidden_layers=3, num_bins=17, labels=tuple("_AB "))
MASKS = AugmentationConfig(frequency_masks=2, frequency_width=6, time_masks=1, time_width=8)
BATCH = Batch(
    features=torch.randn(3, 17, 40, generator=torch.Generator().manual_seed(0)),
    lengths=torch.tensor([40, 33, 25]),
    labels=torch.tensor([[1, 2, 3, 1], [2, 2, 1, 0], [3, 0, 0, 0]]),
    label_lengths=torch.tensor([4, 3, 1]),
    ids=torch.tensor([7, 2, 5]),
    weight=torch.tensor(1 / 3),
)
KEY = 11


def value_and_gradients(cfg, params, stats, *, engine="func", **options):
    """The mean loss of the batch and its gradients, as the training step takes them."""
    chain = objective(cfg, **options).stages(stats, BATCH, key=KEY)
    mean = Stage("mean", lambda _, losses: (losses.mean(), None))
    (value, _), grads = staged_value_and_grad([*chain, mean], engine=engine)(params, BATCH.features)
    return value, grads


def assert_same(found, expected):
    assert found[0] == pytest.approx(float(expected[0]), rel=1e-6)
    gradients = tree.flatten_with_paths(expected[1])
    assert tree.flatten_with_paths(found[1]).keys() == gradients.keys()
    for path, gradient in tree.flatten_with_paths(found[1]).items():
        torch.testing.assert_close(gradient, gradients[path], rtol=1e-4, atol=1e-6, msg=path)


def ctc_losses(values, lengths):
    return ctc.native(Logits(values, output_lengths(lengths)), BATCH.labels, BATCH.label_lengths)


def test_label_smoothing_is_part_of_what_is_differentiated():
    params, stats = deepspeech2.init(MODEL, key=1)
    smooth = attrs.evolve(MODEL, label_smoothing=0.2)
    by_model, _ = objective(smooth)(params, stats, BATCH)
    by_hand, _ = objective(MODEL, criterion=ctc.smoothed(ctc.native, share=0.2))(params, stats, BATCH)
    assert torch.equal(by_model, by_hand)
    assert not torch.isclose(by_model, objective(MODEL)(params, stats, BATCH)[0]).any()


@pytest.mark.parametrize("engine", ["func", "autograd"])
def test_intermediate_ctc_is_mixed_in_and_trains_its_layer(engine):
    cfg = attrs.evolve(MODEL, intermediate_ctc=0.25)
    params, stats = deepspeech2.init(cfg, key=1)

    def by_hand(params):
        x = BATCH.features
        for stage in deepspeech2.stages(cfg, stats, BATCH.lengths, train=True, intermediate=True):
            x, _ = stage.fn(params[stage.name], x)
        output, middle = (ctc_losses(values, BATCH.lengths) for values in x)
        return (0.75 * output + 0.25 * middle).mean()

    found = value_and_gradients(cfg, params, stats, engine=engine)
    assert_same(found, value_and_grad(by_hand)(params))
    assert found[1]["intermediate"]["weight"].any()


@pytest.mark.parametrize("engine", ["func", "autograd"])
@pytest.mark.parametrize("middle", [0.0, 0.25])
def test_two_views_are_judged_both_and_drawn_towards_each_other(engine, middle):
    cfg = attrs.evolve(MODEL, consistency=0.3, intermediate_ctc=middle)
    params, stats = deepspeech2.init(cfg, key=1)
    keys = [rng.fold_in(KEY, "view", view, row) for view in (0, 1) for row in BATCH.ids.tolist()]
    views = BATCH.features.repeat(2, 1, 1)
    for features, length, key in zip(views, BATCH.lengths.tolist() * 2, keys, strict=True):
        features[:, :length] = augment.spec_augment(features[:, :length], key, MASKS)
    assert not torch.isclose(views[:3], views[3:]).all()

    def by_hand(params):
        x = views
        for stage in deepspeech2.stages(cfg, stats, BATCH.lengths.repeat(2), train=True, intermediate=True):
            x, _ = stage.fn(params[stage.name], x)
        values, scores = x if middle else (x, None)
        total = sum((1 - middle) * ctc_losses(half, BATCH.lengths) / 2 for half in values.chunk(2))
        if middle:
            total = total + sum(middle * ctc_losses(half, BATCH.lengths) / 2 for half in scores.chunk(2))
        one, other = (half.log_softmax(2) for half in values.chunk(2))
        for mine, theirs in ((one, other), (other, one)):
            terms = F.kl_div(mine, theirs.detach(), reduction="none", log_target=True).sum(2)
            rows = [row[:length].sum() for row, length in zip(terms, output_lengths(BATCH.lengths), strict=True)]
            total = total + 0.3 * torch.stack(rows) / 2
        return total.mean()

    found = value_and_gradients(cfg, params, stats, engine=engine, augmentation=MASKS)
    assert_same(found, value_and_grad(by_hand)(params))


def test_the_divergence_of_two_views_in_closed_form():
    sure, unsure = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.5, 0.5]).log()
    same = torch.stack((sure, sure, torch.full((2,), torch.nan)))  # the last frame is padding
    other = torch.stack((unsure, sure, torch.full((2,), torch.inf)))
    found = divergence(Logits(torch.stack((same, same, other, same)), torch.tensor([2, 1, 2, 1])))
    there = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    back = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    torch.testing.assert_close(found, torch.tensor([(there + back) / 2, 0.0]))


def test_a_key_is_needed_for_two_views():
    cfg = attrs.evolve(MODEL, consistency=0.3)
    params, stats = deepspeech2.init(cfg, key=1)
    with pytest.raises(ValueError, match="drawn from a key"):
        objective(cfg, augmentation=MASKS)(params, stats, BATCH)


@pytest.mark.parametrize("change", [{"intermediate_ctc": 0.25}, {"consistency": 0.3}])
def test_an_utterance_that_cannot_fit_counts_for_nothing(change):
    cfg = attrs.evolve(MODEL, **change)
    batch = BATCH._replace(labels=torch.ones(3, 40, dtype=torch.int64), label_lengths=torch.tensor([40, 2, 1]))
    params, stats = deepspeech2.init(cfg, key=1)
    losses, _ = objective(cfg, augmentation=MASKS)(params, stats, batch, key=KEY)
    assert losses.isinf().tolist() == [True, False, False]
    assert not losses.isnan().any()


def test_a_rank_without_utterances_has_no_views_either():
    cfg = attrs.evolve(MODEL, consistency=0.3)
    params, stats = deepspeech2.init(cfg, key=1)
    nothing = Batch(*(part[:0] if part.dim() else part for part in BATCH))
    losses, _ = objective(cfg, augmentation=MASKS)(params, stats, nothing, key=KEY)
    assert losses.shape == (0,)
