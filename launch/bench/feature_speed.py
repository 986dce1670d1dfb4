"""Features alone: the speed of spectrograms on one thread, as a multiple of real time."""

import time
from statistics import median
from typing import Any

import torch
from rich.console import Console

from ds2f.config import Config
from ds2f.data import audio_parts, manifests
from ds2f.data.manifest_paths import manifest_path
from ds2f.data.manifests import Utterance
from ds2f.features import log_spectrogram
from launch.bench.options import Options

_RECORDINGS = 200
_TARGET = 200  # times real time per core, at least


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Reads recordings of the training set and computes spectrograms on one thread; medians over the rounds.

    Raises:
      InputError: the training manifest or a recording cannot be read.
    """
    utterances = manifests.read(manifest_path(cfg, "train"))
    every = -(-len(utterances) // _RECORDINGS)
    chosen = utterances[::every]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timed = [_once(chosen, cfg) for _ in range(1 + options.rounds)][1:]  # the first round reads from the disk
    finally:
        torch.set_num_threads(threads)
    seconds = timed[0][0]
    return {
        "recordings": len(chosen),
        "audio_seconds": seconds,
        "spectrogram_times_real_time": seconds / median(computing for _, _, computing in timed),
        "with_reading_times_real_time": seconds / median(reading + computing for _, reading, computing in timed),
    }


def _once(utterances: list[Utterance], cfg: Config) -> tuple[float, float, float]:
    """Seconds of audio, and processor seconds of reading and of computing spectrograms."""
    samples, reading, computing = 0, 0.0, 0.0
    for utterance in utterances:
        began = time.thread_time()
        waveform = torch.from_numpy(audio_parts.of(utterance, sample_rate=cfg.spect.sample_rate).samples)
        read = time.thread_time()
        log_spectrogram(waveform, cfg.spect)
        computing += time.thread_time() - read
        reading += read - began
        samples += len(waveform)
    return samples / cfg.spect.sample_rate, reading, computing


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a sentence per result."""
    for found in results:
        console.print(
            f"features of {found['recordings']} recordings, one thread: "
            f"{found['spectrogram_times_real_time']:.0f} times real time (target: at least {_TARGET}), with "
            f"reading {found['with_reading_times_real_time']:.0f}"
        )
