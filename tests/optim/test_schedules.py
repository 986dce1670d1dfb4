"""Schedules against torch.optim.lr_scheduler and closed forms."""

import math

import pytest
import torch

from ds2f.config import OptimConfig
from ds2f.errors import InputError
from ds2f.optim import schedules

RTOL = 2e-6


def rates(schedule, steps):
    return [schedule(torch.tensor(step)).item() for step in range(steps)]


def torch_rates(make_scheduler, steps, learning_rate=1.0):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler = make_scheduler(optimizer)
    collected = []
    for _ in range(steps):
        collected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(collected) < steps:
            scheduler.step()
    return collected


ALL = {
    "constant": schedules.constant(0.3),
    "exponential": schedules.exponential(0.3, factor=0.5, steps_per_epoch=4),
    "noam": schedules.noam(1.0, model_size=64, warmup=7),
    "one_cycle": schedules.one_cycle(0.3, total_steps=40, warmup=10),
    "cosine": schedules.cosine(0.3, total_steps=40, warmup=10),
}


@pytest.mark.parametrize("name", ALL)
def test_a_schedule_maps_an_int64_scalar_to_a_float32_scalar_and_leaves_it_alone(name):
    step = torch.tensor(5)
    rate = ALL[name](step)
    assert (rate.dtype, rate.shape, rate.device) == (torch.float32, (), step.device)
    assert step.item() == 5


@pytest.mark.parametrize("name", ALL)
def test_a_schedule_never_asks_for_the_value_of_its_step(name):
    # A meta tensor has no value: whatever would wait for the device raises.
    assert ALL[name](torch.tensor(5, device="meta")).device.type == "meta"


def test_constant_is_constant():
    assert rates(schedules.constant(0.25), 3) == [0.25] * 3


def test_exponential_follows_torch_once_an_epoch():
    epochs = torch_rates(lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.99), 70, 8e-4)
    expected = [rate for rate in epochs for _ in range(3)]
    actual = rates(schedules.exponential(8e-4, factor=0.99, steps_per_epoch=3), 210)
    assert actual == pytest.approx(expected, rel=RTOL)
    assert actual[-1] == pytest.approx(8e-4 * 0.99**69, rel=RTOL)


def test_exponential_changes_exactly_at_the_epochs_first_step():
    actual = rates(schedules.exponential(1.0, factor=0.5, steps_per_epoch=4), 9)
    assert actual == [1.0] * 4 + [0.5] * 4 + [0.25]


def test_noam_follows_its_formula():
    def formula(step):
        n = step + 1
        return 2.0 * 1024**-0.5 * min(n**-0.5, n * 50**-1.5)

    expected = torch_rates(lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, formula), 200)
    assert rates(schedules.noam(2.0, model_size=1024, warmup=50), 200) == pytest.approx(expected, rel=RTOL)


def test_noam_peaks_at_the_end_of_its_warm_up():
    actual = rates(schedules.noam(1.0, model_size=256, warmup=20), 60)
    assert max(actual) == actual[19] == pytest.approx(256**-0.5 * 20**-0.5, rel=RTOL)


@pytest.mark.parametrize("warmup", [0, 0.5, 1])
def test_noam_without_warm_up_falls_from_the_first_step(warmup):
    actual = rates(schedules.noam(1.0, model_size=1, warmup=warmup), 5)
    assert actual == pytest.approx([n**-0.5 for n in range(1, 6)], rel=RTOL)


@pytest.mark.parametrize(("total", "share"), [(100, 0.3), (40, 0.25), (11, 0.5), (1000, 0.05), (50, 0.0)])
def test_one_cycle_is_torchs(total, share):
    expected = torch_rates(
        lambda opt: torch.optim.lr_scheduler.OneCycleLR(
            opt,
            max_lr=0.02,
            total_steps=total,
            pct_start=share,
            anneal_strategy="cos",
            div_factor=25,
            final_div_factor=1e4,
        ),
        total,
    )
    actual = rates(schedules.one_cycle(0.02, total_steps=total, warmup=share * total), total)
    # float32 cosines near -1 cost the smallest rates some digits, so the tolerance is absolute too.
    assert actual == pytest.approx(expected, rel=1e-5, abs=0.02 * 1e-7)


def test_one_cycle_starts_low_peaks_and_stays_at_its_end():
    actual = rates(schedules.one_cycle(1.0, total_steps=30, warmup=10), 40)
    assert actual[0] == pytest.approx(1 / 25, rel=1e-5)
    assert max(actual) == actual[9] == 1.0
    assert actual[29:] == pytest.approx([1 / 25e4] * 11, rel=1e-2)


