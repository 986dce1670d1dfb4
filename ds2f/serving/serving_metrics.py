"""What the server counts, for Prometheus: GET /metrics."""

import os
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from ds2f.serving.worker_processes import MULTIPROCESS

FRAME_SECONDS = 0.01  # of the spectrogram, where a metric counts sound
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class ServingMetrics:
    """The metrics of one server process; those of several processes are summed where ``MULTIPROCESS`` is set."""

    def __init__(self) -> None:
        """Registers the metrics."""
        self._shared = bool(os.environ.get(MULTIPROCESS))
        own = CollectorRegistry()
        self._registry = own
        self.requests = Counter("ds2f_requests", "Requests that were answered.", ("route", "status"), registry=own)
        self.request_seconds = Histogram(
            "ds2f_request_seconds", "Time from a request to its answer.", ("route",), buckets=_SECONDS, registry=own
        )
        self.waiting = Gauge(
            "ds2f_queue_recordings",
            "Recordings that wait or are transcribed.",
            multiprocess_mode="livesum",
            registry=own,
        )
        self._wait = Histogram(
            "ds2f_queue_wait_seconds", "Time that pieces of recordings wait.", buckets=_SECONDS, registry=own
        )
        self._sizes = Histogram(
            "ds2f_batch_pieces", "Pieces in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=own
        )
        self._frames = Counter("ds2f_batch_frames", "Frames of the spectrogram in batches.", registry=own)
        self._padding = Counter("ds2f_batch_padding_frames", "Frames of padding in batches.", registry=own)
        self._device = Counter("ds2f_device_seconds", "Time that the device computed.", ("work",), registry=own)
        self._sound = Counter("ds2f_sound_seconds", "Sound that was computed.", ("work",), registry=own)
        self._factor = Histogram(
            "ds2f_real_time_factor",
            "Time that the device computed, divided by the duration of the sound, of a batch or step.",
            ("work",),
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
            registry=own,
        )
        self.sessions = Gauge(
            "ds2f_sessions", "Streaming sessions that are open.", multiprocess_mode="livesum", registry=own
        )

    def batch(self, pieces: Sequence[tuple[int, float]], *, seconds: float) -> None:
        """Counts a batch.

        Args:
          pieces: frames of the spectrogram, and the time in the queue, seconds.
          seconds: that the device computed.
        """
        filled, padded = sum(frames for frames, _ in pieces), max(frames for frames, _ in pieces) * len(pieces)
        for _, waited in pieces:
            self._wait.observe(waited)
        self._sizes.observe(len(pieces))
        self._frames.inc(filled)
        self._padding.inc(padded - filled)
        self._work("recordings", filled * FRAME_SECONDS, seconds)

    def step(self, *, sound: float, seconds: float) -> None:
        """Counts a step of streaming sessions: seconds of sound, and those that the device computed."""
        self._work("sessions", sound, seconds)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        if not self._shared:
            return generate_latest(self._registry)
        summed = CollectorRegistry()
        MultiProcessCollector(summed)
        return generate_latest(summed)

    def _work(self, work: str, sound: float, seconds: float) -> None:
        self._device.labels(work).inc(seconds)
        self._sound.labels(work).inc(sound)
        self._factor.labels(work).observe(seconds / sound)
