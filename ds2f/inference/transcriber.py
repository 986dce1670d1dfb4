"""Transcription of recordings with a trained model."""

from pathlib import Path

import torch

from ds2f import decode, features, tree
from ds2f.config import Config
from ds2f.data import audio
from ds2f.decode import Decoder, Hypothesis
from ds2f.runner.device.backend import Backend
from ds2f.steps import eval_step
from ds2f.types import Batch, Params, Stats


class Transcriber:
    """A trained model on a device; ``transcribe`` decodes a recording at a time."""

    def __init__(
        self, cfg: Config, params: Params, stats: Stats, *, backend: Backend, decoder: Decoder = decode.greedy
    ) -> None:
        """Moves the model to the backend's device.

        Args:
          cfg: the configuration of the run that trained the model.
          params: parameters.
          stats: running statistics.
          backend: the device, and the dtypes of the forward pass (section ``apex``).
          decoder: turns logits into hypotheses.
        """
        self._cfg, self._backend, self._decoder = cfg, backend, decoder
        self._params, self._stats = tree.to(params, backend.device), tree.to(stats, backend.device)
        self._policy = backend.policy(cfg.apex)

    def transcribe(self, path: Path | str) -> Hypothesis:
        """Transcribes a recording in one piece.

        Args:
          path: an audio file in a format of soundfile, of any sampling rate and number of channels.

        Returns:
          The hypothesis of the decoder.

        Raises:
          InputError: if the file cannot be read as audio, or is longer than ``data.max_recording_seconds``.
        """
        limit = self._cfg.data.max_recording_seconds
        samples = audio.load(Path(path), sample_rate=self._cfg.spect.sample_rate, max_seconds=limit).samples
        spectrogram = features.log_spectrogram(torch.from_numpy(samples), self._cfg.spect)
        batch = Batch(
            features=spectrogram[None],
            lengths=torch.tensor([spectrogram.shape[-1]]),
            labels=torch.zeros(1, 1, dtype=torch.int64),
            label_lengths=torch.zeros(1, dtype=torch.int64),
            ids=torch.zeros(1, dtype=torch.int64),
            weight=torch.ones(()),
        )
        logits, _ = eval_step(
            self._params, self._stats, self._backend.place(batch), cfg=self._cfg.model, policy=self._policy
        )
        return self._decoder(logits, self._cfg.model.labels)[0]