def test_cosine_rises_linearly_then_follows_torchs_cosine():
    falling = torch_rates(lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=32), 32, 0.5)
    expected = [0.5 * n / 8 for n in range(1, 9)] + falling
    actual = rates(schedules.cosine(0.5, total_steps=40, warmup=8), 40)
    assert actual == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_cosine_without_warm_up_starts_at_its_peak_and_stays_at_zero():
    actual = rates(schedules.cosine(0.5, total_steps=10, warmup=0), 13)
    assert actual[0] == 0.5
    assert actual[5] == pytest.approx(0.25, rel=RTOL)
    assert actual[10:] == pytest.approx([0.0] * 3, abs=1e-7)


def from_config(**settings):
    return schedules.from_config(OptimConfig(**settings), steps_per_epoch=4, total_steps=40, hidden_size=64)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant", "learning_rate": 0.3}, ALL["constant"]),
        ({"schedule": "exponential", "learning_rate": 0.3, "learning_anneal": 0.5}, ALL["exponential"]),
        ({"schedule": "noam", "learning_rate": 1.0, "warmup": 7}, ALL["noam"]),
        ({"schedule": "one_cycle", "learning_rate": 0.3, "warmup": 10}, ALL["one_cycle"]),
        ({"schedule": "cosine", "learning_rate": 0.3, "warmup": 10}, ALL["cosine"]),
    ],
)
def test_the_configuration_names_the_schedule(settings, expected):
    assert rates(from_config(**settings), 40) == rates(expected, 40)


@pytest.mark.parametrize("name", ["noam", "one_cycle", "cosine"])
def test_a_warm_up_below_one_is_a_share_of_the_run(name):
    share, steps = (from_config(schedule=name, learning_rate=0.3, warmup=warmup) for warmup in (0.25, 10))
    assert rates(share, 40) == rates(steps, 40)


@pytest.mark.parametrize("name", ["one_cycle", "cosine"])
def test_a_warm_up_longer_than_the_run_is_refused_with_the_remedy(name):
    with pytest.raises(InputError, match=r"optim.warmup=4000 .*40 steps.*--optim.warmup=0.1"):
        from_config(schedule=name, learning_rate=0.3, warmup=4000)


@pytest.mark.parametrize("name", ["one_cycle", "cosine"])
def test_a_schedule_that_ends_warms_up_for_a_tenth_of_the_run_unless_told_otherwise(name):
    default, tenth = (from_config(schedule=name, learning_rate=0.3, **given) for given in ({}, {"warmup": 0.1}))
    assert rates(default, 40) == rates(tenth, 40)


def test_noam_warms_up_for_the_published_number_of_steps_however_long_the_run():
    schedule = from_config(schedule="noam", learning_rate=1.0)
    assert float(schedule(torch.tensor(3999))) > float(schedule(torch.tensor(3998)))
    assert float(schedule(torch.tensor(3999))) > float(schedule(torch.tensor(4000)))


def test_a_run_that_ends_before_the_peak_is_told_the_share_of_the_peak_that_it_reaches():
    noam, cosine = OptimConfig(warmup=1000), OptimConfig(schedule="cosine", warmup=0.5)
    assert "for 1,000 steps, and the run has 250: the learning rate ends at 25 % of its peak" in (
        schedules.warmup_problem(noam, total_steps=250, steps=250)
    )
    assert schedules.warmup_problem(noam, total_steps=1000, steps=1000) == ""
    assert "for 500 steps, and the run has 100" in schedules.warmup_problem(cosine, total_steps=1000, steps=100)
    assert schedules.warmup_problem(cosine, total_steps=1000, steps=1000) == ""
    for name in ("constant", "exponential"):
        assert schedules.warmup_problem(OptimConfig(schedule=name), total_steps=9, steps=9) == ""


def test_the_documented_recipe_halves_the_rate_over_seventy_epochs():
    schedule = schedules.from_config(
        OptimConfig(schedule="exponential", learning_rate=1.4e-4), steps_per_epoch=10, total_steps=700, hidden_size=8
    )
    last = schedule(torch.tensor(699)).item()
    assert last == pytest.approx(1.4e-4 * 0.4998, rel=1e-3)
    assert math.isclose(0.99**69, 0.4998, rel_tol=1e-3)
