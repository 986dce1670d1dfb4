"""Tests of adapting a trained model: other labels, one direction."""

import attrs
import pytest
import torch
from reference_model import lively_model

from ds2f import tree
from ds2f.adapt import one_directional, with_labels
from ds2f.config import ModelConfig
from ds2f.errors import InputError
from ds2f.model import deepspeech2

SMALL = ModelConfig(hidden_size=8, hidden_layers=3, num_bins=33, lookahead_context=5)


def test_the_output_layers_rows_follow_their_labels_and_new_ones_are_drawn():
    before = attrs.evolve(SMALL, labels=tuple("_ABC "))
    after = attrs.evolve(before, labels=tuple("C_ÄA"), dropout=0.1, kernel="scan", remat=True, sync_batch_norm=True)
    params, _ = lively_model(before)
    kept = tree.map(torch.clone, params)
    found, new = with_labels(before, params, after, key=5)
    assert new == ("Ä",)
    drawn = deepspeech2.init(after, key=5)[0]["output"]["weight"]
    old, rows = params["output"]["weight"], found["output"]["weight"]
    assert rows.shape == drawn.shape
    for row, expected in enumerate((old[3], old[0], drawn[2], old[1])):
        assert torch.equal(rows[row], expected)
    before_by_path, after_by_path = tree.flatten_with_names(kept), tree.flatten_with_names(found)
    assert before_by_path.keys() == after_by_path.keys()
    changed = [path for path, leaf in before_by_path.items() if not torch.equal(leaf, after_by_path[path])]
    assert changed == ["output/weight"]
    assert all(torch.equal(leaf, before_by_path[path]) for path, leaf in tree.flatten_with_names(params).items())


def test_with_the_same_labels_a_model_stays_as_it_is():
    params, _ = lively_model(SMALL)
    found, new = with_labels(SMALL, params, SMALL, key=5)
    assert new == ()
    assert all(map(torch.equal, tree.leaves(found), tree.leaves(params)))


def test_how_the_loss_is_made_may_change():
    before = attrs.evolve(SMALL, intermediate_ctc=0.3)
    params, _ = lively_model(before)
    after = attrs.evolve(before, intermediate_ctc=0.1, consistency=0.2, label_smoothing=0.1)
    assert with_labels(before, params, after, key=5)[1] == ()
    with pytest.raises(InputError, match=r"model\.intermediate_ctc is 0\.0 and was 0\.3"):
        with_labels(before, params, SMALL, key=5)


def test_a_model_that_differs_in_more_than_labels_is_refused_naming_what():
    params, _ = lively_model(SMALL)
    other = attrs.evolve(SMALL, labels=tuple("_AB"), hidden_size=16, rnn_type="gru")
    with pytest.raises(
        InputError, match=r"model\.rnn_type is 'gru' and was 'lstm'; model\.hidden_size is 16 and was 8"
    ):
        with_labels(SMALL, params, other, key=5)


def test_one_direction_computes_what_the_forward_layers_compute():
    """The truth: a bidirectional model whose backward layers give nothing."""
    params, stats = lively_model(SMALL)
    single = attrs.evolve(SMALL, bidirectional=False)
    source, found = one_directional(SMALL, params, single)
    assert source == single
    assert found["output"]["lookahead"]["weight"].shape == (8, 1, 5)
    silent = tree.unflatten_like(
        params,
        {
            path: torch.zeros_like(leaf) if "/backward/" in path else leaf
            for path, leaf in tree.flatten_with_names(params).items()
        },
    )
    features, lengths = torch.randn(2, 33, 40), torch.tensor([40, 23])
    # Both models end differently: the lookahead is followed by a clip. Before it they are the same.
    ours, theirs = (
        hidden(cfg, weights, stats, features, lengths) for cfg, weights in ((single, found), (SMALL, silent))
    )
    torch.testing.assert_close(ours, theirs)


def hidden(cfg, params, stats, features, lengths):
    x = features
    for stage in deepspeech2.stages(cfg, stats, lengths, train=False)[:-1]:
        x, _ = stage.fn(params[stage.name], x)
    return x


def test_the_lookahead_begins_as_the_identity():
    params, _ = lively_model(SMALL)
    _, found = one_directional(SMALL, params, attrs.evolve(SMALL, bidirectional=False))
    from ds2f.model import layers

    x = torch.randn(7, 2, 8)
    assert torch.equal(layers.lookahead(found["output"]["lookahead"], x, dtype=torch.float32), x)


@pytest.mark.parametrize("before", [True, False])
def test_a_model_whose_direction_stays_is_returned_as_it_is(before):
    cfg = attrs.evolve(SMALL, bidirectional=before)
    params, _ = lively_model(cfg)
    source, found = one_directional(cfg, params, cfg)
    assert source == cfg
    assert found is params


def test_a_second_direction_cannot_be_made():
    single = attrs.evolve(SMALL, bidirectional=False)
    params, _ = lively_model(single)
    source, found = one_directional(single, params, SMALL)
    with pytest.raises(InputError, match=r"model\.bidirectional is True and was False"):
        with_labels(source, found, SMALL, key=0)
