"""Every limit of the server, its answer and its reason; connections that are slow, broken or leave."""

import contextlib
import io
import json
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile
from serving_process import recognizer, serving, wav, write_run
from speaking_model import RATE
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

KEY = "a-key-of-this-server"
SHORT = 1.0  # seconds: waits for others
LONG = 6.0  # seconds: fills a batch, and is computed at once
LIMITS = (
    *("--serving.queue=3", "--serving.sessions=2", "--serving.wait_ms=3000", "--serving.batch_frames=1000"),
    *("--serving.upload_mb=0.5", "--serving.spool_mb=0.6", "--serving.hours=0.01", "--serving.seconds=1.5"),
    *("--serving.receive_seconds=1", "--serving.header_seconds=1", "--serving.idle_seconds=1"),
    "--serving.connections=25",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with tight limits, in which a short recording waits until its time is over."""
    folder = tmp_path_factory.mktemp("limits")
    write_run(folder / "run")
    (folder / "keys").write_text(f"# clients\n{KEY}\nanother-key-of-a-client\n")
    with serving(folder, *LIMITS, "--api_keys=keys") as running:
        yield running


@pytest.fixture
def post(server):
    def send(content, **options):
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.post(
            f"{server.url}/transcribe", files={"file": ("a", content)}, headers=headers, timeout=30, **options
        )

    return send


def refused(answer, status, code):
    """Whether an answer has a status and the reason in OpenAI's shape."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    return answer


def metric(server, name, otherwise=None):
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    assert otherwise is not None, name
    return otherwise


def raw(server, content, *, seconds=10.0, pause=0.0):
    """What comes back for bytes, until the server closes the connection."""
    address = urlsplit(server.url)
    answer = b""
    with socket.create_connection((address.hostname, address.port), timeout=seconds) as connection:
        for part in content:
            connection.sendall(part)
            time.sleep(pause)
        while block := connection.recv(65536):
            answer += block
    return answer


def test_a_recording_within_the_limits_is_transcribed(post):
    expected = recognizer().transcribe(io.BytesIO(wav(LONG))).text
    assert post(wav(LONG)).json()["transcription"] == [[expected]]


def test_a_client_needs_a_key(server):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}, {"authorization": KEY}):
        answer = httpx.post(f"{server.url}/transcribe", files={"file": ("a", wav(LONG))}, headers=headers)
        refused(answer, 401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    assert httpx.get(f"{server.url}/health").status_code == 200
    with pytest.raises(InvalidStatus) as error:
        connect(f"{server.url.replace('http', 'ws')}/v1/stream")
    assert error.value.response.status_code == 401
    assert KEY not in server.log


def test_too_many_bytes_are_refused_by_their_number_and_while_they_come(server, post):
    refused(post(bytes(600_000)), 413, "too_large")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [bytes(100_000)] * 10)
    head = f"POST /transcribe HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\n".encode()
    form = b"content-type: multipart/form-data; boundary=b\r\ntransfer-encoding: chunked\r\n\r\n"
    begin = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    answer = raw(server, [head + form, b"%x\r\n%s\r\n" % (len(begin), begin), chunks, b"0\r\n\r\n"])
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_too_long_a_recording_is_refused_by_its_header(post):
    content = io.BytesIO()
    soundfile.write(content, np.zeros(int(40 * RATE)), RATE, format="FLAC")
    refused(post(content.getvalue()), 413, "recording_too_long")


def test_a_full_queue_is_answered_with_the_time_to_try_again(post, server):
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(post, wav(SHORT, seed)) for seed in range(3)]
        while metric(server, "ds2f_queue_recordings") < 3:
            time.sleep(0.02)
        answer = refused(post(wav(SHORT)), 429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert httpx.get(f"{server.url}/ready").status_code == 503
        for each in waiting:
            refused(each.result(), 504, "timeout")
    assert metric(server, "ds2f_queue_recordings") == 0, "what is over leaves the queue"


def test_a_client_that_leaves_frees_its_place(server):
    body = httpx.Request("POST", f"{server.url}/transcribe", files={"file": ("a", wav(SHORT))})
    head = f"POST /transcribe HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n"
    head += f"content-type: {body.headers['content-type']}\r\ncontent-length: {len(body.read())}\r\n\r\n"
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + body.content)
        while metric(server, "ds2f_queue_recordings") < 1:
            time.sleep(0.02)
        left = time.monotonic()
    while metric(server, "ds2f_queue_recordings") > 0:
        time.sleep(0.02)
    assert time.monotonic() - left < 1.0, "not only once its time is over"


@pytest.mark.parametrize("abruptly", [False, True])
@pytest.mark.parametrize(
    "sent",
    [b"", b"--b\r\n", b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(90_000)],
)
@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions"])
def test_an_upload_that_its_client_cancels_is_no_failure_of_the_server(server, path, sent, abruptly):
    name = f'ds2f_requests_total{{route="{path}",status="499"}}'
    before = metric(server, name, 0.0)
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\ncontent-length: 100000\r\n"
    head += "content-type: multipart/form-data; boundary=b\r\n\r\n"
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + sent)
        if abruptly:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.1)
    end = time.monotonic() + 10
    while metric(server, name, 0.0) == before:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert "Traceback" not in server.log


