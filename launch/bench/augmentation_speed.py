"""Augmentation step by step: processor time for a second of audio, beside the spectrogram's."""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ds2f import augment, features, rng
from ds2f.config import AugmentationConfig, Config
from ds2f.data import codecs
from launch.bench.options import Options

_SECONDS = 10
_TIMED = 0.2  # seconds, at least, of the calls of a round
_MASKS = AugmentationConfig(frequency_masks=2, time_masks=2)


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Times each step on noise of 10 seconds at the rate of the features; medians over the rounds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = {name: _milliseconds(step, options.rounds) / _SECONDS for name, step in _steps(cfg)}
    finally:
        torch.set_num_threads(threads)
    return {"sample_rate": cfg.spect.sample_rate, "milliseconds_per_second": steps}


def _steps(cfg: Config) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The steps by name, in the order of the chain."""
    rate = cfg.spect.sample_rate
    samples = _SECONDS * rate
    drawn = 0.1 * torch.randn(3 * samples, generator=rng.generator(0), device="cpu")
    waveform, noise = drawn[:samples], drawn[samples:]
    room = augment.Room(rt60=0.5, drr=6.0)
    response = augment.impulse_response(room, 0, sample_rate=rate)
    spectrogram, bins = features.log_spectrogram(waveform, cfg.spect), features.frequencies(cfg.spect)
    yield "speed 0.9", lambda: augment.speed(waveform, 0.9)
    yield "tempo 0.9", lambda: augment.tempo(waveform, 0.9, sample_rate=rate)
    yield "silence, 0.5 s around", lambda: augment.surround(waveform, rate // 2, rate // 2, sample_rate=rate)
    yield (
        "reverberation, room drawn, RT60 0.5 s",
        lambda: augment.reverberate(waveform, augment.impulse_response(room, 0, sample_rate=rate)),
    )
    yield "reverberation, impulse response of 0.5 s", lambda: augment.reverberate(waveform, response)
    yield "gain", lambda: augment.gain(waveform, 3.0)
    yield "noise", lambda: augment.add_noise(waveform, noise, 0, snr=10.0)
    yield "band limit, 300 to 3400 Hz", lambda: augment.band_limit(waveform, 300.0, 3400.0, sample_rate=rate)
    for codec in ("ulaw", "alaw", "gsm", "opus", "vorbis", "mp3"):
        yield f"codec {codec}", lambda codec=codec: codecs.coded(waveform, codec, rate)  # type: ignore[misc]
    yield "log spectrogram", lambda: features.log_spectrogram(waveform, cfg.spect)
    yield "frequency warp", lambda: augment.warp(spectrogram, 1.1, bins)
    yield "SpecAugment, 2 and 2 masks", lambda: augment.spec_augment(spectrogram, 0, _MASKS)


def _milliseconds(step: Callable[[], Tensor], rounds: int) -> float:
    """Processor time of a call: the median over rounds, each of as many calls as fill a fifth of a second."""
    began = time.process_time()
    step()
    calls = max(1, round(_TIMED / max(1e-6, time.process_time() - began)))
    timed = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(calls):
            step()
        timed.append((time.process_time() - began) / calls)
    return 1000 * median(timed)


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a line per step."""
    for found in results:
        console.print(f"augmentation at {found['sample_rate']} Hz, ms of one processor for a second of audio:")
        for name, milliseconds in found["milliseconds_per_second"].items():
            console.print(f"  {milliseconds:8.2f}  {name}")
