"""The calibration of a run: its measurement on signals whose truth is known, and its file."""

import json
import math
import os
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2f.config import BeamConfig
from ds2f.errors import InputError
from ds2f.inference import calibration
from ds2f.inference.calibration import Measured, delay_of, later_onsets, measure, onset
from ds2f.inference.confidence import Calibration

RATE = 16000
MODEL = ({"weight": torch.ones(2, 3)}, {"mean": torch.zeros(3)})  # parameters, statistics
OTHER = ({"weight": torch.full((2, 3), 1.0001)}, {"mean": torch.ones(3)})


def no_warning(line):
    raise AssertionError(line)


def measured(slope):
    return Measured(Calibration(slope, -0.25, 0.08), 10, 9, 0.1, 0.2, 5)


def recording(begin: float, *, noise: float = 1e-3, seconds: float = 1.0) -> np.ndarray:
    """Noise, in which a tone begins."""
    samples = noise * np.random.default_rng(0).standard_normal(round((begin + seconds) * RATE))
    times = np.arange(round(seconds * RATE)) / RATE
    samples[round(begin * RATE) :] += 0.3 * np.sin(2 * np.pi * 220 * times)
    return samples.astype(np.float32)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.1, 2.0), st.sampled_from([0.0, 1e-4, 1e-2]))
def test_the_onset_is_where_the_sound_begins(begin, noise):
    assert onset(recording(begin, noise=noise), RATE) == pytest.approx(begin, abs=0.006)


def test_a_click_is_no_onset():
    samples = recording(0.8)
    samples[3200:3220] = 0.9
    assert onset(samples, RATE) == pytest.approx(0.8, abs=0.006)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(100, np.float32),
        np.zeros(RATE, np.float32),
        recording(0.0),  # begins with speech
        np.random.default_rng(0).standard_normal(RATE).astype(np.float32),
    ],
)
def test_an_onset_that_is_not_clear_is_none(samples):
    assert onset(samples, RATE) is None


