"""Clients that load a server: uploads one after another, streams at real-time pace; every answer is compared."""

import http.client
import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.int16]
_CHUNK_SECONDS = 0.1  # of a stream
_TIMEOUT = 600.0  # seconds that a client waits for an answer


class Sample(NamedTuple):
    """A recording and the text that every answer must have."""

    name: str
    pcm: Pcm  # [N], one channel
    rate: int  # samples per second
    text: str

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.pcm) / self.rate


class Answers(NamedTuple):
    """What clients were answered."""

    latencies: list[float]  # seconds, of answers with the expected text
    sound: float  # seconds of their recordings
    wall: float  # seconds from the first request to the last answer
    errors: list[str]  # answers with another status, and broken connections
    wrong: list[str]  # answers with another text


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile; NaN of no values.

    >>> percentile([1.0, 2.0, 3.0], 50)
    2.0
    """
    return float(np.percentile(values, percent)) if values else float("nan")


def upload_all(url: str, samples: Sequence[Sample], *, clients: int, seconds: float, key: str = "") -> Answers:
    """Lets clients upload recordings for a time, each the next one as soon as it is answered.

    Args:
      url: of the server.
      samples: each client begins at another place in their order.
      clients: number of threads.
      seconds: after this time no request begins; those that are under way are waited for.
      key: of the server.
    """
    begun, lock = time.monotonic(), threading.Lock()
    found = Answers([], 0.0, 0.0, [], [])
    sound = [0.0]

    def work(number: int) -> None:
        connection = Uploads(url, key)
        place = number * len(samples) // clients
        while time.monotonic() - begun < seconds:
            sample = samples[place % len(samples)]
            place += 1
            status, text, latency = connection.upload(sample)
            with lock:
                if status != 200:
                    found.errors.append(f"{sample.name}: {status} {text}")
                elif text != sample.text:
                    found.wrong.append(f"{sample.name}: {text!r} in place of {sample.text!r}")
                else:
                    found.latencies.append(latency)
                    sound[0] += sample.seconds

    _in_threads(work, clients)
    return found._replace(sound=sound[0], wall=time.monotonic() - begun)


class Uploads:
    """A connection that uploads recordings."""

    def __init__(self, url: str, key: str = "") -> None:
        """Connects at the first upload."""
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT)
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def upload(self, sample: Sample) -> tuple[int, str, float]:
        """Uploads a recording: status (0: none came), the text of the answer or an error, and the time, seconds."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        body = b"".join((head.encode(), wav(sample.pcm, sample.rate), f"\r\n--{boundary}--\r\n".encode()))
        headers = {**self._headers, "content-type": f"multipart/form-data; boundary={boundary}"}
        begun = time.monotonic()
        try:
            self._connection.request("POST", "/v1/audio/transcriptions", body, headers)
            answer = self._connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            return 0, f"{type(error).__name__}: {error}", time.monotonic() - begun
        text = content["text"] if answer.status == 200 else str(content.get("error"))
        return answer.status, text, time.monotonic() - begun


def stream_all(url: str, samples: Sequence[Sample], *, sessions: int, key: str = "") -> Answers:
    """Streams a recording in each session at real-time pace, all at the same time.

    Args:
      url: of the server.
      samples: those of the sessions, again from the first one if there are fewer.
      sessions: number of threads.
      key: of the server.

    Returns:
      The latencies are those from a chunk of 0.1 s to its answer, of every chunk.
    """
    begun, lock = time.monotonic(), threading.Lock()
    found = Answers([], 0.0, 0.0, [], [])

    def work(number: int) -> None:
        sample = samples[number % len(samples)]
        time.sleep(_CHUNK_SECONDS * number / sessions)  # microphones do not begin at one instant
        try:
            text, latencies = _stream(url, sample, key)
        except Exception as error:  # noqa: BLE001  it is counted
            with lock:
                found.errors.append(f"{sample.name}: {type(error).__name__}: {error}")
            return
        with lock:
            found.latencies.extend(latencies)
            if text != sample.text:
                found.wrong.append(f"{sample.name}: {text!r} in place of {sample.text!r}")

    _in_threads(work, sessions)
    sound = sum(samples[number % len(samples)].seconds for number in range(sessions))
    return found._replace(sound=sound, wall=time.monotonic() - begun)


def _stream(url: str, sample: Sample, key: str) -> tuple[str, list[float]]:
    """Streams a recording; returns its text, and the time from each chunk to its answer."""
    from websockets.sync.client import connect

    headers = {"authorization": f"Bearer {key}"} if key else {}
    texts, latencies = [], []
    size = round(_CHUNK_SECONDS * sample.rate)
    with connect(f"ws{url.removeprefix('http')}/v1/stream", additional_headers=headers) as connection:
        connection.send(json.dumps({"config": {"sample_rate": sample.rate}}, allow_nan=False))
        begun = time.monotonic()
        for place, begin in enumerate(range(0, len(sample.pcm), size), start=1):
            time.sleep(max(0.0, begun + place * _CHUNK_SECONDS - time.monotonic()))  # it has been spoken by then
            due = begun + place * _CHUNK_SECONDS
            connection.send(sample.pcm[begin : begin + size].astype("<i2").tobytes())
            texts.append(json.loads(connection.recv(_TIMEOUT)).get("text", ""))
            latencies.append(time.monotonic() - due)
        connection.send('{"eof" : 1}')
        texts.append(json.loads(connection.recv(_TIMEOUT)).get("text", ""))
    return " ".join(text for text in texts if text), latencies


def wav(pcm: Pcm, rate: int) -> bytes:
    """A WAV file."""
    import wave

    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.astype("<i2").tobytes())
    return content.getvalue()


def _in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
