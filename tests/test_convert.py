import attrs
import pytest
import torch
from reference_model import ReferenceModel, lively_model

from ds2f import tree
from ds2f.config import ModelConfig
from ds2f.convert import from_reference, to_reference
from ds2f.errors import InputError
from ds2f.model import deepspeech2

SMALL = ModelConfig(hidden_size=8, hidden_layers=3, num_bins=33, lookahead_context=5)
KINDS = [(rnn_type, bidirectional) for rnn_type in ("lstm", "gru", "rnn") for bidirectional in (True, False)]


@pytest.mark.parametrize(("rnn_type", "bidirectional"), KINDS)
def test_a_model_survives_the_way_there_and_back(rnn_type, bidirectional):
    cfg = attrs.evolve(SMALL, rnn_type=rnn_type, bidirectional=bidirectional)
    if bidirectional:
        cfg = attrs.evolve(cfg, lookahead_context=ModelConfig().lookahead_context)
    params, stats = lively_model(cfg)
    module = ReferenceModel(cfg)
    module.load_state_dict(to_reference(cfg, params, stats), strict=True)
    new_cfg, new_params, new_stats = from_reference(module.state_dict())
    assert new_cfg == cfg
    for ours, expected in ((new_params, params), (new_stats, stats)):
        ours, expected = tree.flatten_with_names(ours), tree.flatten_with_names(expected)
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[path], expected[path]) for path in expected)


@pytest.mark.parametrize("num_bins", [81, 161])
def test_the_bins_of_8_and_16_khz_are_recognised(num_bins):
    cfg = attrs.evolve(SMALL, num_bins=num_bins)
    assert from_reference(ReferenceModel(cfg).state_dict())[0].num_bins == num_bins


@pytest.mark.parametrize("stride", [{"time_stride": 4}, {"frequency_stride": 8}])
def test_a_stride_that_the_reference_does_not_have_is_refused(stride):
    cfg = attrs.evolve(SMALL, **stride)
    [(name, value)] = stride.items()
    with pytest.raises(InputError, match=rf"model\.{name}={value}.* deepspeech\.pytorch has model\.time_stride=2"):
        to_reference(cfg, *lively_model(cfg))


def test_leaves_are_detached_copies():
    module = ReferenceModel(SMALL).half()
    _, params, _ = from_reference(module.state_dict())
    assert all(leaf.dtype == torch.float32 and not leaf.requires_grad for leaf in tree.leaves(params))
    single = ReferenceModel(SMALL).state_dict()
    _, params, _ = from_reference(single)
    params["output"]["weight"].zero_()
    assert single["fc.0.module.1.weight"].any()


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model.module."])
def test_checkpoints_of_both_versions_bring_their_labels(prefix):
    labels = list("_ABC")
    weights = ReferenceModel(attrs.evolve(SMALL, labels=tuple(labels))).state_dict()
    weights = {prefix + name: leaf for name, leaf in weights.items()}
    v2 = {"version": 1, "hidden_size": 8, "labels": "_ABC", "state_dict": weights}
    v3 = {"epoch": 3, "hyper_parameters": {"labels": labels}, "state_dict": weights}
    for checkpoint in (v2, v3):
        assert from_reference(checkpoint)[0].labels == tuple(labels)
    assert from_reference(weights, labels="CBA_")[0].labels == tuple("CBA_")
    with pytest.raises(InputError, match="4 labels and none are known: pass its labels"):
        from_reference(weights)


def test_missing_and_unknown_names_are_all_listed():
    weights = ReferenceModel(SMALL).state_dict()
    del weights["rnns.1.batch_norm.module.running_var"], weights["conv.seq_module.0.bias"]
    weights["rnns.0.attention.weight"] = torch.zeros(2)
    with pytest.raises(InputError) as error:
        from_reference(weights)
    for name in ("rnns.1.batch_norm.module.running_var", "conv.seq_module.0.bias", "rnns.0.attention.weight"):
        assert name in str(error.value)


def test_something_else_is_refused_by_name():
    with pytest.raises(InputError, match=r"missing \['rnns.0.rnn.weight_ih_l0'"):
        from_reference({"encoder.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="missing"):
        from_reference({})


def test_shapes_that_do_not_fit_are_listed():
    weights = ReferenceModel(SMALL).state_dict()
    weights["rnns.1.rnn.weight_ih_l0"] = torch.zeros(32, 7)
    with pytest.raises(InputError, match=r"rnns.1.rnn.weight_ih_l0 is \[32, 7\] instead of \[32, 8\]"):
        from_reference(weights)
    weights["rnns.0.rnn.weight_hh_l0"] = torch.zeros(16, 8)
    with pytest.raises(InputError, match="neither an LSTM, a GRU nor a tanh RNN"):
        from_reference(weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_and_named(value):
    state_dict = to_reference(SMALL, *deepspeech2.init(SMALL, key=0))
    state_dict["rnns.1.rnn.weight_hh_l0"][0, 3] = value
    with pytest.raises(InputError, match=r"NaN or infinite weights in rnns\.1\.rnn\.weight_hh_l0$"):
        from_reference(state_dict)


def test_a_layer_of_a_high_number_is_refused_before_the_layers_are_made():
    state_dict = to_reference(SMALL, *deepspeech2.init(SMALL, key=0))
    state_dict["rnns.999999999.rnn.weight_hh_l0"] = torch.zeros(1)
    with pytest.raises(InputError, match="hidden_layers"):
        from_reference(state_dict)
