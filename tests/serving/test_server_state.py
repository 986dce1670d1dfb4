"""What operators ask a running server: health, readiness, metrics, the document, the log."""

import shutil
import subprocess
import time

import httpx
import pytest
from serving_process import wav


@pytest.fixture(scope="module")
def get(server):
    with httpx.Client(base_url=server.url) as client:
        client.post("/transcribe", files={"file": ("a.wav", wav(1))})
        yield client.get


def test_the_server_is_alive_and_ready(get):
    assert (get("/health").status_code, get("/health").text) == (200, "ok\n")
    assert (get("/ready").status_code, get("/ready").text) == (200, "ready\n")


def test_metrics_count_requests_batches_and_time(get):
    text = get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['ds2f_requests_total{route="/transcribe",status="200"}']) >= 1
    assert float(values["ds2f_queue_recordings"]) == 0
    assert float(values["ds2f_batch_pieces_count"]) >= 1
    assert float(values['ds2f_device_seconds_total{work="recordings"}']) > 0
    assert float(values['ds2f_sound_seconds_total{work="recordings"}']) >= 1
    for name in ("queue_wait_seconds_count", "batch_padding_frames_total", "sessions", "batch_frames_total"):
        assert f"ds2f_{name}" in values
    get("/no/such/path/1")
    get("/no/such/path/2")
    assert 'ds2f_requests_total{route="other",status="404"} ' in get("/metrics").text, "one name for all other paths"


def test_promtool_accepts_the_metrics(get):
    if not shutil.which("promtool"):
        pytest.skip("needs promtool, of Debian's package prometheus")
    checked = subprocess.run(["promtool", "check", "metrics"], input=get("/metrics").content, capture_output=True)
    assert (checked.returncode, checked.stderr, checked.stdout) == (0, b"", b"")


def test_the_document_is_served_with_its_assets_and_names_no_other_origin(get):
    assert "/v1/audio/transcriptions" in get("/openapi.json").json()["paths"]
    page = get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for asset in ("/page/docs.js", "/page/docs.css"):
        assert f'"{asset.removeprefix("/")}"' in page.text, "relative: a proxy may put the server in a folder"
        assert get(asset).status_code == 200
    assert "://" not in page.text + get("/page/docs.js").text + get("/page/docs.css").text
    assert get("/page/../server.py").status_code == 404
    assert get("/page/%2e%2e/server.py").status_code == 404


def test_every_request_has_an_id_and_a_line_in_the_log(get, server):
    answer = get("/health", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    forged = get("/health?key=secret", headers={"x-request-id": 'a"b c'})
    identity = forged.headers["x-request-id"]
    assert len(identity) == 32
    end, lines = time.monotonic() + 10, {}
    while identity not in lines and time.monotonic() < end:  # a line follows the answer
        lines = {line["id"]: line for line in server.access}
    assert (lines["mine-1"]["path"], lines["mine-1"]["status"]) == ("/health", 200)
    assert "secret" not in str(lines[identity])
    assert set(lines[identity]) == {"time", "id", "client", "method", "path", "status", "seconds", "received"}


def test_errors_of_http_have_the_shape_of_openais(get):
    for path, status, code in (("/nothing", 404, "not_found"), ("/transcribe", 405, "method_not_allowed")):
        answer = get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert "GET /docs lists" in answer.json()["error"]["message"]
