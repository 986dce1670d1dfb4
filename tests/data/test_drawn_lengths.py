"""Lengths of many utterances at once are those of each utterance alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ds2f import augment
from ds2f.config import AugmentationConfig
from ds2f.data.drawn_lengths import drawn_lengths, perturbed_lengths

FACTORS = st.sampled_from([0.5, 0.9, 1.0, 1.1]) | st.floats(0.25, 4)
SAMPLES = st.lists(st.integers(1, 10**7), min_size=1, max_size=20)


@st.composite
def _settings(draw):
    tempos = sorted((draw(FACTORS), draw(FACTORS))) if draw(st.booleans()) else [1.0, 1.0]
    return AugmentationConfig(
        speeds=tuple(draw(st.lists(FACTORS, max_size=3))),
        tempo_min=tempos[0],
        tempo_max=tempos[-1],
        silence=draw(st.sampled_from([0.0, 0.7])),
        **{f"{step}_prob": draw(st.sampled_from([0.0, 0.5, 1.0])) for step in ("speed", "tempo", "silence", "gain")},
        gain_min=-6,
        gain_max=draw(st.sampled_from([-6, 6])),
        noise_dir=draw(st.sampled_from(["", "noises"])),
    )


@given(samples=SAMPLES, cfg=_settings(), seed=st.integers(0, 2**62))
def test_drawn_lengths_are_those_of_the_perturbations_that_are_drawn(samples, cfg, seed):
    keys = range(seed, seed + len(samples))
    found = drawn_lengths(np.array(samples), keys, cfg, sample_rate=16000)
    assert found.tolist() == [
        augment.draw(key, cfg, sample_rate=16000).num_samples(each) for key, each in zip(keys, samples, strict=True)
    ]


@given(samples=SAMPLES, speed=FACTORS, tempo=FACTORS, silence=st.integers(0, 20000))
def test_perturbed_lengths_are_those_of_each_length(samples, speed, tempo, silence):
    how = augment.Perturbation(speed=speed, tempo=tempo, before=silence, after=silence // 2)
    assert perturbed_lengths(np.array(samples), how).tolist() == [how.num_samples(each) for each in samples]
