"""Augmentation of training utterances, from speed to SpecAugment: pure functions of a key.

Every random number is a hash of the key and of its own name, so it depends neither on the loader process nor on the
order of draws. Waveforms are float tensors [N], full scale 1; results may exceed full scale and are not clipped.

>>> import torch
>>> from ds2f import augment, rng
>>> from ds2f.config import AugmentationConfig
>>> cfg, key = AugmentationConfig(speeds=(0.9, 1.1), reverb_prob=1.0, codec_prob=0.5), rng.fold_in(0, "utterance", 7)
>>> how = augment.draw(key, cfg, sample_rate=16000)
>>> heard = augment.perturb(torch.ones(16000), how, key, sample_rate=16000)
>>> len(heard) == how.num_samples(16000)
True
"""

from ds2f.augment.noise import add_noise
from ds2f.augment.perturbation import Coder, Perturbation, draw, draw_speed, perturb
from ds2f.augment.reverberation import Room, impulse_response, reverberate
from ds2f.augment.spectrograms import draw_warp, spec_augment, spec_augment_batch, warp
from ds2f.augment.telephone import band_limit
from ds2f.augment.waveforms import gain, speed, surround
from ds2f.wsola import stretched, tempo

__all__ = [
    "Coder",
    "Perturbation",
    "Room",
    "add_noise",
    "band_limit",
    "draw",
    "draw_speed",
    "draw_warp",
    "gain",
    "impulse_response",
    "perturb",
    "reverberate",
    "spec_augment",
    "spec_augment_batch",
    "speed",
    "stretched",
    "surround",
    "tempo",
    "warp",
]
