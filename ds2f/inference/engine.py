"""What computes a model: torch with a run's weights, or a program that was exported from them.

``Recognizer``, ``Session``, the server and the evaluation give an engine features and decode its logits; which engine
it is, they do not know. Engines of exported models are in ``ds2f.export``.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ds2f import tree
from ds2f.config import Config, SpectConfig
from ds2f.errors import InputError
from ds2f.inference import stream
from ds2f.inference.stream import StreamState
from ds2f.runner.device.backend import Backend
from ds2f.steps import eval_step
from ds2f.types import Batch, Logits, Params, Stats


class Engine(Protocol):
    """Computes a model: logits of whole pieces, and blocks of streams."""

    @property
    def name(self) -> str:
        """The engine's name in messages: ``torch``, ``onnx``."""

    @property
    def longest(self) -> int | None:
        """Frames of features that an utterance of ``logits`` may have at most; None: any number."""

    def logits(self, batch: Batch, /) -> Logits:
        """Computes utterances from their beginnings to their ends: a ``ds2f.types.Forward``.

        Args:
          batch: on the CPU; labels, ids and weight are not read.

        Returns:
          The logits, or log-probabilities, on any device; lengths on the CPU.

        Raises:
          InputError: an utterance has more frames than ``longest`` (``require_short``).
        """

    def begin(self, *, streams: int = 1, block: int = 16) -> StreamState:
        """The state of streams before their first sample, as ``stream.init``.

        Args:
          streams: number of streams, which then advance by equal numbers of samples.
          block: frames of logits that are computed at once.

        Raises:
          InputError: the model cannot stream, or not in such blocks.
        """

    def advance(self, states: Sequence[StreamState], /) -> tuple[list[StreamState], list[Tensor]]:
        """Computes the next block of streams that are ready, as ``stream.advance``.

        Args:
          states: at least one, all of the same ``block``.

        Returns:
          The next states, and the logits of each [B, T', V].
        """


class TorchEngine:
    """A model of torch on a device."""

    name = "torch"
    longest: int | None = None

    def __init__(self, cfg: Config, params: Params, stats: Stats, *, backend: Backend) -> None:
        """Moves the weights to the backend's device.

        Args:
          cfg: the configuration of the run.
          params: parameters.
          stats: running statistics.
          backend: the device, and the dtypes of the forward pass (section ``apex``).
        """
        self._cfg, self._backend, self._policy = cfg, backend, backend.policy(cfg.apex)
        self._params, self._stats = tree.to(params, backend.device), tree.to(stats, backend.device)

    def logits(self, batch: Batch, /) -> Logits:
        """As of ``Engine``; the logits are on the backend's device."""
        placed = self._backend.place(batch)
        return eval_step(self._params, self._stats, placed, cfg=self._cfg.model, policy=self._policy)[0]

    def begin(self, *, streams: int = 1, block: int = 16) -> StreamState:
        """As of ``Engine``.

        Raises:
          InputError: the model is bidirectional.
        """
        return stream.init(self._cfg, self._stats, streams=streams, block=block, policy=self._policy)

    def advance(self, states: Sequence[StreamState], /) -> tuple[list[StreamState], list[Tensor]]:
        """As of ``Engine``."""
        with torch.no_grad():
            return stream.advance(self._params, self._stats, states, cfg=self._cfg, policy=self._policy)


def can_stream(engine: Engine, *, block: int = 16) -> bool:
    """Whether the engine computes streams in blocks of so many frames of logits."""
    try:
        engine.begin(block=block)
    except InputError:
        return False
    return True


def longest_seconds(longest: int | None, spect: SpectConfig) -> float:
    """The longest recording of at most so many frames, seconds; infinite for None, where there is no limit."""
    return float("inf") if longest is None else (longest - 1) * spect.stride_samples / spect.sample_rate


def require_short(frames: int, longest: int | None, spect: SpectConfig, *, label: str = "") -> None:
    """Refuses an utterance that is too long for a model of fixed shapes.

    Args:
      frames: of its features.
      longest: of the engine.
      spect: the ``spect`` section, for times in the message.
      label: of the recording, if it is known.

    Raises:
      InputError: it is longer.
    """
    if longest is not None and frames > longest:
        here, most = (count * spect.stride_samples / spect.sample_rate for count in (frames, longest))
        raise InputError(
            f"{label}{': ' * bool(label)}{frames} frames of features ({here:.2f} s) in one piece, and the exported "
            f"model takes {longest} ({most:.2f} s): give shorter pieces, or export the run with longer --shapes, or "
            "without them"
        )
