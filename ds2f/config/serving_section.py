"""Section of the server: limits, each with the answer to a client that passes it, and batching."""

import attrs

from ds2f.config.settings import setting, within


@attrs.frozen(kw_only=True)
class ServingConfig:
    """Limits and batching of the server: section ``serving`` of ``launch.serve``, no part of ``Config``.

    >>> ServingConfig(queue=10).queue
    10
    """

    wait_ms: float = setting(
        10.0, "Longest time that a piece waits for others of like length to share its batch, ms.", within(0, 10_000)
    )
    batch_frames: int = setting(
        12_000, "Frames of the spectrogram in a batch, padding included, at most; 1: no batches.", within(1, 12_000)
    )
    queue: int = setting(
        100, "Recordings that wait or are transcribed, at most; the next one is answered 429.", within(1, 1_000_000)
    )
    sessions: int = setting(50, "Streaming sessions, at most; the next one is answered 503.", within(0, 1_000_000))
    connections: int = setting(
        1000, "Open connections of a process, at most; a request on another one is answered 503.", within(1, 1_000_000)
    )
    upload_mb: float = setting(
        200.0, "Size of a request, MB (10^6 bytes); a larger one is answered 413.", within(0, 1e6, open_low=True)
    )
    spool_mb: float = setting(
        2000.0,
        "Size of all requests that are held in memory and in temporary files, MB; beyond it, the answer is 429.",
        within(0, 1e7, open_low=True),
    )
    hours: float = setting(
        2.0, "Duration of a recording, hours; a longer one is answered 413.", within(0, 1000, open_low=True)
    )
    seconds: float = setting(
        600.0,
        "Time from the end of an upload to its answer, seconds; after it, the answer is 504.",
        within(0, 1e6, open_low=True),
    )
    receive_seconds: float = setting(
        120.0,
        "Time to send the body of a request, seconds; after it, the answer is 408.",
        within(0, 1e6, open_low=True),
    )
    header_seconds: float = setting(
        10.0,
        "Time to send the headers of a request, seconds; after it, the connection is closed.",
        within(0, 1e6, open_low=True),
    )
    idle_seconds: float = setting(
        60.0,
        "Time between two messages of a streaming session, seconds; after it, the session ends.",
        within(0, 1e6, open_low=True),
    )
    stream_block: float = setting(
        0.32,
        "Seconds of sound of a streaming session that are computed at once; more cost less and come later.",
        within(0.01, 60),
    )
    ready_seconds: float = setting(
        10.0,
        "Age of the last inference, seconds, up to which GET /ready answers without another one; also the time that "
        "another one may take.",
        within(0, 3600, open_low=True),
    )
