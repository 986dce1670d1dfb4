"""Dtype policies and the loss scale."""

import pytest
import torch

from ds2f import precision
from ds2f.config import ApexConfig
from ds2f.errors import InputError
from ds2f.precision import LossScale, adjust

TRUE, FALSE = torch.tensor(True), torch.tensor(False)


def make(value, good_steps=0):
    return LossScale(torch.tensor(float(value)), torch.tensor(good_steps, dtype=torch.int32))


def follow(scale, verdicts, cfg):
    """The scale's value after each verdict."""
    values = []
    for verdict in verdicts:
        scale = adjust(scale, verdict, cfg=cfg)
        values.append(scale.value.item())
    return values


def test_the_scale_doubles_after_exactly_its_growth_interval_again_and_again():
    cfg = ApexConfig(growth_interval=3)
    assert follow(make(8), [TRUE] * 7, cfg) == [8, 8, 16, 16, 16, 32, 32]


def test_a_bad_step_halves_the_scale_and_starts_the_interval_again():
    cfg = ApexConfig(growth_interval=3)
    assert follow(make(8), [TRUE, TRUE, FALSE, TRUE, TRUE, TRUE], cfg) == [8, 8, 4, 4, 4, 8]


def test_an_interval_of_one_doubles_at_every_finite_step():
    assert follow(make(8), [TRUE, TRUE, FALSE], ApexConfig(growth_interval=1)) == [16, 32, 16]


def test_bad_steps_in_a_row_stop_at_the_floor():
    assert follow(make(4), [FALSE] * 4, ApexConfig(min_scale=1.0)) == [2, 1, 1, 1]


def test_growth_stops_at_the_ceiling():
    cfg = ApexConfig(growth_interval=1, max_scale=32.0)
    assert follow(make(8), [TRUE] * 4, cfg) == [16, 32, 32, 32]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_halves_the_scale(bad):
    grads = torch.tensor([1.0, bad])
    assert adjust(make(8), torch.isfinite(grads).all(), cfg=ApexConfig()).value.item() == 4


def test_a_static_scale_stays_whatever_happens():
    cfg = ApexConfig(loss_scale="128", growth_interval=1)
    assert follow(precision.init_scale(cfg), [TRUE, FALSE, TRUE], cfg) == [128.0] * 3


def test_the_scale_keeps_shapes_and_dtypes_and_its_arguments():
    scale = make(8, 1)
    for verdict in (TRUE, FALSE):
        new = adjust(scale, verdict, cfg=ApexConfig(growth_interval=2))
        assert (new.value.dtype, new.value.shape) == (torch.float32, ())
        assert (new.good_steps.dtype, new.good_steps.shape) == (torch.int32, ())
    assert (scale.value.item(), scale.good_steps.item()) == (8, 1)


def test_adjusting_never_asks_for_a_value():
    # A meta tensor has none: whatever would wait for the device raises.
    scale = LossScale(*(leaf.to("meta") for leaf in make(8)))
    assert adjust(scale, TRUE.to("meta"), cfg=ApexConfig()).value.device.type == "meta"


@pytest.mark.parametrize(("cfg", "value"), [(ApexConfig(), 32768), (ApexConfig(loss_scale="1"), 1)])
def test_the_first_scale_is_the_configured_one(cfg, value):
    scale = precision.init_scale(cfg)
    assert (scale.value.item(), scale.good_steps.item()) == (value, 0)
    assert (scale.value.dtype, scale.good_steps.dtype) == (torch.float32, torch.int32)


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "dynamical"])
def test_a_loss_scale_that_is_neither_positive_nor_dynamic_is_refused(text):
    with pytest.raises(InputError, match="neither a positive number nor 'dynamic'"):
        ApexConfig(loss_scale=text)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_levels_choose_dtypes(half):
    full = torch.float32
    assert precision.policy("O0", half) == precision.FULL == precision.Policy(full, full)
    assert precision.policy("O1", half) == precision.Policy(compute=half, activation=full)
    assert precision.policy("O2", half) == precision.Policy(compute=half, activation=half)


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_without_a_fast_half_precision_type_every_level_is_full_precision(level):
    assert precision.policy(level, torch.float32) == precision.FULL


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="O0, O1, O2, not 'O3'"):
        precision.policy("O3", torch.float16)
