import math

import attrs
import pytest
import torch
from reference_model import ReferenceModel

from ds2f import tree
from ds2f.config import ModelConfig
from ds2f.convert import to_reference
from ds2f.convolutions import output_lengths
from ds2f.model import structure

SMALL = ModelConfig(hidden_size=8, hidden_layers=2, num_bins=33)


@pytest.mark.parametrize("num_bins", [1, 2, 3, 4, 5, 33, 81, 161, 162])
@pytest.mark.parametrize("frequency_stride", [4, 6, 8])
def test_the_first_recurrent_layer_is_as_wide_as_the_convolutions_make_it(num_bins, frequency_stride):
    cfg = attrs.evolve(SMALL, num_bins=num_bins, frequency_stride=frequency_stride)
    module = ReferenceModel(cfg).conv["seq_module"]
    channels, bins, frames = module[3](module[0](torch.zeros(1, num_bins, 9))).shape
    params, _ = structure.init(cfg, key=0)
    assert params["rnn_0"]["forward"]["w_ih"].shape[1] == channels * bins
    assert frames == output_lengths(9)


def test_the_default_model_has_86_6_million_parameters():
    params, _ = structure.spec(ModelConfig())
    assert round(sum(math.prod(leaf.shape) for leaf in tree.leaves(params)) / 1e6, 1) == 86.6


@pytest.mark.parametrize("rnn_type", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_leaves_start_in_the_ranges_of_torchs_own_layers(rnn_type, bidirectional):
    cfg = ModelConfig(rnn_type=rnn_type, bidirectional=bidirectional, hidden_size=24, hidden_layers=2, num_bins=33)
    ours, theirs = to_reference(cfg, *structure.init(cfg, key=0)), ReferenceModel(cfg).state_dict()
    assert ours.keys() == theirs.keys()
    for name, leaf in theirs.items():
        assert ours[name].shape == leaf.shape, name
        if leaf.numel() < 200 or not leaf.std() > 0:
            torch.testing.assert_close(
                ours[name].mean(dtype=torch.float32), leaf.mean(dtype=torch.float32), atol=0.2, rtol=0
            )
        else:
            torch.testing.assert_close(ours[name].std(), leaf.std(), atol=0, rtol=0.2)
            torch.testing.assert_close(ours[name].abs().max(), leaf.abs().max(), atol=0, rtol=0.1)


def test_another_layer_does_not_change_the_others_and_another_key_changes_all():
    small, _ = structure.init(SMALL, key=5)
    deeper, _ = structure.init(attrs.evolve(SMALL, hidden_layers=3), key=5)
    other, _ = structure.init(SMALL, key=6)
    deeper, other = tree.flatten_with_paths(deeper), tree.flatten_with_paths(other)
    for path, leaf in tree.flatten_with_paths(small).items():
        assert torch.equal(leaf, deeper[path]), path
        assert "norm" in path or not torch.equal(leaf, other[path]), path


def test_initialisation_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    structure.init(SMALL, key=5)
    assert torch.equal(before, torch.get_rng_state())
