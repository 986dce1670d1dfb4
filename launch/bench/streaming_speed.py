"""Streaming: how many streams one core transcribes in real time, and how late the text comes."""

import time
from typing import Any

import attrs
import numpy as np
import torch
from rich.console import Console

from ds2f import rng
from ds2f.config import Config, resolve
from ds2f.inference import Recognizer, Session, step_sessions
from ds2f.model import deepspeech2, streaming
from ds2f.runner.device.backend import open_backend
from launch.bench.options import Options

_BLOCKS = (0.16, 0.32, 0.64)  # seconds
_STREAMS = (1, 8)  # in a batch
_WARMUP = 3  # blocks
_TIMED = 8  # blocks of a round


def measure(cfg: Config, options: Options) -> dict[str, Any]:
    """Feeds noise to streams of an untrained unidirectional model on one thread, features and decoding included.

    Returns:
      Per block and batch: ``streams``, seconds of sound that are computed in a second; ``streams_per_core``, in a
      second of processor time, which other programs do not lengthen; ``p50`` and ``p95`` of the latency, seconds from
      a frame of the recording to the text that counts it: the wait for the end of the block, the model's delay, and
      the computation.
    """
    model = attrs.evolve(cfg.model, bidirectional=False)
    cfg = resolve(attrs.evolve(cfg, model=model, spect=attrs.evolve(cfg.spect, normalize="utterance")))
    params, stats = deepspeech2.init(cfg.model, key=cfg.training.seed)
    recognizer = Recognizer(cfg, params, stats, backend=open_backend(cfg.device))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [_case(recognizer, block, streams, options) for block in _BLOCKS for streams in _STREAMS]
    finally:
        torch.set_num_threads(threads)
    return {
        "preset": f"{model.hidden_layers}x{model.hidden_size}",
        "lookahead_context": model.lookahead_context,
        "delay_seconds": _delay(cfg),
        "cases": found,
    }


def _case(recognizer: Recognizer, seconds: float, streams: int, options: Options) -> dict[str, Any]:
    """One size of blocks and batches; the median over the rounds."""
    cfg = recognizer.cfg
    frame = recognizer.grid.samples / recognizer.grid.rate
    block = max(1, round(seconds / frame))
    sessions = [Session(recognizer, block=block) for _ in range(streams)]
    random = np.random.default_rng(rng.fold_in(cfg.training.seed, "streams"))
    taken: list[tuple[float, float]] = []
    for _ in range(_WARMUP + _TIMED * options.rounds):
        sounds = random.normal(0, 0.1, (streams, block * recognizer.grid.samples)).astype(np.float32)
        began, used = time.perf_counter(), time.process_time()
        for session, sound in zip(sessions, sounds, strict=True):
            session.accept(sound)
        step_sessions(sessions)
        taken.append((time.perf_counter() - began, time.process_time() - used))
    rounds = np.array(taken[_WARMUP:]).reshape(options.rounds, _TIMED, 2).mean(axis=1)
    computing, processor = np.median(rounds, axis=0).tolist()
    # A frame ends anywhere within its block, and waits for the block's end.
    waits = (np.arange(block) + 0.5) * frame
    late = waits + _delay(cfg) + computing
    return {
        "block_seconds": block * frame,
        "streams_in_batch": streams,
        "seconds_per_block": computing,
        "rounds": rounds[:, 0].tolist(),
        "streams": streams * block * frame / computing,
        "streams_per_core": streams * block * frame / processor,
        "p50": float(np.percentile(late, 50)),
        "p95": float(np.percentile(late, 95)),
    }


def _delay(cfg: Config) -> float:
    """Seconds of sound after a frame of logits that decide on it."""
    half_window = cfg.spect.window_samples // 2 / cfg.spect.sample_rate
    return half_window + streaming.delay(cfg.model) * cfg.spect.stride_samples / cfg.spect.sample_rate


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Prints a line per case."""
    for found in results:
        console.print(
            f"streaming, {found['preset']}, lookahead {found['lookahead_context']}, one thread; "
            f"delay of the model {found['delay_seconds']:.2f} s"
        )
        for case in found["cases"]:
            console.print(
                f"  {1000 * case['block_seconds']:.0f} ms, batch {case['streams_in_batch']}: {case['streams']:.1f} "
                f"streams ({case['streams_per_core']:.1f} per core), text after {case['p50']:.2f} s, "
                f"p95 {case['p95']:.2f} s"
            )
