"""Decoding alone: greedy decoding and error counting on logits in the shapes of the test set of AN4."""

from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ds2f import metrics, rng
from ds2f.config import Config
from ds2f.convolutions import output_lengths
from ds2f.data import manifests
from ds2f.data.manifest_paths import manifest_path
from ds2f.decode import greedy
from ds2f.features import num_frames
from ds2f.runner.device.backend import open_backend
from ds2f.types import Logits
from launch.bench.machine import seconds_of
from launch.bench.options import Options
from launch.synthetic_batches import frames_like_an4

_UTTERANCES = 130  # in the test set of AN4
_TARGET = 0.5  # seconds, at most


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Decodes random logits; medians over the rounds. Their transcripts are longer and worse than those of a model.

    Lengths and references are those of the test manifest. Without a manifest, they are synthetic.
    """
    backend = open_backend(cfg.device)
    synthetic = not manifest_path(cfg, "test").exists()
    frames, references = _like_an4(cfg) if synthetic else _test_set(cfg)
    generator, size = rng.generator(rng.fold_in(cfg.training.seed, "decode")), cfg.data.batch_size
    ordered = sorted(range(len(frames)), key=frames.__getitem__)
    batches = []
    for members in (ordered[start : start + size] for start in range(0, len(ordered), size)):
        lengths = output_lengths(torch.tensor([frames[index] for index in members]), time_stride=cfg.model.time_stride)
        values = torch.randn(len(members), int(lengths.max()), len(cfg.model.labels), generator=generator)
        texts = [references[index] for index in members]
        batches.append((Logits(values.to(backend.device), lengths), texts))
    words = characters = 0

    def decode_all() -> None:
        nonlocal words, characters
        total = metrics.ErrorCounts()
        for logits, texts in batches:
            for hypothesis, text in zip(greedy(logits, cfg.model.labels), texts, strict=True):
                total += metrics.count_errors(text, hypothesis.text)
        words, characters = total.words, total.chars

    seconds = [seconds_of(decode_all, backend) for _ in range(1 + options.rounds)][1:]
    return {
        "utterances": len(frames),
        "made_up": synthetic,
        "words": words,
        "characters": characters,
        "batch_size": size,
        "seconds": median(seconds),
        "rounds": seconds,
    }


def _test_set(cfg: Config) -> tuple[list[int], list[str]]:
    utterances = manifests.read(manifest_path(cfg, "test"))
    samples = [round(utterance.duration * cfg.spect.sample_rate) for utterance in utterances]
    return [num_frames(count, cfg.spect) for count in samples], [utterance.transcript for utterance in utterances]


def _like_an4(cfg: Config) -> tuple[list[int], list[str]]:
    """Lengths as in AN4, and references with a letter per 14 frames, in words of up to six letters."""
    random = np.random.default_rng(rng.fold_in(cfg.training.seed, "references"))
    frames = frames_like_an4([(index + 0.5) / _UTTERANCES for index in range(_UTTERANCES)])
    letters = [label for label in cfg.model.labels if label.strip() and label != cfg.model.labels[cfg.model.blank]]
    texts = ["".join(random.choice(letters, max(1, count // 14))) for count in frames]
    return frames, [" ".join(text[start : start + 6] for start in range(0, len(text), 6)) for text in texts]


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a sentence per result."""
    for found in results:
        source = "synthetic transcripts" if found["made_up"] else "the test set's transcripts"
        console.print(
            f"greedy decoding and error counting of {found['utterances']} utterances ({source}, {found['words']} "
            f"words), random logits: {found['seconds']:.3f} s (target: under {_TARGET})"
        )
