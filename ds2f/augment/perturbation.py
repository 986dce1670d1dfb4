"""One augmentation of a waveform: what is drawn for an utterance, and the chain of steps that applies it."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ds2f.augment import telephone
from ds2f.augment.drawing import happens, integer, uniform
from ds2f.augment.noise import add_noise
from ds2f.augment.reverberation import Room, impulse_response, reverberate
from ds2f.augment.waveforms import gain, speed, surround
from ds2f.config import AugmentationConfig
from ds2f.wsola import stretched, tempo

Coder = Callable[[Tensor, str, int], Tensor]


class Perturbation(NamedTuple):
    """Augmentation of an utterance's waveform; a factor above 1 shortens the waveform."""

    speed: float = 1.0
    tempo: float = 1.0
    before: int = 0  # samples of silence
    after: int = 0
    reverb: bool = False
    room: Room | None = None  # of the reverberation; None: an impulse response is given
    gain: float = 0.0  # dB
    snr: float | None = None  # dB; None: no noise
    band: tuple[float, float] | None = None  # lower and upper cut-off, hertz
    codec: str = ""

    def num_samples(self, num_samples: int) -> int:
        """The number of samples after the whole chain, of ``num_samples`` before; speed, tempo and silence decide."""
        return self.before + stretched(stretched(num_samples, self.speed), self.tempo) + self.after


def draw_speed(key: int, cfg: AugmentationConfig) -> float:
    """Draws one of ``cfg.speeds``: with ``cfg.speed_prob`` any of them alike, else 1."""
    if not cfg.speeds or not happens(key, "speeded", cfg.speed_prob):
        return 1.0
    return cfg.speeds[integer(key, "speed", high=len(cfg.speeds) - 1)]


def draw(key: int, cfg: AugmentationConfig, *, sample_rate: int) -> Perturbation:
    """Draws the augmentation of an utterance in an epoch; ``key`` stands for both.

    >>> cfg = AugmentationConfig(speeds=(0.9, 1.0, 1.1), gain_min=-6, gain_max=6)
    >>> how = draw(7, cfg, sample_rate=16000)
    >>> how.speed in cfg.speeds, -6 <= how.gain <= 6, how.tempo, how.snr
    (True, True, 1.0, None)
    """
    noisy = bool(cfg.noise_dir) and happens(key, "noisy", cfg.noise_prob)
    reverb = happens(key, "reverb", cfg.reverb_prob)
    longest = cfg.silence if happens(key, "silent", cfg.silence_prob) else 0.0
    return Perturbation(
        speed=draw_speed(key, cfg),
        tempo=uniform(key, "tempo", cfg.tempo_min, cfg.tempo_max) if happens(key, "tempered", cfg.tempo_prob) else 1.0,
        before=round(uniform(key, "before", 0, longest) * sample_rate),
        after=round(uniform(key, "after", 0, longest) * sample_rate),
        reverb=reverb,
        room=_room(key, cfg) if reverb and not cfg.reverb_dir else None,
        gain=uniform(key, "gain", cfg.gain_min, cfg.gain_max) if happens(key, "gained", cfg.gain_prob) else 0.0,
        snr=uniform(key, "snr", cfg.noise_min_snr, cfg.noise_max_snr) if noisy else None,
        band=_band(key, cfg) if happens(key, "band", cfg.band_prob) else None,
        codec=cfg.codecs[integer(key, "codec", high=len(cfg.codecs) - 1)]
        if happens(key, "coded", cfg.codec_prob)
        else "",
    )


def _room(key: int, cfg: AugmentationConfig) -> Room:
    return Room(
        rt60=uniform(key, "rt60", cfg.reverb_min_rt60, cfg.reverb_max_rt60),
        drr=uniform(key, "drr", cfg.reverb_min_drr, cfg.reverb_max_drr),
    )


def _band(key: int, cfg: AugmentationConfig) -> tuple[float, float]:
    low = uniform(key, "low", cfg.band_min_low, cfg.band_max_low)
    return low, uniform(key, "high", cfg.band_min_high, cfg.band_max_high)


def perturb(
    waveform: Tensor,
    how: Perturbation,
    key: int,
    *,
    sample_rate: int,
    noise: Tensor | None = None,
    response: Tensor | None = None,
    coder: Coder | None = None,
) -> Tensor:
    """Applies speed, tempo, silence, reverberation, gain, noise, band limit and codec, in this order.

    It is the way of the sound: a speaker in a room, noise in the room, a microphone's level, and a line.

    Args:
      waveform: [N] float32 on the CPU.
      how: the augmentation, from ``draw``.
      key: the key that ``draw`` got.
      sample_rate: hertz.
      noise: [M] float32, required if ``how.snr`` is set.
      response: [M] float32, an impulse response, required if ``how.reverb`` is set without ``how.room``.
      coder: encodes and decodes [N] float32 with the codec of a name, at a sampling rate; None: those of
        ``telephone.coded``.

    Returns:
      [how.num_samples(N)] float32.

    Raises:
      ValueError: if ``how`` asks for noise, for an impulse response or for a codec that is not given.
    """
    waveform = tempo(speed(waveform, how.speed), how.tempo, sample_rate=sample_rate)
    waveform = surround(waveform, how.before, how.after, sample_rate=sample_rate)
    if how.room:
        waveform = reverberate(waveform, impulse_response(how.room, key, sample_rate=sample_rate), direct=0)
    elif how.reverb:
        if response is None:
            raise ValueError("how.reverb without how.room asks for an impulse response, and response is None")
        waveform = reverberate(waveform, response)
    waveform = gain(waveform, how.gain)
    if how.snr is not None:
        if noise is None:
            raise ValueError(f"how.snr={how.snr:g} asks for noise, and noise is None: pass a noise waveform")
        waveform = add_noise(waveform, noise, key, snr=how.snr)
    if how.band:
        waveform = telephone.band_limit(waveform, *how.band, sample_rate=sample_rate)
    if how.codec:
        waveform = (
            coder(waveform, how.codec, sample_rate)
            if coder
            else telephone.coded(waveform, how.codec, sample_rate=sample_rate)
        )
    return waveform