def test_later_onsets_are_where_sound_begins_again():
    once = np.concatenate((recording(0.4), recording(0.3), recording(0.05, seconds=0.6), np.zeros(RATE // 10, "f4")))
    expected = [1.4 + 0.3]  # not the first one; the third follows too short a pause
    assert later_onsets(once, RATE) == pytest.approx(expected, abs=0.011)
    assert later_onsets(np.zeros(0, np.float32), RATE) == []


def test_a_delay_is_a_median_of_enough_onsets_and_bounded():
    assert delay_of([0.1, 0.2, 0.3, 0.4]) == 0.0
    assert delay_of([0.1, 0.1, 0.1, 0.1, 9.0]) == 0.1
    assert (delay_of([99.0] * 9), delay_of([-99.0] * 9)) == (2.0, -2.0)


def test_words_that_were_too_sure_are_worth_more_after_the_calibration():
    generator = np.random.default_rng(0)
    scores = np.log(generator.uniform(0.5, 0.999, 2000))
    right = generator.random(2000) < np.exp(scores) ** 4
    found = measure(scores.tolist(), right.tolist(), [0.12] * 7)
    assert found.before < 0 < found.after
    assert (found.words, found.right, found.onsets) == (2000, right.sum(), 7)
    assert found.calibration.delay == pytest.approx(0.12)


@pytest.mark.parametrize("right", [True, False])
def test_a_set_whose_words_are_all_alike_gives_finite_numbers(tmp_path, right):
    found = measure([-0.1, -0.2], [right] * 2, [])
    assert math.isnan(found.after)
    calibration.write(tmp_path, found, *MODEL, which="best")
    assert calibration.read(tmp_path, *MODEL, warn=no_warning) == found.calibration


def test_what_was_written_is_read_and_nothing_changes_nothing(tmp_path):
    assert calibration.read(tmp_path, *MODEL, warn=no_warning) == Calibration()
    path = calibration.write(tmp_path, measured(1.5), *MODEL, which="best:5")
    assert calibration.read(tmp_path, *MODEL, warn=no_warning) == measured(1.5).calibration
    (stored,) = json.loads(path.read_text())["calibrations"]
    assert (stored["which"], stored["words"], stored["decoder"]) == ("best:5", 10, {"decoder": "greedy"})
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


def test_each_decoder_and_checkpoint_has_its_own_and_a_second_measurement_takes_the_place_of_the_first(tmp_path):
    (tmp_path / "lm.arpa").write_text("words")
    decoders = [
        BeamConfig(),
        BeamConfig(decoder="beam"),
        BeamConfig(path=str(tmp_path / "lm.arpa"), weight=1.0),
        BeamConfig(path=str(tmp_path / "lm.arpa"), weight=2.0),
    ]
    cases = [(model, lm) for model in (MODEL, OTHER) for lm in decoders]
    for again in (0.0, 10.0):
        for number, (model, lm) in enumerate(cases, 1):
            calibration.write(tmp_path, measured(number + again), *model, which="best", lm=lm)
        for number, (model, lm) in enumerate(cases, 1):
            found = calibration.read(tmp_path, *model, lm=lm, warn=no_warning)
            assert found == measured(number + again).calibration
    assert len(json.loads((tmp_path / "calibration.json").read_text())["calibrations"]) == len(cases)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "lm.arpa").rename(moved / "lm.arpa")
    lm = BeamConfig(path=str(moved / "lm.arpa"), weight=2.0, workers=3)
    assert calibration.read(tmp_path, *MODEL, lm=lm, warn=no_warning) == measured(14.0).calibration


@pytest.mark.parametrize(
    ("model", "lm", "slope", "named"),
    [
        ("other", BeamConfig(), 1.0, "another model"),
        ("own", BeamConfig(decoder="beam", beam_size=7), 2.0, "another decoder"),
        ("other", BeamConfig(decoder="beam", beam_size=7), 2.0, "another model and decoder"),
        ("statistics", BeamConfig(decoder="beam"), 2.0, "another model"),
    ],
)
def test_one_line_says_that_weights_or_decoder_are_others_and_the_nearest_is_taken(tmp_path, model, lm, slope, named):
    calibration.write(tmp_path, measured(1.0), *MODEL, which="best")
    calibration.write(tmp_path, measured(2.0), *MODEL, which="best", lm=BeamConfig(decoder="beam"))
    params, stats = {"own": MODEL, "other": OTHER, "statistics": (MODEL[0], OTHER[1])}[model]
    said = []
    assert calibration.read(tmp_path, params, stats, lm=lm, warn=said.append).slope == slope
    (line,) = said
    assert f"measured with {named}," in line
    assert f"launch.calibrate --run_dir={tmp_path}" in line
    assert "\n" not in line


def test_old_calibrations_give_way_to_new_ones(tmp_path):
    for number in range(1, 40):
        params = {"weight": torch.full((2,), float(number))}
        calibration.write(tmp_path, measured(number), params, MODEL[1], which="best")
    assert calibration.read(tmp_path, params, MODEL[1], warn=no_warning).slope == 39
    assert len(json.loads((tmp_path / "calibration.json").read_text())["calibrations"]) == 16


def test_a_file_that_cannot_be_read_is_replaced(tmp_path):
    (tmp_path / "calibration.json").write_text("[")
    calibration.write(tmp_path, measured(1.5), *MODEL, which="best")
    assert calibration.read(tmp_path, *MODEL, warn=no_warning).slope == 1.5


def entry(**numbers):
    """A file of one calibration."""
    whole = {"slope": 1, "intercept": 0, "delay": 0, "weights": "a", "decoder": {}} | numbers
    return json.dumps({"calibrations": [{name: value for name, value in whole.items() if value != "none"}]})


DAMAGED = {
    "empty": "",
    "a list": "[1, 2]",
    "of another form": '{"slope": 1, "intercept": 0, "delay": 0}',
    "not a list": '{"calibrations": 7}',
    "not all": entry(delay="none"),
    "without weights": entry(weights="none"),
    "without decoder": entry(decoder=[]),
    "a text": entry(slope="1"),
    "a truth": entry(slope=True),
    "not a number": entry(slope=math.nan),
    "infinite": entry(intercept=math.inf),
    "huge": entry(delay=10**400),
    "falls": entry(slope=-1),
    "flat": entry(slope=0),
    "a minute late": entry(delay=60),
    "deep": "[" * 20_000,
    "long": " " * (1 << 17),
    "no text": "\udcff",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_another_content_is_refused_with_the_file_and_the_remedy(tmp_path, kind):
    (tmp_path / "calibration.json").write_bytes(DAMAGED[kind].encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path))}/calibration\.json.*launch\.calibrate --run_dir"):
        calibration.read(tmp_path, *MODEL)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "calibration.json")
    with pytest.raises(InputError, match=r"calibration\.json"):
        calibration.read(tmp_path, *MODEL)
