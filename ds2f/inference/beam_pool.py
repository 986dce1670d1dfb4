"""Beam search over several utterances at a time, in processes: flashlight-text holds Python's lock."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from ds2f import decode
from ds2f.config import BeamConfig
from ds2f.decode import Decoder, HotWords, Hypothesis, LanguageModel
from ds2f.errors import WorkerDied
from ds2f.processes import die_with_parent
from ds2f.types import Logits

_LEFT_TO_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # which a terminal sends to every process
_opened: list[tuple[Sequence[str], LanguageModel | None]] = []  # in a worker: its pool's


class BeamPool:
    """Processes that search. The results are those of ``decode.beam``, in its order.

    The processes are forked, so that all share the memory of one language model: make the pool in the main thread,
    before a device is opened and before other threads start. Leave it as a context; an exception, Ctrl-C among them,
    ends searches at once.

    >>> with BeamPool(labels, lm, workers=8) as pool:  # doctest: +SKIP
    ...     recognizer = Recognizer(cfg, params, stats, backend=backend, decoder=pool.best(lm_cfg), decoding=8)
    """

    def __init__(self, labels: Sequence[str], lm: LanguageModel | None = None, *, workers: int) -> None:
        """Starts the processes; a single worker is this process itself.

        Args:
          labels: of the logits to decode.
          lm: the language model of all searches; None: none.
          workers: number of processes.
        """
        self.workers = workers
        self._labels, self._lm = labels, lm
        self._executor: ProcessPoolExecutor | None = None
        self._processes: set[BaseProcess] = set()
        if workers > 1:
            others = set(multiprocessing.active_children())
            context = multiprocessing.get_context("fork")
            self._executor = ProcessPoolExecutor(workers, context, _begin, (os.getpid(), labels, lm))
            self._executor.submit(os.getpid).result()  # starts all
            self._processes = set(multiprocessing.active_children()) - others

    def __enter__(self) -> "BeamPool":
        """The pool itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the processes."""
        if self._executor is None:
            return
        if kind is not None:
            for process in self._processes:
                process.kill()
            # The executor's thread that writes logits to the processes waits without end for a killed one to read them
            # (CPython's issue 94777, mended in 3.11.5), unless nobody can: then its write ends.
            self._executor._call_queue._reader.close()  # type: ignore[attr-defined]
        self._executor.shutdown(cancel_futures=True)

    def beam(
        self,
        logits: Logits,
        labels: Sequence[str],
        *,
        cfg: BeamConfig,
        hot_words: HotWords | None = None,
        most: int | None = None,
    ) -> list[list[Hypothesis]]:
        """``decode.beam`` with the pool's language model, if ``cfg`` names one.

        Args:
          logits: values [B, T', V] float, unnormalised; lengths [B] int64 on the CPU, frames.
          labels: as given to the pool.
          cfg: beam size and weights.
          hot_words: made for the same labels, others in every call if need be; None: none.
          most: hypotheses of an utterance; None: all.

        Raises:
          InputError: as ``decode.beam``.
          WorkerDied: a process ended, most likely for lack of memory.
        """
        if self._executor is None:
            lm = self._lm if cfg.path else None
            return [found[:most] for found in decode.beam(logits, labels, cfg=cfg, lm=lm, hot_words=hot_words)]
        if labels != self._labels:
            raise ValueError("the pool was made for other labels")
        rows = logits.values.float().cpu()
        try:
            searches = [
                self._executor.submit(_search, row[:length].numpy().copy(), cfg, hot_words, most)
                for row, length in zip(rows, logits.lengths.tolist(), strict=True)
            ]
            return [search.result() for search in searches]
        except BrokenProcessPool as error:
            raise WorkerDied(
                f"one of {self.workers} processes of the beam search was killed, as the kernel does when memory runs "
                "out; take fewer, --lm.workers=1"
            ) from error

    def best(self, cfg: BeamConfig, *, hot_words: HotWords | None = None) -> Decoder:
        """A decoder that returns the best hypothesis of ``beam``."""

        def decode_best(logits: Logits, labels: Sequence[str], /) -> list[Hypothesis]:
            return [found[0] for found in self.beam(logits, labels, cfg=cfg, hot_words=hot_words, most=1)]

        return decode_best


def _begin(parent: int, labels: Sequence[str], lm: LanguageModel | None) -> None:
    """Prepares a worker: it ends with its parent, which alone decides what a signal ends."""
    for number in _LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(parent)
    torch.set_num_threads(1)  # a fork has none of the threads that OpenMP would count on
    _opened.append((labels, lm))


def _search(
    values: NDArray[np.float32], cfg: BeamConfig, hot_words: HotWords | None, most: int | None
) -> list[Hypothesis]:
    """Searches one utterance in a worker, ``values`` [T', V]."""
    labels, lm = _opened[0]
    logits = Logits(torch.from_numpy(values)[None], torch.tensor([len(values)]))
    return decode.beam(logits, labels, cfg=cfg, lm=lm if cfg.path else None, hot_words=hot_words)[0][:most]