def test_uploads_share_a_limit_of_bytes(server):
    head = f"POST /transcribe HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\ncontent-length: 400000\r\n"
    head += "content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    begun = [head.encode() + b'content-disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(350_000)]
    with ThreadPoolExecutor(2) as pool:
        answers = [each.result() for each in [pool.submit(raw, server, begun) for _ in range(2)]]
    assert sorted(answer.split()[1] for answer in answers) == [b"408", b"429"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health HTTP/1.1\r\nx: ",
        b"GET /health HTTP/1.1\r\nhost: a\r\n\r\nGET /hea",  # the second one of a connection
    ],
)
def test_headers_that_do_not_come_end_the_connection(server, sent):
    begun = time.monotonic()
    raw(server, [sent])
    assert time.monotonic() - begun < 5


def test_headers_that_drip_end_the_connection(server):
    begun = time.monotonic()
    with pytest.raises(OSError, match=r"reset|pipe"):
        raw(server, [b"GET /health HTTP/1.1\r\n", *[b"x: y\r\n"] * 100], pause=0.1)
    assert time.monotonic() - begun < 5


def test_a_body_that_does_not_come_is_answered(server):
    head = f"POST /transcribe HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\ncontent-length: 400\r\n"
    answer = raw(server, [head.encode() + b"content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"])
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("count", [200, 10_000])
def test_too_many_headers_are_refused(server, count):
    headers = b"".join(b"x%d: y\r\n" % number for number in range(count))
    answer = raw(server, [b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n" + headers + b"\r\n"])
    assert answer.split()[1] in (b"431", b"400")


def test_sessions_are_limited_and_end_when_they_are_idle(server):
    url, key = f"{server.url.replace('http', 'ws')}/v1/stream", {"authorization": f"Bearer {KEY}"}
    with connect(url, additional_headers=key) as first, connect(url, subprotocols=["ds2f", f"key.{KEY}"]) as second:
        assert second.subprotocol == "ds2f"
        with pytest.raises(InvalidStatus) as error:
            connect(url, additional_headers=key)
        assert error.value.response.status_code == 503
        assert json.loads(error.value.response.body)["error"]["code"] == "sessions_full"
        with pytest.raises(ConnectionClosed) as closed:
            first.recv(timeout=10)
        assert "no message" in closed.value.rcvd.reason
    while metric(server, "ds2f_sessions") > 0:
        time.sleep(0.02)


def test_connections_are_limited(server):
    address = urlsplit(server.url)
    with contextlib.ExitStack() as opened:
        others = [opened.enter_context(socket.create_connection((address.hostname, address.port))) for _ in range(25)]
        for path in ("/metrics", "/v1/models", "/nothing"):
            answer = refused(httpx.get(f"{server.url}{path}"), 503, "connections_full")
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["connection"] == "close"
        head = b"POST /transcribe HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
        answer = raw(server, [head])  # its body does not come before an answer
        assert (answer.split()[1], answer.count(b"connection: close")) == (b"503", 1)
        with pytest.raises(InvalidStatus) as error:
            connect(f"{server.url.replace('http', 'ws')}/v1/stream", subprotocols=["ds2f", f"key.{KEY}"])
        assert json.loads(error.value.response.body)["error"]["code"] == "connections_full"
        assert httpx.get(f"{server.url}/ready").status_code == 503
        assert httpx.get(f"{server.url}/health").status_code == 200, "the process is alive"
        others.pop().close()
        until_metrics_answer(server)
    until_metrics_answer(server)


def until_metrics_answer(server, seconds=10):
    """Waits until there is a connection to be had."""
    end = time.monotonic() + seconds
    while httpx.get(f"{server.url}/metrics").status_code != 200:
        assert time.monotonic() < end


def wav_header(*, channels=1, rate=RATE, bits=16, size=0xFFFFFFF0):
    width = channels * bits // 8
    body = struct.pack("<HHIIHH", 1, channels, rate, min(rate * width, 2**32 - 1), width % 65536, bits)
    return (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + body
        + b"data"
        + struct.pack("<I", size)
    )


@pytest.mark.parametrize(
    "content",
    [
        wav_header(size=50_000) + bytes(100),
        wav_header(channels=1024, rate=1_000_000) + bytes(5000),
        wav_header(channels=65535) + bytes(100),
        wav_header(rate=0) + bytes(100),
        wav_header(bits=0) + bytes(100),
        b"fLaC\x00\x00\x00\x22" + b"\x10\x00\x10\x00" + bytes(6) + b"\x0a\xc4\x42\xff\xff\xff\xff\xff" + bytes(16),
        b"OggS" + b"\xff" * 1000,
        b"NIST_1A\n   1024\nsample_count -i 99999999999999\nend_head\n" + bytes(1000),
        b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(1000),
        np.full(2000, np.nan, np.float32).tobytes(),
    ],
    ids=["size", "rate", "channels", "no rate", "no bits", "flac", "ogg", "sphere", "mp3", "nan"],
)
def test_headers_that_promise_the_impossible_are_refused(post, content):
    answer = post(content)
    assert answer.status_code in (413, 415, 422)
    assert answer.json()["error"]["param"] == "file"


def test_it_goes_on_after_all_of_this(server, post):
    expected = recognizer().transcribe(io.BytesIO(wav(LONG, 5))).text
    assert post(wav(LONG, 5)).json()["transcription"] == [[expected]]
    assert "Traceback" not in server.log
