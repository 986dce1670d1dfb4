"""Transcription of many recordings: one by one with the functions of the library, and at once by a ``Recognizer``."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from rich.console import Console

from ds2f import decode, features
from ds2f.config import Config
from ds2f.data import audio_parts
from ds2f.data.manifests import Utterance
from ds2f.inference import Recognizer
from ds2f.model import deepspeech2
from ds2f.processes import cpu_count
from ds2f.runner.device.backend import open_backend
from ds2f.runner.splits import Split
from ds2f.types import Batch
from launch.bench.options import Options


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Transcribes the test set with an untrained model in both ways, in turns.

    Returns:
      Files, seconds of sound, and the seconds of each round in each way. At once includes word times and confidences.

    Raises:
      InputError: the test manifest or a file in it cannot be used.
    """
    split = Split.read("test", cfg)
    utterances = [split.utterances[example.row] for example in split.dataset.examples]
    params, stats = deepspeech2.init(cfg.model, key=cfg.training.seed)
    backend = open_backend(cfg.device)
    recognizer = Recognizer(cfg, params, stats, backend=backend)

    def at_once() -> float:
        found = recognizer.transcribe_all(
            (audio_parts.source(each, sample_rate=cfg.spect.sample_rate) for each in utterances), workers=cpu_count()
        )
        return sum(getattr(transcript, "duration", 0.0) for transcript in found)

    heard = at_once()
    rounds = [(_timed(lambda: _one_by_one(utterances, recognizer)), _timed(at_once)) for _ in range(options.rounds)]
    return {
        "preset": f"{cfg.model.hidden_layers}x{cfg.model.hidden_size}",
        "compute": str(backend.policy(cfg.apex).compute).removeprefix("torch."),
        "files": len(utterances),
        "seconds": heard,
        "one_by_one": [slow for slow, _ in rounds],
        "at_once": [fast for _, fast in rounds],
    }


def _one_by_one(utterances: Sequence[Utterance], recognizer: Recognizer) -> None:
    cfg = recognizer.cfg
    for utterance in utterances:
        samples = audio_parts.of(utterance, sample_rate=cfg.spect.sample_rate).samples
        values = features.log_spectrogram(torch.from_numpy(samples), cfg.spect)[None]
        none = torch.zeros(1, dtype=torch.int64)
        batch = Batch(values, torch.tensor([values.shape[2]]), none[None], none, none, torch.ones(()))
        decode.greedy(recognizer.engine.logits(batch), cfg.model.labels)


def _timed(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a line per case."""
    for found in results:
        slow, fast = (found["files"] / median(found[way]) for way in ("one_by_one", "at_once"))
        ratios = sorted(slow / fast for slow, fast in zip(found["one_by_one"], found["at_once"], strict=True))
        console.print(
            f"transcription, {found['preset']}, {found['compute']}: {found['files']} files, {found['seconds']:.0f} s "
            f"of sound; one by one {slow:.1f} a second, at once {fast:.1f}: {median(ratios):.2f} times as many "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
