"""How a server ends: what was accepted is answered; several processes; a start after a kill."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from serving_process import recognizer, serving, wav, write_run
from speaking_model import RATE, sound
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from ds2f.serving.worker_processes import MULTIPROCESS, shared_counts

CLIENTS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("end")
    write_run(folder / "run")
    return folder


def expected(seeds):
    shared = recognizer()
    return {seed: shared.transcribe(io.BytesIO(wav(3 + seed % 3, seed))).text for seed in seeds}


def send_until_it_ends(url, seed, texts, told):
    """Sends one recording again and again until the server is gone; notes every answer."""
    with httpx.Client(timeout=30) as client:
        while True:
            try:
                answer = client.post(f"{url}/transcribe", files={"file": ("a", wav(3 + seed % 3, seed))})
            except httpx.ConnectError:
                return
            except httpx.TransportError as error:  # the request was accepted and not answered
                told.append(repr(error))
                return
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "shutting_down"
                return
            told.append((answer.status_code, answer.json().get("transcription") == [[texts[seed]]]))


def test_a_signal_under_load_loses_no_answer(folder):
    texts = expected(range(CLIENTS))
    assert len(set(texts.values())) == CLIENTS
    with serving(folder, "--noaccess_log") as server:
        told = []
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            with connect(f"{server.url.replace('http', 'ws')}/v1/stream") as stream:
                stream.send(json.dumps({"config": {"sample_rate": RATE}}))
                stream.send((sound(4) * 32767).clip(-32768, 32767).astype("<i2").tobytes())
                first = json.loads(stream.recv(timeout=30))
                sending = [pool.submit(send_until_it_ends, server.url, seed, texts, told) for seed in range(CLIENTS)]
                while len(told) < 2 * CLIENTS:
                    time.sleep(0.02)
                server.process.send_signal(signal.SIGTERM)
                last = json.loads(stream.recv(timeout=30))
                with pytest.raises(ConnectionClosed) as closed:
                    stream.recv(timeout=30)
            for each in sending:
                each.result(60)
        assert server.process.wait(30) == 0
        assert set(told) == {(200, True)}
        assert last["text"] or first["text"]
        assert closed.value.rcvd.code in (1001, 1012)
        assert "Traceback" not in server.log


def test_after_a_kill_it_starts_again(folder):
    with serving(folder) as server:
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(10)
    with serving(folder) as server:
        assert httpx.get(f"{server.url}/ready").status_code == 200
        assert server.stop() == 0


def test_processes_share_an_address_and_their_counts_and_are_replaced(folder):
    texts = expected([0])
    with serving(folder, "--workers=2") as server:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(httpx.post, f"{server.url}/transcribe", files={"file": ("a", wav(3, 0))}, timeout=60)
                     for _ in range(20)]  # fmt: skip
            assert all(each.result().json()["transcription"] == [[texts[0]]] for each in asked)
        text = httpx.get(f"{server.url}/metrics").text
        counted = [line for line in text.splitlines() if line.startswith('ds2f_requests_total{route="/transcribe"')]
        assert sum(float(line.rpartition(" ")[2]) for line in counted) == 20
        workers = children(server.process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        end = time.monotonic() + 60
        while set(children(server.process.pid)) & {workers[0]} or len(children(server.process.pid)) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "another takes its place" in server.log
        assert httpx.post(f"{server.url}/transcribe", files={"file": ("a", wav(3, 0))}, timeout=60).status_code == 200
        assert server.stop(60) == 0
        assert children(server.process.pid) == []


ENTER = """
import os, time
from ds2f.serving.worker_processes import MULTIPROCESS, shared_counts
with shared_counts():
    if not os.fork():  # a server process
        print(os.environ[MULTIPROCESS], flush=True)
    time.sleep(60)
"""


def test_a_start_removes_the_folders_of_killed_servers_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(MULTIPROCESS, "")
    (tmp_path / "mine").mkdir()
    (tmp_path / "ds2f-metrics-link").symlink_to(tmp_path / "mine", target_is_directory=True)
    (tmp_path / "ds2f-metrics-file").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", ENTER], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    used = Path(process.stdout.readline().strip())
    (used / "counter_1.db").touch()
    worker = children(process.pid)[0]
    process.kill()
    process.wait()
    with shared_counts():
        assert used.exists(), "a process of it still runs"
        os.kill(worker, signal.SIGKILL)
        process.stdout.read()  # until the worker has ended
        own = Path(os.environ[MULTIPROCESS])
        with shared_counts():
            assert not used.exists()
            assert own.exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ds2f-metrics-file", "ds2f-metrics-link", "mine"]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_while_a_server_ends_no_connection_waits_for_nobody(folder, workers):
    head = b"POST /transcribe HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    with serving(folder, f"--workers={workers}", "--serving.receive_seconds=3") as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as held:
            held.sendall(head + b"content-length: 1000\r\n\r\n--b\r\n")
            time.sleep(0.3)  # until it is accepted
            server.process.send_signal(signal.SIGTERM)
            time.sleep(1.0)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{server.url}/health", timeout=1)
            assert held.recv(1000).startswith(b"HTTP/1.1 408"), "what was accepted is answered"
        assert server.process.wait(30) == 0


def children(pid):
    """Processes whose parent is ``pid``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return sorted(found)
