"""Our training step, the program that ``launch.train`` runs, with the state that it goes on from."""

from torch import Tensor

from ds2f import convert, rng
from ds2f.config import Config
from ds2f.runner import program
from ds2f.runner.device.backend import Backend
from ds2f.runner.spans import Spans
from ds2f.types import Batch


class Ours:
    """A program and its state."""

    def __init__(self, cfg: Config, backend: Backend, *, spans: Spans | None = None) -> None:
        """Makes the first state.

        Args:
          cfg: a resolved configuration.
          backend: the device.
          spans: records where every step spends its time.
        """
        self._program, self._spans, self._taken = program.build(cfg, backend), spans, 0
        self._state = backend.place_state(self._program.init())

    def step(self, batch: Batch) -> Tensor:
        """Takes a training step and returns the mean loss of the batch before it, natural log."""
        key = rng.fold_in(self._program.cfg.training.seed, "step", self._taken)
        self._state, metrics = self._program.step(self._state, [batch], key=key, spans=self._spans)
        self._taken += 1
        return metrics.loss

    def weights(self) -> dict[str, Tensor]:
        """Parameters and statistics under deepspeech.pytorch's names, copied to the CPU."""
        return convert.to_reference(self._program.cfg.model, self._state.params, self._state.stats)
